"""Exceptions at our boundary: groups, and cancellations that nobody asked for."""

from __future__ import annotations

import math
from typing import cast

import anyio

from workerctx.errors import WorkerError


def is_cancelled_here() -> bool:
    """Tell whether a scope that is open here was cancelled."""
    return anyio.current_effective_deadline() == -math.inf


def stray(error: BaseException, what: str) -> WorkerError:
    """Return the failure of code that left with a cancellation which no scope around it asked for.

    On asyncio that comes of cancelling a task natively, or of awaiting something that was cancelled.

    Raises:
        BaseException: `error` itself, if a scope did ask for it.
    """
    if is_cancelled_here():
        raise error
    failure = WorkerError(f"{what} left with a cancellation that no scope asked for: it awaited what was cancelled")
    failure.__cause__ = error
    return failure


def collapse(error: BaseException) -> BaseException:
    """Unwrap exception groups of one member."""
    group: object = error
    if isinstance(group, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", group).exceptions
        if len(members) == 1:
            return collapse(members[0])
    return error
