"""A gateway as a part of an application, and as an application of its own."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import AsyncExitStack
from types import SimpleNamespace
from uuid import uuid4

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from workerctx import Outcome
from workerctx.errors import InvalidTransition, StoreClosed, WorkerFailed
from workerctx.queue import connect
from workerctx.remote.frames import Credit, Register, RegisterAck
from workerctx.remote.wire import messages_of, worker_reader
from workerctx.testing import Faults
from workerctx_starlette import combine_lifespans, probes, worker_lifespan
from workerctx_starlette.gateway import Gateway, GatewayConfig, Identity, bearer_tokens
from workerctx_starlette.gateway._server import GatewayServer
from workerctx_starlette.gateway._uvicorn import WorkerProtocol

TOKEN = "a token that nobody guesses"


@pytest.fixture(params=["asyncio", "trio"])
def backend(request):
    """The event loop under a test client."""
    return request.param


def test_an_application_with_a_gateway_runs_twice(url, backend):
    """H3: the gateway lives in the application's lifespan, beside others, and its context is in the state."""
    gateway = Gateway(url, authenticate=bearer_tokens({TOKEN: Identity("tests")}))
    app = Starlette(
        routes=[WebSocketRoute("/workers", gateway), *probes()],
        lifespan=combine_lifespans(worker_lifespan("web"), gateway.lifespan),
    )
    contexts = []
    for _ in range(2):
        with TestClient(app, backend=backend) as client:
            contexts.append(gateway.context)
            assert client.get("/readyz").json()["workers"].keys() == {"web", "gateway"}
            with client.websocket_connect("/workers", headers={"authorization": f"Bearer {TOKEN}"}) as socket:
                for message in messages_of([Register(worker_id="w1", kinds=("resize",))]):
                    socket.send_bytes(message)
                (ack,) = worker_reader().read(socket.receive_bytes())
                assert isinstance(ack, RegisterAck)
            with pytest.raises(WebSocketDenialResponse) as refusal, client.websocket_connect("/workers"):
                pass
            assert refusal.value.status_code == 401
    assert contexts[0] is not contexts[1]
    assert {context.outcome for context in contexts} == {Outcome.CLEAN}


def test_a_gateway_is_an_application_of_its_own(url, backend):
    """H3: it answers the lifespan of its server, and says what a plain request should be instead."""
    gateway = Gateway(url, authenticate=bearer_tokens({TOKEN: Identity("tests")}))
    with TestClient(gateway, backend=backend) as client:
        assert gateway.context.is_running
        answer = client.get("/")
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert gateway.context.is_finished


def test_a_server_sends_at_once(url):
    """W6: a job does not wait until its worker's system has confirmed what was sent before, as TCP does by default."""
    gateway = Gateway(url, authenticate=bearer_tokens({TOKEN: Identity("tests")}))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        GatewayServer(gateway, listening, {})
        with socket.create_connection(listening.getsockname()):
            connection, _ = listening.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_store_that_cannot_be_opened_fails_the_start(tmp_path):
    """H3: the server hears why, in a sentence."""
    gateway = Gateway(
        f"sqlite:///{tmp_path}/no/such/folder/jobs.db", authenticate=bearer_tokens({TOKEN: Identity("tests")})
    )
    sent = []

    async def receive():
        await anyio.lowlevel.checkpoint()
        return {"type": "lifespan.startup"}

    async def send(message):
        await anyio.lowlevel.checkpoint()
        sent.append(message)

    with pytest.raises(Exception, match="folder"):
        await gateway({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]


async def test_a_store_that_is_gone_for_good_fails_the_gateway(url):
    """L29: a gateway without its store says so to whoever waits for it, and ends."""
    store = connect(url)
    gateway = Gateway(store, authenticate=bearer_tokens({TOKEN: Identity("tests")}))
    with anyio.fail_after(20), pytest.raises(WorkerFailed) as failure:
        async with gateway:
            await store.__aexit__(None, None, None)
            await gateway.context.wait_stopping()
    assert isinstance(failure.value.__cause__, StoreClosed)


def test_a_shutdown_bears_connections_that_are_closing():
    """R6: a client that says goodbye in the moment of a shutdown does not make the server stumble."""
    protocol = object.__new__(WorkerProtocol)
    cut = []
    protocol.stop_keepalive = lambda: None
    protocol.close_sent, protocol.handshake_complete = False, True
    protocol.queue = SimpleNamespace(put_nowait=lambda message: None)
    protocol.transport = SimpleNamespace(close=lambda: cut.append(True))
    protocol.conn = ServerProtocol(state=OPEN)
    protocol.conn.send_close(1000)
    protocol.shutdown()
    assert cut == [True]


def test_a_lone_message_does_not_stop_the_reading():
    """R7: no more than two messages of a worker wait in memory, and one alone is handed on without system calls."""
    protocol = object.__new__(WorkerProtocol)
    waiting, calls = deque(), []
    protocol.queue = SimpleNamespace(put_nowait=waiting.append, empty=lambda: not waiting)
    protocol.transport = SimpleNamespace(pause_reading=lambda: calls.append("pause"))
    protocol.close_sent, protocol.read_paused, protocol.curr_msg_data_type = False, False, "bytes"
    for message, expected in ((b"one", []), (b"two", ["pause"]), (b"three", ["pause"])):
        protocol.frames, protocol.bytes = [message], message  # as uvicorn's releases have it
        protocol.send_receive_event_to_app()
        assert calls == expected
    assert [each["bytes"] for each in waiting] == [b"one", b"two", b"three"]


async def test_a_store_that_is_not_there_yet_is_waited_for(tmp_path, eventually):
    """W4: with patience a gateway waits for its store, says so on its probes, and serves once it is there."""
    folder = tmp_path / "volume"
    gateway = Gateway(
        f"sqlite:///{folder}/jobs.db?synchronous=normal",
        authenticate=bearer_tokens({TOKEN: Identity("tests")}),
        config=GatewayConfig(store_patience=None),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.run)
        await eventually(lambda: "waiting for the store: cannot open" in gateway.context.ready_reason)
        assert (gateway.context.is_ready, gateway.context.is_alive) == (False, True)
        folder.mkdir()
        await eventually(lambda: gateway.context.is_ready)
        gateway.context.stop("seen enough")


async def test_a_stop_ends_the_wait_for_a_store(tmp_path, eventually):
    """W3: it is no failure, neither for a gateway nor for the server before it."""
    for served in (False, True):
        gateway = Gateway(
            f"sqlite:///{tmp_path}/volume/jobs.db",
            authenticate=bearer_tokens({TOKEN: Identity("tests")}),
            config=GatewayConfig(store_patience=None),
        )
        with anyio.fail_after(30), socket.create_server(("127.0.0.1", 0)) as listening:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon((GatewayServer(gateway, listening, {}) if served else gateway).run)
                await eventually(lambda: "waiting for the store" in gateway.context.ready_reason)  # noqa: B023
                gateway.context.stop("never mind")
        assert gateway.context.outcome is Outcome.NEVER_STARTED
        with pytest.raises(InvalidTransition, match="make a new gateway"):
            await gateway.run()


@pytest.mark.parametrize("recovers", ["first", "second"])
async def test_a_namespace_that_recovers_hides_no_other(eventually, peer_of, recovers):
    """L35: a gateway is ready once every store answers, whichever failed first."""
    faults = {"first": Faults(), "second": Faults()}
    stores = {name: fault.wrap(connect(f"memory://{uuid4().hex}")) for name, fault in faults.items()}
    gateway = Gateway(stores, authenticate=bearer_tokens({TOKEN: Identity("tests", namespaces=tuple(stores))}))
    async with gateway, AsyncExitStack() as stack:
        for name in stores:
            worker = await stack.enter_async_context(peer_of(gateway))
            await worker.register(worker_id=name, namespaces=(name,))
            faults[name].fail()
            await worker.say(Credit(0, 1))
            await eventually(lambda: f"namespace {name!r} fails" in gateway.context.ready_reason)  # noqa: B023
        assert all(f"namespace {name!r} fails" in gateway.context.ready_reason for name in stores)
        stays = "second" if recovers == "first" else "first"
        faults[recovers].lift()
        await eventually(lambda: f"namespace {recovers!r} fails" not in gateway.context.ready_reason)
        assert not gateway.context.is_ready
        assert f"namespace {stays!r} fails" in gateway.context.ready_reason
        faults[stays].lift()
        await eventually(lambda: gateway.context.is_ready)


async def test_a_gateway_without_workers_says_how_its_store_is(eventually, peer_of):
    """L35: an outage shows although nobody wants jobs, and its end although the workers have left meanwhile."""
    faults = Faults()
    gateway = Gateway(
        faults.wrap(connect(f"memory://{uuid4().hex}")),
        authenticate=bearer_tokens({TOKEN: Identity("tests")}),
        config=GatewayConfig(reap_interval=0.05),
    )
    async with gateway:
        faults.fail()
        await eventually(lambda: "namespace 'default' fails" in gateway.context.ready_reason)
        faults.lift()
        await eventually(lambda: gateway.context.is_ready)
        async with peer_of(gateway) as worker:
            await worker.register()
            faults.fail()
            await worker.say(Credit(0, 1))
            await eventually(lambda: not gateway.context.is_ready)
        await eventually(lambda: gateway.workers == 0)
        faults.lift()
        await eventually(lambda: gateway.context.is_ready)
