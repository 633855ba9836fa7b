"""What the tests of the gateway share: stores, gateways, and a worker that says exactly what a test has it say."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest
from attrs import define, field

from workerctx.queue import connect
from workerctx.remote.frames import Credit, FromGateway, Register, RegisterAck, Result, ResultAck, Task
from workerctx.remote.wire import messages_of, worker_reader
from workerctx_starlette.gateway import Gateway, GatewayConfig, Identity, bearer_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from workerctx.queue import Storage

TOKEN = "a token that nobody guesses"
PATIENCE = 30
HURRIED = GatewayConfig(
    heartbeat=0.05,
    resume_window=10.0,
    poll_interval=0.2,
    reap_interval=0.1,
    register_timeout=15.0,
    send_timeout=15.0,
    grace=30.0,
)


@define(eq=False)
class Peer:
    """The worker's end of a connection, played by a test.

    Attributes:
        heard: Every frame that the gateway has sent and the test has not yet asked for.
        answer: The status and body with which the gateway has refused the connection.
        closed: The code and reason with which the gateway has closed it.
    """

    headers: dict[str, str]
    heard: list[FromGateway] = field(factory=list)
    answer: tuple[int, str] | None = None
    closed: tuple[int, str] | None = None
    reads: bool = True
    scope: dict[str, Any] = field(factory=dict)
    _to_gateway: Any = None
    _from_gateway: Any = None
    _received: int = 0
    _status: int = 0

    async def say(self, *frames: Any) -> None:
        """Send frames in one message."""
        for message in messages_of(frames):
            await self.say_raw(message)

    async def say_raw(self, message: bytes | str) -> None:
        """Send a message as it is."""
        kind = "bytes" if isinstance(message, bytes) else "text"
        await self._to_gateway.send({"type": "websocket.receive", kind: message})

    async def hear(self, kind: type[Any]) -> Any:
        """Wait for a frame of a type; those before it are kept for later."""
        with anyio.fail_after(PATIENCE):
            while True:
                for frame in self.heard:
                    if isinstance(frame, kind):
                        self.heard.remove(frame)
                        return frame
                assert self.closed is None, f"waited in vain for {kind.__name__}, closed with {self.closed}"
                await self._listen()

    async def register(self, **about: Any) -> RegisterAck:
        """Register and hear that it was done."""
        await self.say(Register(**({"worker_id": "w1", "kinds": ("resize",)} | about)))
        return await self.hear(RegisterAck)

    async def tasks(self, number: int, free: int | None = None) -> list[Task]:
        """Ask for as many tasks, and wait for them."""
        await self.say(Credit(self._received, number if free is None else free))
        tasks = [await self.hear(Task) for _ in range(number)]
        self._received += number
        return tasks

    async def finish(self, *tasks: Task, outputs: bytes = b"null") -> None:
        """Report results and wait for their acknowledgement."""
        await self.say(*(Result(task.lease_id, outputs) for task in tasks))
        due = {task.lease_id for task in tasks}
        while due:
            ack = await self.hear(ResultAck)
            assert not ack.lost
            assert not ack.refused
            due -= set(ack.accepted)

    async def ended(self) -> tuple[int, str]:
        """Wait until the gateway has closed the connection."""
        with anyio.fail_after(PATIENCE):
            while self.closed is None and self.answer is None:
                await self._listen()
        return self.closed or self.answer

    def hang_up(self) -> None:
        """Be gone, without a word."""
        self._to_gateway.send_nowait({"type": "websocket.disconnect", "code": 1006})

    async def _listen(self) -> None:
        message = await self._from_gateway.receive()
        match message["type"]:
            case "websocket.send":
                self.heard.extend(worker_reader().read(message["bytes"]))
            case "websocket.close":
                self.closed = message["code"], message.get("reason", "")
            case "websocket.http.response.start":
                self._status = message["status"]
            case "websocket.http.response.body":
                self.answer = self._status, message["body"].decode()


@pytest.fixture
def peer_of() -> Callable[..., Any]:
    """Connect a played worker to an ASGI application."""

    @asynccontextmanager
    async def peer_of(app: Any, token: str | None = TOKEN, **scope: Any) -> AsyncGenerator[Peer]:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        peer = Peer(headers)
        peer._to_gateway, receiving = anyio.create_memory_object_stream[Any](1000)
        # Nothing is buffered: what the test does not read, the gateway cannot send.
        sending, peer._from_gateway = anyio.create_memory_object_stream[Any](scope.pop("buffer", 1000))
        peer._to_gateway.send_nowait({"type": "websocket.connect"})
        peer.scope = {
            "type": "websocket",
            "path": "/",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 4242),
            "query_string": b"",
            "extensions": {"websocket.http.response": {}},
            **scope,
        }
        async with receiving, sending, peer._to_gateway, peer._from_gateway, anyio.create_task_group() as tasks:
            tasks.start_soon(app, peer.scope, receiving.receive, sending.send)
            yield peer
            peer.hang_up()

    return peer_of


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store that several may open; what is durable is tried with real servers."""
    return f"memory://{tmp_path.name}-{id(tmp_path)}"


@pytest.fixture
async def storage(url: str) -> AsyncGenerator[Storage]:
    """The store, as an application beside the gateway sees it."""
    async with connect(url) as storage:
        yield storage


@pytest.fixture
def gateway_of(url: str) -> Callable[..., Gateway]:
    """Make a gateway to the store, which does everything soon, with settings of its own if need be.

    It knows the worker that `peer_of` connects, unless it has its own way to find out who comes.
    """

    def gateway_of(authenticate: Any = None, store: Any = url, **settings: Any) -> Gateway:
        if authenticate is None:
            authenticate = bearer_tokens({TOKEN: Identity("tests")})
        return Gateway(store, authenticate=authenticate, config=attrs.evolve(HURRIED, **settings))

    return gateway_of


@pytest.fixture
def gateway(gateway_of: Callable[..., Gateway]) -> Gateway:
    """A gateway to the store, as it is when nothing special is asked for."""
    return gateway_of()
