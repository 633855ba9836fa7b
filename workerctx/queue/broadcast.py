"""Lossy fan-out of job events: a slow subscriber loses the oldest and is told how many."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio.lowlevel
import attrs

from workerctx.errors import InvalidRequest
from workerctx.lifecycle.latch import Latch
from workerctx.queue.events import JobEvent, Lagged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence


_STREAK: Final = 100
"""How many buffered events a subscriber gets before it has to give the others a turn."""


class Subscription:
    """One subscriber's iterator: never ends by itself, and waits without holding anything up.

    Made by `Broadcast.subscribe`.
    """

    __slots__ = ("_buffer", "_capacity", "_closed", "_latch", "_lock", "_missed", "_streak")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._buffer: deque[JobEvent] = deque()
        self._missed = 0
        self._closed = False
        self._streak = 0
        # A publisher may be another thread: what is dropped and what is counted must agree.
        self._lock = threading.Lock()
        self._latch = Latch(self._has_news)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> JobEvent | Lagged:
        """Return the next event, or `Lagged` once where events were dropped.

        Cancellation: loses no event.
        """
        while True:
            # A turn of the event loop for each event would be too slow where a commit publishes hundreds.
            self._streak = (self._streak + 1) % _STREAK
            if self._streak and self._has_news():
                await anyio.lowlevel.checkpoint_if_cancelled()
            else:
                await self._latch.wait()
            with self._lock:
                if self._missed:
                    lagged = Lagged(self._missed)
                    self._missed = 0
                    return lagged
                if self._buffer:
                    return self._buffer.popleft()
                if self._closed:
                    raise StopAsyncIteration

    def offer(self, events: Sequence[JobEvent]) -> None:
        """Add events, dropping the oldest beyond the capacity.

        Threads: any.
        """
        with self._lock:
            self._buffer.extend(events)
            excess = len(self._buffer) - self._capacity
            for _ in range(excess):
                self._buffer.popleft()
            self._missed += max(excess, 0)
        self._latch.wake()

    def close(self) -> None:
        """End the iteration once what is buffered has been read."""
        self._closed = True
        self._latch.wake()

    def _has_news(self) -> bool:
        return bool(self._buffer or self._missed or self._closed)


@attrs.define(eq=False)
class Broadcast:
    """Hands every published event to every subscriber of the moment."""

    _subscriptions: tuple[Subscription, ...] = attrs.field(default=(), init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def __bool__(self) -> bool:
        """Whether anybody listens; if not, no event need be built."""
        return bool(self._subscriptions)

    def publish(self, events: Sequence[JobEvent]) -> None:
        """Hand events to the subscribers, in order; never waits for them.

        Threads: any. Calls from several threads reach each subscriber in some order, each call's events together.
        """
        for subscription in self._subscriptions:
            subscription.offer(events)

    @asynccontextmanager
    async def subscribe(self, capacity: int = 1024) -> AsyncGenerator[AsyncIterator[JobEvent | Lagged]]:
        """Yield an iterator over the events published from now on.

        Args:
            capacity: How many events wait before the oldest are dropped and counted by `Lagged`.

        Raises:
            InvalidRequest: The capacity is below 1.
        """
        if capacity < 1:
            raise InvalidRequest(f"a subscription needs room for at least 1 event, got capacity={capacity}")
        subscription = Subscription(capacity)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
            subscription.close()

    def close(self) -> None:
        """End every subscription: their iterators stop after what they have buffered."""
        with self._lock:
            closing, self._subscriptions = self._subscriptions, ()
        for subscription in closing:
            subscription.close()
