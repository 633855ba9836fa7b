"""What the words of a worker may look like before they are handed to a store."""

from __future__ import annotations

from typing import Final

from workerctx.errors import ProtocolError

_LONGEST_NAME: Final = 255


def check_name(what: str, value: str) -> None:
    """Refuse a text that a store might stumble over.

    Raises:
        ProtocolError: It is too long or unprintable.
    """
    if len(value) > _LONGEST_NAME or not value.isprintable():
        raise ProtocolError(f"{what} must be at most {_LONGEST_NAME} printable characters, not {value[:40]!r}")


def check_id(value: str) -> None:
    """Refuse what cannot be the id of a lease.

    Raises:
        ProtocolError: It is empty, too long or unprintable.
    """
    if not value:
        raise ProtocolError("a lease has an empty id")
    check_name("the id of a lease", value)
