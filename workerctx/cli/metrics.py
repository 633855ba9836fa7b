"""Metrics of a worker process, by whatever integration is installed for them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Final, Protocol, cast

from attrs import frozen
from cyclopts import Parameter

from workerctx.cli.values import Whole  # noqa: TC001 - cyclopts reads the annotations
from workerctx.errors import CommandError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from workerctx.runtime import WorkerLoop

ENTRY_POINTS: Final = "workerctx.metrics"
"""Entry-point group: a callable ``(loop, port, host)`` that returns a context manager of a `MetricsPage`."""


class MetricsPage(Protocol):
    """Where the metrics of a loop are."""

    @property
    def url(self) -> str:
        """Its address."""
        ...


@Parameter(name="*", group="Metrics")
@frozen
class MetricsOptions:
    """Where a worker process answers scrapes.

    Attributes:
        port: None: nowhere. Of several processes the first has this port, the second the next one, and so on.
        host: The address to listen on.
    """

    port: Annotated[
        Whole | None,
        Parameter(
            name="--metrics-port",
            env_var="WORKERCTX_METRICS_PORT",
            help="Answer /metrics on this port, each of several processes on the next one; 0 for any that is free.",
        ),
    ] = None
    host: Annotated[
        str,
        Parameter(
            name="--metrics-host",
            env_var="WORKERCTX_METRICS_HOST",
            help="With --metrics-port: the address to answer scrapes on.",
        ),
    ] = "127.0.0.1"

    @contextmanager
    def serving(self, loop: WorkerLoop, place: int = 1) -> Generator[dict[str, str]]:
        """Answer scrapes of a loop while inside, if that is wanted; yields what to say of it at the start.

        Args:
            loop: What is measured.
            place: Which of several processes this is.

        Raises:
            CommandError: Nothing can listen there, or no integration is installed.
        """
        if self.port is None:
            yield {}
            return
        with ExitStack() as stack:
            try:
                page = stack.enter_context(_serve()(loop, self.port and self.port + place - 1, self.host))
            except (ImportError, WorkerError) as exc:
                raise CommandError(str(exc)) from exc
            yield {"metrics": page.url}


def _serve() -> Callable[[WorkerLoop, int, str], AbstractContextManager[MetricsPage]]:
    for entry in entry_points(group=ENTRY_POINTS):
        return cast("Callable[[WorkerLoop, int, str], AbstractContextManager[MetricsPage]]", entry.load())
    raise CommandError("nothing that could serve metrics is installed: pip install 'workerctx[prometheus]'")
