"""Waking who waits for jobs: the waiters of one Storage, and what a commit tells them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import attrs
import msgspec

from workerctx.queue.bell import Bell

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from workerctx.queue.prepared import Prepared


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a commit tells.

    Attributes:
        queues: In which something may have become claimable; None for any.
        finished: Whether jobs have finished.
        origin: The Storage that told it.
    """

    queues: tuple[str, ...] | None = ()
    finished: bool = False
    origin: str = ""


EVERYTHING: Final = News(None, finished=True)
"""For a listener that may have missed something."""


@attrs.define(eq=False)
class Waiter:
    """One waiter; see `Wakeups`.

    Args:
        queues: The queues it is about; None for all.
        finished: Whether finished jobs wake it.
        next_due: Returns the seconds until the next scheduled job of its queues is due, if there is one.
    """

    queues: frozenset[str] | None
    finished: bool
    _next_due: Callable[[], Awaitable[float | None]]
    _bell: Bell = attrs.field(factory=Bell, init=False)

    def then(self, call: Prepared[object] | None) -> None:
        """Begin a call where the next wake-up arrives; see `Wakeups.then`."""
        self._bell.then(call)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a wake-up, or until a scheduled job is due; see `Wakeups.wait`."""
        if not self._bell.has_rung and (self.queues is None or self.queues):
            due = await self._next_due()
            if due is not None and (timeout is None or due < timeout):
                timeout = due
        await self._bell.wait(timeout)
        return self._bell.take_note()

    def hear(self, news: News) -> None:
        """End the current wait, or the next one, if the news concern this waiter.

        Threads: any.
        """
        if (news.finished and self.finished) or (
            news.queues is None or (news.queues and (self.queues is None or not self.queues.isdisjoint(news.queues)))
        ):
            self._bell.ring()


class Ear(Protocol):
    """A thread that listens for what other processes tell.

    Attributes:
        ready: Set once nothing is missed any more.
    """

    ready: threading.Event

    def close(self) -> None:
        """Stop listening."""
        ...


@attrs.define(eq=False)
class WakeupHub(ABC):
    """The waiters of one Storage, and the ear that it has as long as anybody may be waiting."""

    _waiters: tuple[Waiter, ...] = attrs.field(default=(), init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _ear: Ear | None = attrs.field(default=None, init=False)

    @abstractmethod
    def _listen(self) -> Ear:
        """Start to listen to other processes."""

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()

    @asynccontextmanager
    async def wait_for(
        self, queues: frozenset[str] | None, *, finished: bool, next_due: Callable[[], Awaitable[float | None]]
    ) -> AsyncGenerator[Waiter]:
        """Yield a waiter."""
        waiter = Waiter(queues, finished, next_due)
        with self._lock:
            self._waiters = (*self._waiters, waiter)
            if self._ear is None:
                self._ear = self._listen()
            ear = self._ear
        try:
            # Once the ear listens nothing is missed; a waiter's owner looks for work before it first waits.
            if not ear.ready.is_set():
                await anyio.to_thread.run_sync(ear.ready.wait)
            yield waiter
        finally:
            with self._lock:
                self._waiters = tuple(other for other in self._waiters if other is not waiter)

    def hear(self, news: News) -> None:
        """Wake the waiters of this Storage that the news concern.

        Threads: any.
        """
        for waiter in self._waiters:
            waiter.hear(news)
