"""Sessions over WebSocket: through proxies, beside an application, with TLS; on asyncio and trio."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from workerctx.errors import PermissionDenied, ProtocolError, RemoteError, SessionLost, Unauthenticated
from workerctx.lifecycle.groups import collapse
from workerctx.remote.frames import MAX_MESSAGE
from workerctx.remote.wire import messages_of, worker_reader

try:
    import httpx2
    from httpcore2 import ReadError, WriteError, WriteTimeout
    from httpx2.websockets import AsyncWebSocketSession, WebSocketDisconnect, WebSocketUpgradeError
    from wsproto.events import BytesMessage, TextMessage
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError("a remote worker needs the extra 'remote': pip install 'workerctx[remote]'") from _missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from workerctx.remote.config import RemoteConfig
    from workerctx.remote.frames import FromWorker
    from workerctx.remote.session import Connector
    from workerctx.remote.wire import Incoming

_CONNECT: Final = 10.0
"""Seconds in which a connection must be made and upgraded."""
_SILENCE: Final = 15.0
"""Seconds without a message after which the peer is pinged, until it has said how often it wants heartbeats."""
_ANSWER: Final = 5.0
"""Seconds in which a ping must be answered, or the peer counts as gone."""
_GOODBYE: Final = 0.5
"""Seconds in which the word of goodbye must have left."""
_IN_GOOD_ORDER: Final = (1000, 1001, 1005, 1012, 1013)
"""Close codes of a server that ends, restarts or has enough; any other is a failure."""


class _PatientStream:
    """A connection whose writes are bounded, those included that cannot be cancelled, and whose TLS breaks like it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.patience: float | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data: bytes = await self._stream.read(max_bytes, timeout)
        except ssl.SSLError as exc:  # on asyncio it comes as it is, and would end more than the session
            raise ReadError(str(exc)) from exc
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._stream.write(buffer, self.patience if timeout is None else timeout)
        except WriteTimeout as exc:
            raise WriteError("the other side takes nothing") from exc
        except ssl.SSLError as exc:
            raise WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        await self._stream.aclose()


class WebSocketSession:
    """A `WorkerSession` over one WebSocket; each message of frames is one binary message."""

    def __init__(self, socket: AsyncWebSocketSession) -> None:
        self.max_message: int = MAX_MESSAGE
        self.silence: float = _SILENCE
        self._socket = socket
        self._reader = worker_reader()
        self._turn = anyio.Lock(fast_acquire=True)

    async def send(self, frames: Sequence[FromWorker], /) -> None:
        """Send frames, in order; may be called by several tasks.

        Raises:
            SessionLost: The session broke.
            ProtocolError: One of them is too large.
        """
        messages = messages_of(frames, self.max_message)
        async with self._turn:
            for message in messages:
                try:
                    await self._socket.send_bytes(message)
                except Exception as exc:
                    raise _lost(exc) from exc

    async def receive(self) -> Sequence[Incoming] | None:
        """Return the frames of the next message; None once the gateway has closed the session in good order.

        Raises:
            SessionLost: The session broke.
            ProtocolError: The gateway said what cannot be understood.
        """
        try:
            event = await self._next()
        except WebSocketDisconnect as exc:
            if exc.code in _IN_GOOD_ORDER:
                return None
            raise _lost(exc) from exc
        except Exception as exc:
            raise _lost(exc) from exc
        match event:
            case BytesMessage():
                return self._reader.read(bytes(event.data))
            case TextMessage():
                raise ProtocolError("the gateway sent a text message, and frames are binary")
            case _:
                return ()

    async def _next(self) -> object:
        while True:
            with anyio.move_on_after(self.silence):
                return await self._socket.receive()
            answered = anyio.Event()
            with anyio.move_on_after(_ANSWER):
                answered = await self._socket.ping()
                return await self._socket.receive()
            if not answered.is_set():
                raise TimeoutError(f"the other side was silent for {self.silence + _ANSWER:g} seconds, also to a ping")


def connector(config: RemoteConfig) -> Connector:
    """Return what opens sessions with the gateway of `config`."""

    @asynccontextmanager
    async def connect() -> AsyncGenerator[WebSocketSession]:
        credentials = config.credentials
        if credentials is None:
            headers: dict[str, str] = {}
        elif callable(credentials.token):  # it may ask somebody, and a stop does not wait for the answer
            headers = await to_thread.run_sync(credentials.request_headers, abandon_on_cancel=True)
        else:
            headers = credentials.request_headers()
        tls = True if credentials is None or credentials.tls is None else credentials.tls
        inside = False
        try:
            async with (
                httpx2.AsyncClient(verify=tls, timeout=_CONNECT) as client,
                client.websocket(
                    config.endpoint,
                    headers=headers,
                    max_message_size_bytes=MAX_MESSAGE,
                    keepalive_ping_interval_seconds=None,  # a session asks once it has heard nothing
                ) as socket,
            ):
                stream = _PatientStream(socket.stream)
                socket.stream = stream  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue] - the part of it that is used
                inside = True
                try:
                    yield WebSocketSession(socket)
                finally:
                    stream.patience = _GOODBYE
        except Exception as exc:  # noqa: BLE001 - the one place where all that a socket raises becomes our own
            error = collapse(exc)
            if isinstance(error, RemoteError) or inside:
                raise error from error.__cause__
            raise _refused(config.endpoint, error) from error

    return connect


def _refused(endpoint: str, error: BaseException) -> RemoteError:
    """Say why no session could be opened."""
    if not isinstance(error, WebSocketUpgradeError):
        return SessionLost(f"cannot connect to {endpoint}: {_words(error)}")
    status = error.response.status_code
    message = f"{endpoint} answered {status} to a request for a session"
    match status:
        case 401:
            return Unauthenticated(f"{message}: check the credentials")
        case 403:
            return PermissionDenied(f"{message}: check the credentials and the path")
        case _:
            return SessionLost(message)


def _lost(error: BaseException) -> SessionLost:
    error = collapse(error)
    if isinstance(error, WebSocketDisconnect):
        reason = f": {error.reason}" if error.reason else ""
        return SessionLost(f"the gateway closed the session with code {error.code}{reason}")
    return SessionLost(f"the session broke: {_words(error)}")


def _words(error: BaseException) -> str:
    """Say what went wrong: libraries wrap the cause, and some say nothing themselves."""
    cause: BaseException | None = error
    while cause is not None and not str(cause):
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__ if cause is None else f"{type(cause).__name__}: {cause}"
