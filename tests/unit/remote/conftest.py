"""A small gateway over a memory store, one session after the other, for tests of workers."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from attrs import Factory, define, field

from workerctx import JobRegistry, RemoteConfig, Worker
from workerctx.errors import ProtocolError, SessionLost
from workerctx.queue import EnqueueRequest, ReleaseLease, connect, decode_json
from workerctx.remote.asking import answer
from workerctx.remote.frames import (
    Began,
    Credit,
    Failure,
    Heartbeat,
    HeartbeatAck,
    Progress,
    Register,
    RegisterAck,
    Request,
    Result,
    ResultAck,
    Task,
)
from workerctx.remote.outcomes import finish_of
from workerctx.remote.reconnect import ReconnectConfig
from workerctx.testing.sessions import session_pair

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from anyio.abc import TaskGroup

    from workerctx.queue import Storage
    from workerctx.testing.sessions import SessionPeer


@define(eq=False)
class Loopback:
    """Serves the worker of a test from a store, and keeps what it said.

    Attributes:
        heard: Every frame of the worker, in order.
        deaf: While true, outcomes are neither stored nor acknowledged.
        closed: While true, no session can be opened.
        unasked: How many tasks are sent that the worker has not asked for.
        steering: Whether handlers may do what operators do.
        on_request: Called with the session and each request; answers it by default.
    """

    storage: Storage
    _tasks: TaskGroup
    ack: dict[str, Any] = field(factory=dict)
    heard: list[Any] = field(factory=list)
    peers: list[SessionPeer] = field(factory=list)
    deaf: bool = False
    closed: bool = False
    unasked: int = 0
    steering: bool = False
    on_request: Any = field(default=Factory(lambda self: self.answer, takes_self=True))
    _open: int = 0
    _sent: set[str] = field(factory=set)
    _stored: set[str] = field(factory=set)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Any]:
        """Open a session; called in the worker's session thread."""
        if self.closed:
            raise SessionLost("the gateway is closed")
        session, peer = session_pair()
        assert self._open == 0, "two sessions at once"
        self._open += 1
        self.peers.append(peer)
        try:
            yield session
        finally:
            self._open -= 1
            session.close()

    async def run(self) -> None:
        """Serve each session that is opened."""
        served = 0
        while True:
            if served < len(self.peers):
                self._tasks.start_soon(self._serve, self.peers[served])
                served += 1
            await anyio.sleep(0.005)

    def heard_of(self, kind: type[Any]) -> list[Any]:
        """Return the frames of one type."""
        return [frame for frame in self.heard if isinstance(frame, kind)]

    async def _serve(self, peer: SessionPeer) -> None:
        room, sent = 0, 0
        credit = Credit(0, 0)
        register: Register | None = None
        while True:
            frames: Any = ()
            with anyio.move_on_after(0.01):
                frames = await peer.receive()
            if frames is None:
                return
            try:
                for frame in frames:
                    self.heard.append(frame)
                    if isinstance(frame, Register):
                        register = frame
                        await self._give_back(frame)
                        peer.send(
                            RegisterAck(**{"version": 1, "worker_id": frame.worker_id, "heartbeat": 0.05} | self.ack)
                        )
                    elif isinstance(frame, Credit):
                        credit = frame
                        room = frame.received + frame.free - sent
                    else:
                        await self._handle(peer, frame)
                if register is not None and room + self.unasked > 0:
                    claimed = await self.storage.jobs.claim_many(
                        register.worker_id,
                        queues=register.queues,
                        kinds=register.kinds,
                        limit=room + self.unasked,
                        began=credit.at_once,
                    )
                    self._sent.update(lease.id for _, lease in claimed)
                    peer.send(*[Task.of(job, lease, counted=credit.at_once) for job, lease in claimed])
                    self.unasked -= max(0, len(claimed) - max(0, room))
                    room -= len(claimed)
                    sent += len(claimed)
            except SessionLost:
                return

    async def _give_back(self, register: Register) -> None:
        """Release what was sent to the worker and did not arrive."""
        missing = self._sent - self._stored - set(register.holding)
        self._sent -= missing
        await self.storage.jobs.finish_many([ReleaseLease(lease_id) for lease_id in missing])

    async def _handle(self, peer: SessionPeer, frame: Any) -> None:
        jobs = self.storage.jobs
        match frame:
            case Result() | Failure() if not self.deaf:
                await self._finish(peer, frame)
            case Began():
                await jobs.finish_many([], began=frame.leases)
            case Progress():
                await jobs.progress(frame.lease_id, decode_json(frame.value))
            case Heartbeat():
                renewed = await jobs.renew_leases(frame.leases, extend_by=30)
                peer.send(HeartbeatAck(renewed.lost, {key: str(why) for key, why in renewed.cancelled.items()}))
            case Request():
                self._tasks.start_soon(self.on_request, peer, frame)
            case _:
                pass

    async def _finish(self, peer: SessionPeer, frame: Any) -> None:
        error = None
        try:
            if frame.lease_id not in self._stored:
                (error,) = await self.storage.jobs.finish_many([finish_of(frame)])
        except ProtocolError as exc:
            peer.send(ResultAck(refused={frame.lease_id: str(exc)}))
            return
        self._stored.add(frame.lease_id)
        peer.send(ResultAck(lost=(frame.lease_id,)) if error else ResultAck(accepted=(frame.lease_id,)))

    async def answer(self, peer: SessionPeer, frame: Request) -> None:
        """Answer a request."""
        reply = await answer(frame, self.storage, steering=self.steering)
        with suppress(SessionLost):
            peer.send(reply)


@pytest.fixture
def jobs() -> JobRegistry:
    return JobRegistry()


@pytest.fixture
def config() -> RemoteConfig:
    return RemoteConfig(
        endpoint="ws://gateway.invalid/workers",
        max_concurrency=3,
        hard_limit=5,
        reconnect=ReconnectConfig(initial_backoff=0.01, max_backoff=5, max_attempts=5),
    )


@pytest.fixture
async def loopback() -> AsyncGenerator[Loopback]:
    async with connect("memory://") as storage, anyio.create_task_group() as tasks:
        gateway = Loopback(storage, tasks)
        tasks.start_soon(gateway.run)
        yield gateway
        tasks.cancel_scope.cancel()


@pytest.fixture
def serving(loopback: Loopback, config: RemoteConfig) -> Callable[..., Any]:
    """Return what serves handlers from the loopback's store inside a block, as a worker that it yields."""

    @asynccontextmanager
    async def serve(
        *handlers: Any, config: RemoteConfig = config, fails: type[Exception] | None = None
    ) -> AsyncGenerator[Worker]:
        worker = Worker.builder(config).register(*handlers).build()
        over = anyio.Event()

        async def run() -> None:
            try:
                await worker.run_with_connector_until(loopback.connect, over.wait())
            except Exception as exc:
                if fails is None or not isinstance(exc, fails):
                    raise

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                yield worker
                over.set()

    return serve


@pytest.fixture
def enqueue(loopback: Loopback) -> Callable[..., Any]:
    """Enqueue a request into the loopback's store and return the job's id."""

    async def add(request: EnqueueRequest) -> str:
        return (await loopback.storage.jobs.enqueue(request)).id

    return add
