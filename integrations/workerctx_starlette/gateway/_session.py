"""One worker at a gateway, from its registration to its end."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import msgspec
from attrs import Factory, define, field

from workerctx.errors import ProtocolError, SessionLost, StoreBusy
from workerctx.queue import CancelReason, FailLease, JobError
from workerctx.queue.codec import MAX_JSON_BYTES
from workerctx.remote.asking import answer
from workerctx.remote.faults import UNREADABLE, Fault
from workerctx.remote.frames import (
    Began,
    Cancel,
    Credit,
    Denied,
    Drain,
    Failure,
    Heartbeat,
    HeartbeatAck,
    Progress,
    Register,
    Reply,
    Request,
    Result,
    Task,
)
from workerctx.remote.outcomes import finish_of
from workerctx.remote.wire import gateway_reader
from workerctx_starlette.gateway._account import Account
from workerctx_starlette.gateway._checks import check_id, check_name
from workerctx_starlette.gateway._connection import BREACH, GOING_AWAY
from workerctx_starlette.gateway._line import Profile
from workerctx_starlette.gateway._outbox import Outbox
from workerctx_starlette.gateway._pace import Pace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from workerctx.queue import Claimed
    from workerctx.remote.calls import Call
    from workerctx.remote.frames import FromGateway, FromWorker
    from workerctx.remote.wire import BrokenTask
    from workerctx_starlette.gateway._connection import Connection
    from workerctx_starlette.gateway._engine import Engine
    from workerctx_starlette.gateway._identity import Identity
    from workerctx_starlette.gateway._leases import Holding

_log = logging.getLogger("workerctx")

_MOST: Final = 2**31 - 1
_ANSWERS: Final = 16
"""How many questions of a worker that may have large answers are put to the store at once."""
_TURN: Final = 100
"""How many frames are taken before others have their turn."""


@define(eq=False)
class Session:
    """A registered worker and its connection.

    Attributes:
        hello: What it said of itself.
        identity: Who it is.
        profile: What it can take.
        outbox: What waits to be sent to it.
        holdings: Leases that it holds, by id.
        telling: How many of its outcomes are on their way to the store.
        heard_at: When it said something last, on the event loop's clock.
        state: What it last said of itself.
        in_flight: How many jobs it runs, as it last said.
        has_ended: Whether it has said that it takes no more jobs, here or anywhere.
    """

    _engine: Engine
    _connection: Connection
    hello: Register
    identity: Identity
    profile: Profile = field(
        default=Factory(lambda self: _profile(self.hello), takes_self=True),
        init=False,
    )
    outbox: Outbox = field(
        default=Factory(lambda self: Outbox(self._connection, self._undeliverable), takes_self=True), init=False
    )
    holdings: dict[str, Holding] = field(factory=dict[str, "Holding"], init=False)
    telling: int = field(default=0, init=False)
    heard_at: float = field(factory=anyio.current_time, init=False)
    state: str = field(default="running", init=False)
    in_flight: int = field(default=0, init=False)
    has_ended: bool = field(default=False, init=False)
    _account: Account = field(
        default=Factory(lambda self: Account(frozenset(self.hello.kinds)), takes_self=True), init=False
    )
    _drained: bool = field(default=False, init=False)
    _asking: int = field(default=0, init=False)
    """How many of its requests are being answered."""
    _answering: anyio.CapacityLimiter = field(factory=lambda: anyio.CapacityLimiter(_ANSWERS), init=False)
    _doubtful: set[str] = field(factory=set[str], init=False)
    """Leases that it said to hold and that are lost; it hears that unless it tells their outcome first."""
    _scope: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _last_words: tuple[FromGateway | None, int, str] = field(default=(None, GOING_AWAY, ""), init=False)

    @property
    def worker_id(self) -> str:
        """Which worker it is; the same in all its sessions."""
        return self.hello.worker_id

    @property
    def wanted(self) -> int:
        """How many more tasks it has asked for."""
        return 0 if self._drained else self._account.wanted

    @property
    def free(self) -> int:
        """How many more tasks it takes now, which is what it wants unless it holds too much."""
        return min(self.wanted, self._engine.config.max_concurrency - len(self.holdings))

    @property
    def kind_limits(self) -> Mapping[str, int]:
        """How many more jobs of each of these kinds it takes."""
        return self._account.kind_limits

    @property
    def _most_leases(self) -> int:
        # Twice as many as it is given, as there may be outcomes of an earlier process among them.
        return 2 * self._engine.config.max_concurrency

    def __str__(self) -> str:
        return f"worker {self.worker_id} ({self.identity.subject} on {self.hello.node or 'an unnamed machine'})"

    # What the gateway does

    async def serve(self) -> None:
        """Serve the worker until it leaves or is made to.

        Cancellation: its jobs wait for it to come back, as if its connection had broken.
        """
        self._engine.join(self)
        _log.info("%s is connected", self)
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._speak)
                    await self._listen(tasks)
                    tasks.cancel_scope.cancel()
        finally:
            self._engine.leave(self)
            _log.info("%s is disconnected", self)
        await self.outbox.say_goodbye(*self._last_words)

    def end(self, code: int, reason: str, frame: FromGateway | None = None) -> None:
        """Close the connection, after a last frame."""
        self._last_words = (frame, code, reason)
        self._scope.cancel()

    def hang_up(self, reason: str) -> None:
        """Take the worker for gone."""
        _log.warning("%s counts as gone: %s", self, reason)
        self.end(GOING_AWAY, reason)

    def drain(self, reason: str) -> None:
        """Hand out nothing more, and let the worker finish what it has."""
        self._drained = True
        self._engine.give_back(self.outbox.take_back())
        self.outbox.put(Drain(reason))

    def give(self, jobs: Sequence[Claimed]) -> None:
        """Hand out jobs that were claimed for the worker."""
        tasks: list[Task] = []
        for job, lease in jobs:
            try:
                task = Task.of(job, lease)
            except UNREADABLE as exc:
                self._cannot_run(lease.id, "Undeliverable", f"job {job.id!r} cannot be sent to a worker: {exc}")
                continue
            tasks.append(task)
            self._engine.leases.take(self, lease.id)
            self._account.sent(job.kind)
        self.outbox.put_all(tasks)

    async def adopt(self, leases: Sequence[str]) -> None:
        """Take over what the worker brings from earlier sessions.

        A lease that has run out may still be finished, so the worker hears of it only after it has told its outcomes.

        Raises:
            ProtocolError: It cannot hold that many.
        """
        if len(leases) > self._most_leases:
            raise ProtocolError(
                f"it says that it holds {len(leases)} leases, and none holds more than {self._most_leases}"
            )
        self._doubtful.update(await self._engine.leases.bring_back(leases, self.identity.subject))
        for lease_id in leases:
            if lease_id not in self._doubtful:
                self._engine.leases.take(self, lease_id)

    def cancel(self, lease_id: str, reason: CancelReason) -> None:
        """Tell the worker to stop a run."""
        self.outbox.put(Cancel(lease_id, reason.value))

    def command(self, commands: Iterable[str]) -> None:
        """Tell the worker what operators have sent to it."""
        self.outbox.put(HeartbeatAck(commands=tuple(commands)))

    def _undeliverable(self, task: Task, reason: str) -> None:
        self._account.undelivered(task.job.kind)
        self._cannot_run(task.lease_id, "TooLarge", reason)

    def _cannot_run(self, lease_id: str, kind: str, reason: str) -> None:
        self._engine.exchange.report(None, FailLease(lease_id, JobError(kind, reason), retryable=False))

    # What the worker does

    async def _speak(self) -> None:
        try:
            await self.outbox.run()
        except SessionLost as exc:
            _log.info("%s is gone: %s", self, exc)
            self._scope.cancel()

    async def _listen(self, tasks: TaskGroup) -> None:
        config = self._engine.config
        reader, pace = gateway_reader(config.max_message), Pace(config.max_rate)
        try:
            while (message := await self._connection.receive()) is not None:
                await pace.keep()
                await self.outbox.room()
                self.heard_at = anyio.current_time()
                for number, frame in enumerate(reader.read(message), 1):
                    self._take(frame, tasks)
                    if number % _TURN == 0:
                        await self.outbox.room()
                        await anyio.lowlevel.checkpoint()
        except ProtocolError as exc:
            _log.warning("%s broke the protocol and was shut out: %s", self, exc)
            self._last_words = (Denied("invalid", str(exc)), BREACH, str(exc))

    def _take(self, frame: FromWorker | BrokenTask, tasks: TaskGroup) -> None:
        match frame:
            case Result() | Failure():
                self._take_outcome(frame)
            case Credit():
                self._take_credit(frame)
            case Began():
                self._engine.exchange.begin(lease_id for lease_id in frame.leases if self._runs(lease_id))
            case Heartbeat():
                self._take_heartbeat(frame)
            case Progress():
                if frame.lease_id in self.holdings:
                    self._engine.progress.put(frame.lease_id, frame.value)
            case Request():
                self._take_request(frame, tasks)
            case Drain():
                self._drained = self.has_ended = True
                self._engine.give_back(self.outbox.take_back())
            case _:
                raise ProtocolError(f"a worker says nothing like {type(frame).__name__} once it is registered")

    def _runs(self, lease_id: str) -> bool:
        holding = self.holdings.get(lease_id)
        return holding is not None and not holding.reported

    def _take_outcome(self, frame: Result | Failure) -> None:
        lease_id = frame.lease_id
        check_id(lease_id)
        check_name("the id of a job", frame.job_id)
        if self._engine.leases.is_foreign(lease_id, self.identity.subject):
            self.outbox.lose(lease_id)
            return
        if self.telling >= self._most_leases:
            raise ProtocolError(f"it tells more than {self._most_leases} outcomes at once, which no worker can owe")
        self._doubtful.discard(lease_id)
        size = len(frame.outputs) if isinstance(frame, Result) else len(msgspec.msgpack.encode(frame.error))
        if size > MAX_JSON_BYTES:
            self.outbox.refuse(lease_id, f"the outcome has {size} bytes, and the limit is {MAX_JSON_BYTES}")
            return
        try:
            finish = finish_of(frame)
        except ProtocolError as exc:
            self.outbox.refuse(lease_id, str(exc))
            return
        self._engine.exchange.report(self, finish, frame.job_id)

    def _take_credit(self, frame: Credit) -> None:
        self._account.settle(frame)
        if frame.free and self.state == "pending":
            self.state = "running"  # as its next heartbeat will say
        if self._doubtful:
            lost, self._doubtful = tuple(self._doubtful), set()
            self.outbox.put(HeartbeatAck(lost=lost))
        self._engine.exchange.feed(self)

    def _take_heartbeat(self, frame: Heartbeat) -> None:
        check_name("its state", frame.state)
        self.state, self.in_flight = frame.state, max(0, min(frame.in_flight, _MOST))
        lost: list[str] = []
        engine = self._engine
        engine.leases.confirm(self, frame.leases)
        for lease_id in frame.leases:
            if lease_id in self.holdings or lease_id in self._doubtful or engine.exchange.is_stored(lease_id):
                continue
            check_id(lease_id)
            if len(self.holdings) >= self._most_leases:
                raise ProtocolError(f"it says that it holds more than {self._most_leases} leases")
            if engine.leases.get(lease_id) is None:
                engine.leases.take(self, lease_id)
            else:
                lost.append(lease_id)
        # It tells its outcomes before its first heartbeat; a worker whose slots are all busy sends no credit.
        lost += self._doubtful
        self._doubtful = set()
        self.outbox.put(HeartbeatAck(lost=tuple(lost)))

    def _take_request(self, frame: Request, tasks: TaskGroup) -> None:
        limit = self._engine.config.max_requests
        if self._asking >= limit:
            busy = StoreBusy(f"this worker has {limit} requests under way, and may have no more: try again")
            self.outbox.put(Reply(frame.id, fault=Fault.of(busy)))
            return
        self._asking += 1
        tasks.start_soon(self._answer, frame)

    async def _answer(self, frame: Request) -> None:
        try:
            self.outbox.put(
                await answer(frame, self._engine.storage, steering=self.identity.steers, turn=self._to_answer)
            )
        finally:
            self._asking -= 1

    @asynccontextmanager
    async def _to_answer(self, call: Call[Any]) -> AsyncGenerator[None]:
        """Let few large answers be made at once, and none while those before wait to be read."""
        async with self._answering if call.is_large else nullcontext():
            await self.outbox.all_but_read()
            yield


def _profile(hello: Register) -> Profile:
    return Profile(hello.queues, hello.kinds, hello.labels, frozenset(hello.weights.items()))
