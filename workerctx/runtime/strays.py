"""Cancellations that no scope asked for: on asyncio, anybody can cancel a task."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

import anyio
from attrs import frozen

from workerctx.lifecycle.groups import is_cancelled_here

if TYPE_CHECKING:
    from collections.abc import Callable


@frozen(eq=False)
class StrayCancels:
    """The native cancellations of one task that no scope asked for.

    Attributes:
        pending: Whether there may be one that has not arrived.
    """

    pending: Callable[[], int]

    @classmethod
    def of_this_task(cls) -> Self | None:
        """Watch the running task; None where tasks cannot be cancelled like that."""
        task = asyncio.current_task() if anyio.get_cancelled_exc_class() is asyncio.CancelledError else None
        return None if task is None else cls(task.cancelling)

    async def drop(self) -> None:
        """Take a cancellation that was left behind, unless a scope around this asked for it."""
        task = asyncio.current_task()
        if task is None or is_cancelled_here():
            return
        while task.uncancel():
            pass
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def is_running(task_id: int) -> bool:
    """Tell whether the task runs this very code; not if its abandoned coroutine is being closed."""
    try:
        return anyio.get_current_task().id == task_id
    except RuntimeError:
        return False
