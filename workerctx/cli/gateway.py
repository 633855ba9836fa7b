"""``workerctx gateway``: a process that serves remote workers, by whatever integration is installed for it."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast

import anyio
from attrs import asdict, frozen
from cyclopts import Parameter

import workerctx
from workerctx.cli.ending import ignore_signals
from workerctx.cli.health import HealthOptions, HealthServer, Pulse, health_of
from workerctx.cli.logs import Announcer, LogOptions, in_words
from workerctx.cli.output import without_password
from workerctx.cli.turns import take_short_turns
from workerctx.cli.values import Whole  # noqa: TC001 - cyclopts reads the annotations
from workerctx.errors import CommandError, MonitorFailed, WorkerError
from workerctx.lifecycle import Monitor, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.cli.health import Health
    from workerctx.lifecycle import WorkerContext

ENTRY_POINTS: Final = "workerctx.gateways"
"""Entry-point group: a callable with the options of the command by name, which listens and returns a `Server`."""

_HARD_LIMIT: Final = 10.0
"""Seconds beyond the grace after which the process is ended."""


class Server(Protocol):
    """A gateway that listens; a service for a `Monitor`."""

    @property
    def url(self) -> str:
        """Where workers connect."""
        ...

    @property
    def context(self) -> WorkerContext:
        """The gateway's lifecycle."""
        ...

    async def run(self) -> None:
        """Serve until stopped and drained."""
        ...


@Parameter(name="*", group="Authentication")
@frozen
class AdmissionOptions:
    """Who may come in, and how that is secured.

    Attributes:
        token_file: Lines of who it is, its namespaces, and its token.
        certificate_file: Lines of who it is, its namespaces, and the name in its certificate.
        client_ca: The authority that has signed the certificates of workers.
        tls_certificate: That of the server, with its chain.
        tls_key: Its key.
    """

    token_file: Annotated[
        Path | None,
        Parameter(
            env_var="WORKERCTX_GATEWAY_TOKEN_FILE",
            help="Who may come in: a line each with a name, namespaces (a,b) and a token.",
        ),
    ] = None
    certificate_file: Annotated[
        Path | None,
        Parameter(
            env_var="WORKERCTX_GATEWAY_CERTIFICATE_FILE",
            help="The same with the name in a client certificate, such as CN=images, instead of a token.",
        ),
    ] = None
    client_ca: Annotated[
        Path | None,
        Parameter(
            env_var="WORKERCTX_GATEWAY_CLIENT_CA",
            help="Require client certificates that these authorities have signed (PEM).",
        ),
    ] = None
    tls_certificate: Annotated[
        Path | None,
        Parameter(env_var="WORKERCTX_GATEWAY_TLS_CERTIFICATE", help="Serve wss:// with this certificate chain (PEM)."),
    ] = None
    tls_key: Annotated[
        Path | None, Parameter(env_var="WORKERCTX_GATEWAY_TLS_KEY", help="The key of that certificate (PEM).")
    ] = None


def gateway(
    *,
    storage: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            metavar="URL",
            env_var="WORKERCTX_URL",
            help="A store; repeat it for more namespaces, each a URL that ends with its own ?namespace=.",
        ),
    ] = None,
    host: Annotated[str, Parameter(env_var="WORKERCTX_GATEWAY_HOST", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        Whole, Parameter(env_var="WORKERCTX_GATEWAY_PORT", help="The port to listen on; 0 for any that is free.")
    ] = 8474,
    grace: Annotated[
        float, Parameter(env_var="WORKERCTX_GRACE", help="Seconds that a stop lets workers finish what they have.")
    ] = 30.0,
    admission: AdmissionOptions | None = None,
    health: HealthOptions | None = None,
    logs: LogOptions | None = None,
) -> int:
    """Serve remote workers from a store until SIGTERM or Ctrl-C; a second one ends at once.

    Workers connect with `workerctx worker --remote`. Without authentication it does not start.
    """
    announcer = Announcer()
    try:
        announcer = (logs or LogOptions()).set_up()
        health = health or HealthOptions()
        health.check()
        server = _listen(storage, host=host, port=port, grace=grace, **asdict(admission or AdmissionOptions()))
        return _serve(server, storage or [], grace, health, announcer)
    except CommandError as exc:
        return announcer.complain(exc, 2)
    except WorkerError as exc:
        return announcer.complain(exc, 1)


def _listen(storage: list[str] | None, **options: Any) -> Server:
    """Make the server.

    Raises:
        CommandError: It cannot be made, or cannot listen.
    """
    if not storage:
        raise CommandError("a gateway needs a store: add --storage URL, or set WORKERCTX_URL")
    try:
        for entry in entry_points(group=ENTRY_POINTS):
            return cast("Callable[..., Server]", entry.load())(stores=storage, **options)
    except (WorkerError, OSError, OverflowError, ImportError) as exc:
        raise CommandError(str(exc)) from exc
    raise CommandError("nothing that could serve as a gateway is installed: pip install 'workerctx[gateway]'")


def _serve(server: Server, stores: list[str], grace: float, health: HealthOptions, announcer: Announcer) -> int:
    take_short_turns()
    name = f"{socket.gethostname()}-{os.getpid()}"
    monitor = Monitor(name, grace=grace)
    monitor.add(server)
    pulse = Pulse()

    def verdict() -> dict[str, Health]:
        return {name: health_of(server.context, pulse, health.stuck_after)}

    async def serve() -> None:
        async with pulse.beating():
            await monitor.run(hard_exit=True, hard_limit=_HARD_LIMIT)

    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(monitor))
        stack.callback(ignore_signals)
        facts = {"stores": ", ".join(map(without_password, stores)), "listens on": server.url, "grace": f"{grace:g} s"}
        if health.port is not None:
            probes = stack.enter_context(HealthServer(health, verdict))
            facts["health"] = f"{probes.url}/livez /readyz /startupz"
        announcer.say(f"workerctx {workerctx.__version__} gateway {name}", facts)
        try:
            anyio.run(serve)
        except MonitorFailed as exc:
            announcer.say(f"the gateway failed: {in_words(exc.failures[-1][1])}")
            return 1
        announcer.say(f"gateway {name} stopped: {server.context.reason}")
    return 0
