"""Waking waiters: those of this Storage with the answer, those of other processes by publish and subscribe.

The script publishes one message for all that it did, in the same atomic step: on one channel of jobs that may have
become claimable, on another one of jobs that have finished. A Storage subscribes to a channel once somebody waits for
what comes there. While a subscription is broken waiters look for work every few seconds, and when it is back all are
woken.
"""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import msgspec
from coredis.retry import NoRetryPolicy

from workerctx.lifecycle.latch import Latch
from workerctx.queue.bell import Bell

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from coredis.response.types import PubSubMessage

    from workerctx.queue.prepared import Prepared
    from workerctx_redis._line import Line
    from workerctx_redis._link import Link, Reply

FALLBACK: Final = 5.0
"""Seconds after which a waiter looks for work, woken or not."""

DEAF: Final = 1.0
"""The same while the subscription is broken."""

SILENCE: Final = 15.0
"""Seconds of silence after which a subscription is checked."""

PATIENCE: Final = 3.0
"""Seconds that a new waiter waits for the subscription."""

SOON: Final = 0.005
"""Seconds that pass before a waiter asks when scheduled jobs are due: what it was just woken for goes first."""


class _Ready(msgspec.Struct, array_like=True):
    origin: str
    queues: list[str] | None


_decode = msgspec.json.Decoder(_Ready).decode


@attrs.define(eq=False)
class RedisWakeups:
    """One waiter; see `Wakeups`.

    Args:
        queues: The queues it is about; None for all.
        finished: Whether finished jobs wake it.
        next_due: Returns the seconds until the next scheduled job of its queues is due, if there is one.
        longest: Tells how many seconds it may wait without a wake-up.
    """

    queues: frozenset[str] | None
    finished: bool
    _next_due: Callable[[], Awaitable[float | None]]
    _longest: Callable[[], float]
    _bell: Bell = attrs.field(factory=Bell, init=False)

    def then(self, call: Prepared[object] | None) -> None:
        """Begin a call where the next wake-up arrives; see `Wakeups.then`."""
        self._bell.then(call)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a wake-up, or until a scheduled job is due; see `Wakeups.wait`."""
        limit = self._longest() if timeout is None else min(timeout, self._longest())
        about_jobs = self.queues is None or bool(self.queues)
        await self._bell.wait(min(limit, SOON) if about_jobs else limit)
        if about_jobs and not self._bell.has_rung and limit > SOON:
            due = await self._next_due()
            await self._bell.wait(limit - SOON if due is None else min(limit - SOON, due))
        return self._bell.take_note()

    def ring(self) -> None:
        """End the current wait, or the next one.

        Threads: any.
        """
        self._bell.ring()

    def concerns(self, queues: list[str] | None) -> bool:
        """Return whether jobs in some queues, or in any, concern this waiter."""
        if self.queues is None or queues is None:
            return queues is None or bool(queues)
        return not self.queues.isdisjoint(queues)


@attrs.define(eq=False)
class WakeupHub:
    """The waiters of one Storage and its subscriptions."""

    _channel: str
    _origin: str
    _waiters: tuple[RedisWakeups, ...] = attrs.field(default=(), init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _ears: dict[str, _Ear] = attrs.field(factory=dict[str, "_Ear"], init=False)

    @asynccontextmanager
    async def wait_for(
        self,
        line: Line,
        queues: frozenset[str] | None,
        *,
        finished: bool,
        next_due: Callable[[], Awaitable[float | None]],
    ) -> AsyncGenerator[RedisWakeups]:
        """Yield a waiter."""
        names = [name for name, wanted in (("ready", queues is None or bool(queues)), ("finished", finished)) if wanted]
        with self._lock:
            ears = [self._ear(name, line) for name in names]
            waiter = RedisWakeups(queues, finished, next_due, lambda: _longest_wait(ears))
            self._waiters = (*self._waiters, waiter)
        try:
            # Once there is a subscription nothing is missed; a waiter's owner looks for work before it first waits.
            with anyio.move_on_after(PATIENCE) as patience:
                for ear in ears:
                    await ear.hears.wait()
            for ear in ears:
                ear.missed = ear.missed or patience.cancelled_caught
            yield waiter
        finally:
            with self._lock:
                self._waiters = tuple(other for other in self._waiters if other is not waiter)

    def close(self) -> None:
        """Forget the subscriptions, which end with their line."""
        self._ears = {}

    def hear(self, reply: Reply) -> None:
        """Wake those whom our own changes concern."""
        if reply.queues is True:
            self.ready(None)
        elif reply.queues:
            self.ready(reply.queues)
        if reply.finished:
            self.finished()

    def ready(self, queues: list[str] | None) -> None:
        """Wake who waits for jobs in one of these queues (None: any)."""
        for waiter in self._waiters:
            if waiter.concerns(queues):
                waiter.ring()

    def finished(self) -> None:
        """Wake who waits for jobs to finish."""
        for waiter in self._waiters:
            if waiter.finished:
                waiter.ring()

    def pass_on(self, name: str, data: bytes) -> None:
        """Wake those whom a message concerns; our own changes have done so already."""
        if name == "finished":
            if data != self._origin.encode():
                self.finished()
            return
        news = _decode(data)
        if news.origin != self._origin:
            self.ready(news.queues)

    def wake_all(self, name: str) -> None:
        """Wake all who wait for what comes on a channel."""
        if name == "finished":
            self.finished()
        else:
            self.ready(None)

    def _ear(self, name: str, line: Line) -> _Ear:
        if name not in self._ears:
            ear = _Ear(f"{self._channel}:{name}", name, self)
            line.run_beside(ear.listen)
            self._ears[name] = ear
        return self._ears[name]


def _longest_wait(ears: Sequence[_Ear]) -> float:
    return FALLBACK if all(ear.is_subscribed for ear in ears) else DEAF


class _Ear:
    """The subscription to a channel; made again with each new connection."""

    def __init__(self, channel: str, name: str, hub: WakeupHub) -> None:
        self._channel = channel.encode()
        self._name = name
        self._hub = hub
        self.is_subscribed: bool = False
        # Whether something may have happened while somebody waited and nobody listened.
        self.missed: bool = False
        self.hears: Latch = Latch(lambda: self.is_subscribed)

    async def listen(self, link: Link) -> None:
        """Subscribe and pass on what comes; called again with a new link after a failure."""
        try:
            await self._listen_once(link)
        except Exception:  # noqa: BLE001 - whatever it was, callers get theirs from their calls
            link.give_up()
        finally:
            self.is_subscribed, self.missed = False, True

    async def _listen_once(self, link: Link) -> None:
        subscription = link.client.pubsub(
            channel_handlers={self._channel: self._hear},
            ignore_subscribe_messages=True,
            max_idle_seconds=SILENCE,
            retry_policy=NoRetryPolicy(),
        )
        async with subscription as messages:
            self.is_subscribed = True
            self.hears.wake()
            if self.missed:
                self.missed = False
                self._hub.wake_all(self._name)
            async for message in messages:  # that came before the driver knew of the handler
                self._hear(message)

    def _hear(self, message: PubSubMessage) -> None:
        data: Any = message["data"]
        self._hub.pass_on(self._name, data)
