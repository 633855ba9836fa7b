"""Ids that sort by the time they were made."""

from __future__ import annotations

from uuid_utils import uuid7


def new_id() -> str:
    """Return a new UUIDv7 as text; within one process each is larger than the one before."""
    return str(uuid7())
