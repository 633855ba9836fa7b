"""Virtual time: an event loop whose clock jumps ahead as soon as all tasks wait."""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable
    from concurrent.futures import Executor

Ts = TypeVarTuple("Ts")

_START: Final = 0.0
"""Where the clock begins, as trio's mock clock does."""

_PATIENCE: Final = 0.02
"""Seconds until a thread is looked at again: one that has just delivered its result does not wake the loop to end."""


def virtual_clock(backend: str) -> dict[str, Any]:
    """Return the options with which an event loop runs in virtual time.

    Give them to ``anyio.run(main, backend="trio", backend_options=virtual_clock("trio"))``, or return
    ``backend, virtual_clock(backend)`` from the ``anyio_backend`` fixture of pytest. Whenever every task waits and
    there is nothing to read, time jumps to the next deadline: an hour of sleep is over at once, and things happen in
    the order in which they would have happened.

    While a worker thread (``anyio.to_thread``, sync handlers) is at work, time passes as on any clock, so that nobody
    loses patience with it. Data that is still on its way through a socket is not waited for, and a store whose clock
    is a server's or a file's does not follow: run worker loops in virtual time on ``memory://`` only.

    Args:
        backend: ``asyncio`` or ``trio``.

    Returns:
        The options; for one run.

    Raises:
        ValueError: There is no such backend.
        ModuleNotFoundError: Trio is not installed.
    """
    match backend:
        case "asyncio":
            return {"loop_factory": VirtualTimeLoop}
        case "trio":
            try:
                from workerctx.testing.virtual_trio import trio_options
            except ModuleNotFoundError as exc:
                raise ModuleNotFoundError("trio is not installed: pip install 'workerctx[trio]'") from exc
            return trio_options()
        case _:
            raise ValueError(f'virtual time is for the backends "asyncio" and "trio", not {backend!r}')


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing but input and threads: without them, the clock jumps to the next timer."""

    def __init__(self, at_work: Callable[[], bool]) -> None:
        super().__init__()
        self.now = _START
        self._at_work = at_work

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if ready:
            return ready
        deadline = self.now + timeout
        while not ready and self.now < deadline and self._at_work():
            began = time.monotonic()
            ready = super().select(min(deadline - self.now, _PATIENCE))
            self.now = min(self.now + time.monotonic() - began, deadline)
        if not ready:
            self.now = deadline
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time; a ``loop_factory``, see `virtual_clock`."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector(self._threads_at_work)
        self._in_executors = 0
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._jumping.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[Unpack[Ts]], Any], *args: *Ts) -> Future[Any]:
        """Run a function in a thread of asyncio's own, and let time pass normally meanwhile."""
        future: Future[Any] = super().run_in_executor(executor, func, *args)
        self._in_executors += 1
        future.add_done_callback(self._executed)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - in virtual time
        """Wait for asyncio's own threads to end, without the limit of Python 3.12 and later: time may jump."""
        await super().shutdown_default_executor()

    def _executed(self, _: Future[Any]) -> None:
        self._in_executors -= 1

    def _threads_at_work(self) -> bool:
        return self._in_executors > 0 or any(map(self._is_at_work, threading.enumerate()))

    def _is_at_work(self, thread: threading.Thread) -> bool:
        """Tell whether this is a worker thread that anyio has given something to do for this loop."""
        queue = getattr(thread, "queue", None)
        return getattr(thread, "loop", None) is self and getattr(queue, "unfinished_tasks", 0) > 0
