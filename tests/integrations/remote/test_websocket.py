"""Sessions over real WebSockets: whatever a server or a network does becomes one of our own words."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme
import uvicorn

from workerctx import Credentials, RemoteConfig
from workerctx.errors import PermissionDenied, ProtocolError, SessionLost, Unauthenticated
from workerctx.remote.frames import MAX_MESSAGE, Heartbeat, RegisterAck, Result, ResultAck
from workerctx.remote.websocket import connector
from workerctx.remote.wire import gateway_reader, messages_of
from workerctx_starlette.gateway._uvicorn import WorkerProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ACK = RegisterAck(version=1, worker_id="w")
TOKEN = "a token that nobody guesses"


async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Do what the path of a connection says."""
    assert scope["type"] == "websocket"
    assert (await receive())["type"] == "websocket.connect"
    word, _, value = scope["path"].strip("/").partition("/")
    if word == "refuse":
        answer = {"type": "websocket.http.response.start", "status": int(value), "headers": []}
        await send(answer)
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    if word == "shut":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    match word:
        case "close":
            await send({"type": "websocket.close", "code": int(value), "reason": "that is why"})
        case "text":
            await send({"type": "websocket.send", "text": "hello"})
        case "nonsense":
            await send({"type": "websocket.send", "bytes": b"\xc1"})
        case "large":
            await send({"type": "websocket.send", "bytes": b"\x90" * (MAX_MESSAGE + 10)})
        case "headers":
            token = dict(scope["headers"]).get(b"authorization", b"").decode()
            (message,) = messages_of([RegisterAck(version=1, worker_id=token)])
            await send({"type": "websocket.send", "bytes": message})
        case _:
            while (event := await receive())["type"] == "websocket.receive":
                frames = gateway_reader().read(event["bytes"])
                leases = tuple(frame.lease_id for frame in frames if isinstance(frame, Result))
                for message in messages_of([ResultAck(accepted=leases)]):
                    await send({"type": "websocket.send", "bytes": message})
            return
    await receive()


@contextmanager
def listening(**options: Any) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = {
            "ws": WorkerProtocol,
            "lifespan": "off",
            "log_level": "critical",
            "ws_max_size": 2 * MAX_MESSAGE,
        }
        server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **settings | options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server that does what it is asked for."""
    with listening() as port:
        yield port


def to(port: int, path: str = "", **settings: Any) -> Any:
    """Return what opens a session."""
    return connector(RemoteConfig(endpoint=f"ws://localhost:{port}/{path}", **settings))()


async def test_frames_go_out_and_come_in(port):
    """R7: frames travel in one message or in several, from several tasks at once, and arrive whole."""
    results = [Result(f"lease {number}", b'"' + b"x" * 100_000 + b'"') for number in range(8)]
    with anyio.fail_after(20):
        async with to(port) as session, anyio.create_task_group() as tasks:
            tasks.start_soon(session.send, results[:4])
            tasks.start_soon(session.send, results[4:])
            heard: set[str] = set()
            while len(heard) < len(results):
                for frame in await session.receive():
                    heard.update(frame.accepted)
    assert heard == {result.lease_id for result in results}


async def test_credentials_are_shown(port):
    """H5: a token goes with the request of each session."""
    async with to(port, "headers", credentials=TOKEN) as session:
        (frame,) = await session.receive()
    assert frame.worker_id == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("refuse/401", Unauthenticated),
        ("refuse/403", PermissionDenied),
        ("shut", PermissionDenied),
        ("refuse/404", SessionLost),
        ("refuse/503", SessionLost),
    ],
)
async def test_a_refusal_is_told_from_a_failure(path, error, port):
    """R2: 401 and 403 are denials; any other answer is a failure that may pass."""
    with pytest.raises(error) as refused:
        async with to(port, path):
            pass
    assert type(refused.value) is error
    assert path.rpartition("/")[2] in str(refused.value) or path == "shut"


async def test_nobody_there_is_a_failure(port):
    """R2: a port where nobody listens, and a name that does not exist, are failures that name the endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(SessionLost, match=f"localhost:{free}"):
        async with to(free):
            pass


@pytest.mark.parametrize("code", [1000, 1001, 1012])
async def test_a_close_in_good_order_is_the_end(code, port):
    """R3: a server that ends or restarts closes in good order; nothing can be sent after that."""
    async with to(port, f"close/{code}") as session:
        assert await session.receive() is None
        with pytest.raises(SessionLost):
            await session.send([Heartbeat()])


@pytest.mark.parametrize("code", [1008, 1011, 4000])
async def test_a_close_with_a_reproach_is_a_failure(code, port):
    """R3: any other code is a failure, with the server's reason."""
    async with to(port, f"close/{code}") as session:
        with pytest.raises(SessionLost, match=f"code {code}: that is why"):
            await session.receive()


@pytest.mark.parametrize(("path", "words"), [("text", "binary"), ("nonsense", "no array")])
async def test_what_is_no_frame_is_a_breach(path, words, port):
    """R8: a message that is no array of frames is a breach of the protocol, not a crash."""
    async with to(port, path) as session:
        with pytest.raises(ProtocolError, match=words):
            await session.receive()


async def test_a_message_that_is_too_large_ends_the_session(port):
    """R8: no more is read of a message than is accepted."""
    with anyio.fail_after(20):
        async with to(port, "large") as session:
            with pytest.raises(SessionLost, match="1009"):
                await session.receive()


async def test_a_frame_that_is_too_large_is_not_sent(port):
    """R8: what the gateway would refuse does not leave the worker, and the session is as it was."""
    async with to(port) as session:
        with pytest.raises(ProtocolError, match="accepts"):
            await session.send([Result("l", b"x" * (MAX_MESSAGE + 1))])
        await session.send([Result("m")])
        assert await session.receive() == [ResultAck(accepted=("m",))]


async def test_a_cut_is_one_kind_of_error(port, proxy_of):
    """R3: a connection that is reset is SessionLost for whoever sends and whoever receives, never a group."""
    proxy = proxy_of(("127.0.0.1", port))
    async with to(proxy.port) as session:
        await session.send([Heartbeat()])
        await session.receive()
        proxy.cut()
        with pytest.raises(SessionLost):
            await session.receive()
        with pytest.raises(SessionLost):
            await session.send([Heartbeat()])


async def test_what_the_block_raises_comes_out_bare(port):
    """L30: an exception of the caller leaves the session as it is, without a group around it."""
    with pytest.raises(KeyError, match="mine"):
        async with to(port):
            raise KeyError("mine")


async def test_a_peer_that_takes_nothing_does_not_hold_up_the_end(port, proxy_of):
    """R5: leaving a session is prompt although the goodbye cannot be sent."""
    proxy = proxy_of(("127.0.0.1", port))
    with anyio.fail_after(15), ExitStack() as stalled:
        async with to(proxy.port) as session:
            stalled.enter_context(proxy.stalling(to="server"))
            with anyio.move_on_after(0.3) as patience:
                while True:
                    await session.send([Result("l", b'"' + b"x" * 1_000_000 + b'"')])
            assert patience.cancelled_caught


async def test_dead_peers_are_noticed(port, proxy_of, monkeypatch):
    """R3: a peer that is gone without a word is noticed by its missing answers to pings."""
    monkeypatch.setattr("workerctx.remote.websocket._SILENCE", 0.1)
    monkeypatch.setattr("workerctx.remote.websocket._ANSWER", 0.1)
    proxy = proxy_of(("127.0.0.1", port))
    with anyio.fail_after(15):
        async with to(proxy.port) as session:
            with proxy.stalling(to="client"), pytest.raises(SessionLost, match=r"silent for 0\.2 seconds"):
                await session.receive()


async def test_a_peer_that_says_nothing_but_answers_is_there(port, monkeypatch):
    """R3: silence alone ends no session, as long as pings are answered."""
    monkeypatch.setattr("workerctx.remote.websocket._SILENCE", 0.01)
    pings = []
    with anyio.fail_after(15):
        async with to(port) as session, anyio.create_task_group() as tasks:
            ping = session._socket.ping

            async def counted() -> anyio.Event:
                pings.append(await ping())
                if len(pings) == 3:
                    tasks.start_soon(session.send, [Result("m")])
                return pings[-1]

            monkeypatch.setattr(session._socket, "ping", counted)
            monkeypatch.setattr("workerctx.remote.websocket._ANSWER", 0.5)
            assert await session.receive() == [ResultAck(accepted=("m",))]
    assert len(pings) >= 3
    assert pings[0].is_set()


@contextmanager
def certified(folder: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """A server with a certificate, and what trusts it."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with listening(ssl_certfile=folder / "server.pem") as port:
        yield port, trusting


async def test_certificates_are_checked(tmp_path):
    """H5: a server with an unknown certificate is not spoken to; with its authority it is."""
    with certified(tmp_path) as (port, trusting):
        endpoint = f"wss://localhost:{port}/"
        with pytest.raises(SessionLost, match="CERTIFICATE_VERIFY_FAILED"):
            async with connector(RemoteConfig(endpoint=endpoint))():
                pass
        config = RemoteConfig(endpoint=endpoint, credentials=Credentials(tls=trusting))
        async with connector(config)() as session:
            await session.send([Result("m")])
            assert await session.receive() == [ResultAck(accepted=("m",))]


@pytest.mark.parametrize(
    "junk",
    [b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"\x17\x03\x03\x00\x20" + bytes(32)],
    ids=["no record", "a bad record"],
)
@pytest.mark.parametrize("spoken", [False, True], ids=["at once", "later"])
async def test_what_is_no_tls_breaks_the_session_only(junk, spoken, tmp_path, proxy_of):
    """R3: a record that cannot be decrypted is SessionLost for whoever sends and whoever receives, like any cut."""
    with certified(tmp_path) as (port, trusting), anyio.fail_after(20):
        proxy = proxy_of(("127.0.0.1", port))
        config = RemoteConfig(endpoint=f"wss://localhost:{proxy.port}/", credentials=Credentials(tls=trusting))
        async with connector(config)() as session:
            if spoken:
                await session.send([Heartbeat()])
                await session.receive()
            proxy.say(junk)
            with pytest.raises(SessionLost):
                await session.receive()
            with pytest.raises(SessionLost):
                await session.send([Heartbeat()])
