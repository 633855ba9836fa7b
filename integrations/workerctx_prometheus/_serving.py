"""Where scrapers find the metrics: an ASGI endpoint, or a port of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from attrs import Factory, define, field, frozen
from prometheus_client import (
    make_asgi_app,  # pyright: ignore[reportUnknownVariableType] - it leaves the application's type open
    start_http_server,
)

from workerctx.errors import WorkerError

if TYPE_CHECKING:
    from threading import Thread
    from types import TracebackType
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry
    from starlette.routing import Route

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Application: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


@frozen(eq=False)
class MetricsEndpoint:
    """Answers scrapes, as an ASGI application in the format that the scraper asks for."""

    _registry: CollectorRegistry
    _answer: _Application = field(
        init=False,
        repr=False,
        default=Factory(lambda self: cast("_Application", make_asgi_app(self._registry)), takes_self=True),
    )

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a scrape."""
        await self._answer(scope, receive, send)

    def route(self, path: str) -> Route:
        """Make a Starlette route.

        Raises:
            ImportError: Starlette is not installed.
        """
        try:
            from starlette.routing import Route
        except ModuleNotFoundError as exc:
            raise ImportError(
                "a route for metrics needs the 'starlette' extra: pip install 'workerctx[prometheus,starlette]'"
            ) from exc
        return Route(path, self, name="metrics", methods=["GET"])


@define(eq=False)
class MetricsServer:
    """Answers scrapes on a port until it is closed; made by `WorkerMetrics.serve`."""

    _host: str
    _server: WSGIServer
    _thread: Thread

    @classmethod
    def start(cls, registry: CollectorRegistry, port: int, host: str) -> Self:
        """Open the port and answer from a thread.

        Raises:
            WorkerError: the port cannot be opened.
        """
        try:
            return cls(host, *start_http_server(port, host, registry))
        except (OSError, OverflowError) as exc:
            raise WorkerError(f"metrics cannot be served on {host} port {port}: {exc}; choose another port") from exc

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/metrics"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Close the port; blocks for up to half a second on macOS."""
        # Elsewhere the thread looks up from its poll at once.
        with suppress(OSError):
            self._server.socket.shutdown(SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
