"""One session from its registration to its end: what there is to say goes out, what comes in is handed on.

Sending, receiving and heartbeats are tasks of their own, and none of them waits for the worker: one whose slots are all
busy, or whose event loop is blocked, still sends results and heartbeats and hears acknowledgements and cancellations.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.errors import ProtocolError, RemoteError, SessionLost
from workerctx.lifecycle.latch import Latch
from workerctx.queue import CancelReason
from workerctx.remote.frames import (
    Cancel,
    Denied,
    Drain,
    HeartbeatAck,
    RegisterAck,
    Reply,
    ResultAck,
    Task,
)
from workerctx.remote.session import denial, send
from workerctx.remote.wire import BrokenTask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup

    from workerctx.remote.frames import FromWorker
    from workerctx.remote.hatch import Hatch
    from workerctx.remote.reconnect import Reconnect
    from workerctx.remote.session import WorkerSession
    from workerctx.remote.wire import Incoming

_log = logging.getLogger("workerctx")

_SHORTEST_TICK: Final = 0.001
_LAST_WORDS: Final = 0.5
"""Seconds in which what a gateway said last may still arrive."""
_SILENT_BEATS: Final = 3
"""Heartbeats without an answer after which a gateway counts as gone."""
_QUIET_BEATS: Final = 1.5
"""The same until it is asked whether it lives."""
_REASONS: Final = frozenset(CancelReason)


@define(eq=False)
class Serving:
    """One registered session.

    Args:
        session: It.
        ack: How the gateway answered the registration.
        hatch: Where jobs go and outcomes come from.
        machine: Told what proves health, and of a drain.
        patience: Seconds that the gateway may take to accept a message.
        window: Seconds after which a job that the worker did not take is given back.
        is_over: Whether the worker has ended and only the last outcomes are to be told.
    """

    session: WorkerSession
    ack: RegisterAck
    hatch: Hatch
    machine: Reconnect
    patience: float
    window: float
    is_over: Callable[[], bool]
    _error: RemoteError | None = field(default=None, init=False)
    _heard_at: float = field(default=0.0, init=False)
    _expiring: bool = field(default=False, init=False)
    _dry: Latch = field(init=False)
    """Holds once there is no reason to keep the session."""
    _scope: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        self._dry = Latch(self._is_dry)

    async def replay(self) -> bool:
        """Tell what was not acknowledged in earlier sessions, and hear what comes meanwhile.

        Returns:
            Whether the session goes on; False if the gateway has closed it in good order.

        Raises:
            RemoteError: The session broke, or the gateway wants it no more.
        """
        hatch = self.hatch
        frames = hatch.replay(self.ack.max_message)
        hatch.asks.renew()
        hatch.stop_runs(dict.fromkeys(self.ack.lost, CancelReason.LEASE_LOST))
        if not frames:
            return True
        _log.info("%d outcomes that were not acknowledged are told again", len(frames))
        told = False

        async def tell() -> None:
            nonlocal told
            await send(self.session, frames, self.patience)
            told = True

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                for part in (tell, self._hear):
                    tasks.start_soon(self._do, part, scope)
        if self._error is not None:
            raise self._error
        return told

    async def _hear(self) -> None:
        """Hand on what comes while the backlog is told, acknowledgements above all: the next session tells less."""
        self.session.silence = math.inf  # each message has a time of its own, and a ping would wait behind it
        while (frames := await self.session.receive()) is not None:
            for frame in frames:
                self._handle(frame)

    async def run(self, early: Sequence[Incoming]) -> RemoteError | None:
        """Serve until the session ends, and return how it broke; None if it was closed in good order.

        Args:
            early: Frames that came together with the registration's answer.
        """
        self._heard_at = anyio.current_time()
        if not self.machine.is_draining:
            self.hatch.open()
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    for part in (self._send, self._beat, lambda: self._receive(early, tasks), self._watch):
                        tasks.start_soon(self._do, part, self._scope)
        finally:
            self.hatch.shut()
        return self._error

    async def _do(self, part: Callable[[], Awaitable[object]], scope: anyio.CancelScope) -> None:
        """Be one of the tasks; the first that ends, ends the session."""
        try:
            await part()
        except RemoteError as exc:
            self._error = self._error or exc
        scope.cancel()

    async def _send(self) -> None:
        while True:
            await self.hatch.news.wait()
            frames, outcomes = self.hatch.collect()
            if frames:
                await self._say(frames)
            if outcomes:
                self.machine.reported()

    async def _beat(self) -> None:
        due_in = 0.0
        while True:
            if due_in <= 0 or self.hatch.is_busy:
                await self._say([self.hatch.heartbeat()])
                due_in = self._interval
            await anyio.sleep(self._busy_interval)
            due_in -= self._busy_interval
            silent = anyio.current_time() - self._heard_at
            if silent > max(_SILENT_BEATS * self._interval, self.ack.lease_ttl):
                raise SessionLost(f"the gateway has been silent for {silent:.1f} seconds")

    @property
    def _busy_interval(self) -> float:
        return max(_SHORTEST_TICK, self.ack.heartbeat)

    @property
    def _interval(self) -> float:
        """Seconds between two heartbeats, as things are."""
        return self._busy_interval if self.hatch.is_busy else max(self._busy_interval, self.ack.idle_heartbeat)

    async def _say(self, frames: Sequence[FromWorker]) -> None:
        try:
            await send(self.session, frames, self.patience)
        except SessionLost:
            # Who receives may know better: a session that was closed in good order takes nothing either.
            await anyio.sleep(_LAST_WORDS)
            raise

    async def _watch(self) -> None:
        """End the session once it has no purpose any more."""
        await self._dry.wait()

    def _is_dry(self) -> bool:
        if self.machine.is_draining:
            return not self.hatch.is_busy
        return self.is_over() and not self.hatch.owes

    def look(self) -> None:
        """Look whether the session has a purpose.

        Threads: any.
        """
        self._dry.wake()

    async def _receive(self, early: Sequence[Incoming], tasks: TaskGroup) -> None:
        frames: Sequence[Incoming] | None = early
        while frames is not None:
            for frame in frames:
                self._handle(frame)
            if not self._expiring and self.hatch.oldest() is not None:
                self._expiring = True
                tasks.start_soon(self._expire)
            self._dry.wake()
            self.session.silence = _QUIET_BEATS * self._interval
            frames = await self.session.receive()
            self._heard_at = anyio.current_time()

    async def _expire(self) -> None:
        """Give back what the worker does not take in time."""
        while (came := self.hatch.oldest()) is not None:
            await anyio.sleep(max(0.0, came + self.window - anyio.current_time()))
            self.hatch.give_back(anyio.current_time() - self.window)
        self._expiring = False

    def _handle(self, frame: Incoming) -> None:
        hatch = self.hatch
        match frame:
            case Task() | BrokenTask():
                hatch.deliver(frame, anyio.current_time())
            case ResultAck():
                hatch.acknowledged(frame)
            case Reply():
                hatch.asks.answer(frame)
            case HeartbeatAck():
                lost = dict.fromkeys(frame.lost, CancelReason.LEASE_LOST)
                hatch.stop_runs({lease_id: _reason(word) for lease_id, word in frame.cancelled.items()} | lost)
                hatch.command(frame.commands)
            case Cancel():
                hatch.stop_runs({frame.lease_id: _reason(frame.reason)})
            case Drain():
                _log.info("the gateway drains (%s): what runs goes on, and the worker comes back", frame.reason)
                self.machine.drained(anyio.current_time())
                hatch.shut()
            case Denied():
                raise denial(frame)
            case RegisterAck():
                raise ProtocolError("the gateway acknowledged a registration twice")


def _reason(word: str) -> CancelReason:
    return CancelReason(word) if word in _REASONS else CancelReason.USER
