"""Who waits for jobs in a memory store, and how they are woken."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from workerctx.queue.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from workerctx.queue.prepared import Prepared


@attrs.define(eq=False)
class MemoryWakeups:
    """A waiter that also returns when the next scheduled job of its queues is due.

    Args:
        queues: The queues it looks at; None for all.
        finished: Whether finished jobs wake it.
        next_due: Returns the seconds until the next job of these queues that becomes due later than the moment
            when it was last asked, or None.
    """

    queues: frozenset[str] | None
    finished: bool
    _next_due: Callable[[], float | None]
    _bell: Bell = attrs.field(factory=Bell, init=False)

    def then(self, call: Prepared[object] | None) -> None:
        """Leave it to its owner."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a wake-up, at most ``timeout`` seconds, and not past the time when a job becomes due.

        Returns:
            Whether there was a wake-up.
        """
        due = self._next_due()
        limits = [limit for limit in (timeout, due) if limit is not None]
        await self._bell.wait(min(limits) if limits else None)
        return self._bell.take_note()

    def ring(self) -> None:
        """End the current wait, or the next one.

        Threads: any.
        """
        self._bell.ring()


@attrs.define(eq=False)
class Alarms:
    """Every waiter of one store."""

    _waiters: tuple[MemoryWakeups, ...] = attrs.field(default=(), init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @contextmanager
    def join(self, waiter: MemoryWakeups) -> Generator[None]:
        """Let a waiter be woken for as long as the block lasts."""
        with self._lock:
            self._waiters = (*self._waiters, waiter)
        try:
            yield
        finally:
            with self._lock:
                self._waiters = tuple(other for other in self._waiters if other is not waiter)

    def ring(self, queues: Collection[str], *, finished: bool = False) -> None:
        """Wake who waits for one of these queues, or for jobs to finish.

        Threads: any.
        """
        for waiter in self._waiters:
            if (finished and waiter.finished) or (
                queues and (waiter.queues is None or not waiter.queues.isdisjoint(queues))
            ):
                waiter.ring()

    def ring_all(self) -> None:
        """Wake everybody."""
        for waiter in self._waiters:
            waiter.ring()
