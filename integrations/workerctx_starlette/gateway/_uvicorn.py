"""uvicorn, as a gateway wants it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from workerctx_starlette.gateway._names import tls_extension

try:
    import uvicorn
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
    from websockets.exceptions import InvalidState
except ImportError as exc:
    raise ImportError("workerctx gateway needs the 'gateway' extra: pip install 'workerctx[gateway]'") from exc

if TYPE_CHECKING:
    from collections.abc import Generator

_LAST_CONNECTIONS: Final = 5
"""Seconds that connections may take to close once the gateway has ended."""
_MARGIN: Final = 1024
"""Bytes by which a message may be larger than the gateway accepts, so that the gateway can say so."""


class WorkerProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which also tells whose certificate the client has shown, as ASGI's extension ``tls``."""

    async def run_asgi(self) -> None:
        """Run the application for one connection."""
        ssl_object = self.transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            scope = cast("dict[str, Any]", self.scope)
            scope["extensions"]["tls"] = tls_extension(ssl_object)
        await super().run_asgi()

    def send_receive_event_to_app(self) -> None:
        """Hand on a message; go on reading while the application waits for it, as two system calls a message cost."""
        if self.read_paused or not self.queue.empty():
            super().send_receive_event_to_app()
        else:
            self.read_paused = True
            super().send_receive_event_to_app()
            self.read_paused = False

    async def send(self, message: Any) -> None:
        """Send what the application says."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # a refusal is an answer, too, and nothing to complain of

    def shutdown(self) -> None:
        """Close the connection; uvicorn stumbles over one that the client is closing at this moment."""
        try:
            super().shutdown()
        except InvalidState:
            self.transport.close()


class Server(uvicorn.Server):
    """Leaves signals to whoever runs the gateway."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


def make_server(app: Any, max_message: int, options: dict[str, Any]) -> Server:
    """Make a server of WebSockets.

    Args:
        app: The ASGI application.
        max_message: Largest message that the application wants to see, in bytes.
        options: What else uvicorn is given.
    """
    return Server(
        uvicorn.Config(
            app,
            ws=WorkerProtocol,
            ws_max_size=max_message + _MARGIN,
            ws_per_message_deflate=False,
            ws_ping_interval=None,  # heartbeats find the dead on both sides
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_LAST_CONNECTIONS,
            **options,
        )
    )
