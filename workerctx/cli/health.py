"""Probes of a worker process: alive, ready, started, and if not, why; answered whatever its event loop does."""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Final, Self

import anyio
import msgspec
from attrs import define, field, frozen
from cyclopts import Parameter

from workerctx.cli.values import Whole  # noqa: TC001 - cyclopts reads the annotations
from workerctx.errors import CommandError
from workerctx.lifecycle import Outcome
from workerctx.lifecycle.groups import collapse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from types import TracebackType

    from workerctx.lifecycle import WorkerContext

_BEAT: Final = 0.5
"""Seconds between two signs of life of an event loop."""

_REQUEST_LIMIT: Final = 5.0
"""Seconds that a client may take to ask."""


@Parameter(name="*", group="Health")
@frozen
class HealthOptions:
    """Where and how a worker process answers probes.

    Attributes:
        port: None: nowhere.
        host: The address to listen on.
        stuck_after: Seconds that the event loop may be blocked before the worker does not count as alive.
    """

    port: Annotated[
        Whole | None,
        Parameter(
            name="--health-port",
            env_var="WORKERCTX_HEALTH_PORT",
            help="Answer /livez, /readyz and /startupz on this port; 0 for any that is free.",
        ),
    ] = None
    host: Annotated[
        str,
        Parameter(
            name="--health-host",
            env_var="WORKERCTX_HEALTH_HOST",
            help="With --health-port: the address to answer probes on.",
        ),
    ] = "127.0.0.1"
    stuck_after: Annotated[
        float,
        Parameter(
            name="--stuck-after",
            env_var="WORKERCTX_STUCK_AFTER",
            help="Seconds that the event loop may be blocked before /livez says 503.",
        ),
    ] = 30.0

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            CommandError: It does.
        """
        if not self.stuck_after > 0:
            raise CommandError("--stuck-after must be more than 0 seconds")


class Verdict(msgspec.Struct, frozen=True):
    """The answer to one question about a worker, and why."""

    ok: bool
    reason: str


class Health(msgspec.Struct, frozen=True):
    """The answers about one worker, each under the path that asks for it."""

    livez: Verdict
    readyz: Verdict
    startupz: Verdict


PROBES: Final = Health.__struct_fields__


@define(eq=False)
class Pulse:
    """When an event loop was last seen at work, readable from any thread."""

    _clock: Callable[[], float] = time.monotonic
    _seen: float | None = field(default=None, init=False)

    @property
    def silence(self) -> float:
        """Seconds since the loop was last seen at work; 0 while none runs."""
        seen = self._seen
        return 0.0 if seen is None else self._clock() - seen

    @asynccontextmanager
    async def beating(self) -> AsyncGenerator[None]:
        """Watch the running event loop, while inside."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._beat)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
        except BaseException as exc:
            error = collapse(exc)
            if error is exc:
                raise
            raise error from error.__cause__
        finally:
            self._seen = None

    async def _beat(self) -> None:
        while True:
            self._seen = self._clock()
            await anyio.sleep(_BEAT)


def health_of(worker: WorkerContext, pulse: Pulse, stuck_after: float) -> Health:
    """Return how a worker fares.

    Threads: any thread.
    """
    live = Verdict(worker.is_alive, worker.alive_reason)
    silence = pulse.silence
    if live.ok and silence > stuck_after:
        live = Verdict(ok=False, reason=f"the event loop has been blocked for {silence:.0f} seconds")
    return Health(live, Verdict(worker.is_ready, worker.ready_reason), _started(worker))


def _started(worker: WorkerContext) -> Verdict:
    if worker.outcome is Outcome.NEVER_STARTED:
        return Verdict(ok=False, reason="stopped before it started")
    return Verdict(ok=False, reason=worker.ready_reason) if worker.is_pending else Verdict(ok=True, reason="started")


class HealthServer:
    """Answers probes from a thread of its own; a context manager.

    200 if every worker is well and 503 if one is not, with JSON that says of each worker whether it is, and why.

    Args:
        options: Where to listen.
        health: Tells how each worker fares, by name; called from several threads.

    Raises:
        CommandError: Nothing can listen there.
    """

    def __init__(self, options: HealthOptions, health: Callable[[], Mapping[str, Health]]) -> None:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        try:
            self._server = _Server(family, (options.host, options.port or 0), health)
        except (OSError, OverflowError) as exc:
            raise CommandError(f"probes cannot be answered on {options.host} port {options.port}: {exc}") from exc
        host = f"[{options.host}]" if family is socket.AF_INET6 else options.host
        self.url: str = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="workerctx health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # Otherwise the thread looks up at its next poll, up to half a second later. macOS refuses this, and waits.
        with suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """The listening socket; each request has a thread, so that one slow client delays nobody."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], health: Callable[[], Mapping[str, Health]]
    ) -> None:
        self.address_family = family
        self.health = health
        super().__init__(address, _Request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""


class _Request(http.server.BaseHTTPRequestHandler):
    """One question."""

    timeout = _REQUEST_LIMIT
    server_version = "workerctx"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer."""
        assert isinstance(self.server, _Server)
        probe = self.path.partition("?")[0].strip("/")
        if probe not in PROBES:
            self._reply(404, {"error": f"ask for one of {', '.join('/' + name for name in PROBES)}"})
            return
        verdicts: dict[str, Verdict] = {name: getattr(found, probe) for name, found in self.server.health().items()}
        well = all(verdict.ok for verdict in verdicts.values())
        self._reply(200 if well else 503, {"ok": well, "workers": verdicts})

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _reply(self, status: int, document: object) -> None:
        body = msgspec.json.encode(document)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Log nothing: probes come every few seconds."""
