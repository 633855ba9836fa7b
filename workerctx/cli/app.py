"""The commands, and what their exit statuses mean.

0: done, a worker stopped cleanly. 1: it failed. 2: the command line or the environment is wrong. 70: the process did
not end within its grace and was ended. 77: the gateway of a remote worker refuses it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console

import workerctx
from workerctx.cli.enqueue import enqueue
from workerctx.cli.gateway import gateway
from workerctx.cli.health import HealthOptions
from workerctx.cli.jobs import jobs
from workerctx.cli.logs import LogOptions
from workerctx.cli.metrics import MetricsOptions
from workerctx.cli.migrate import migrate
from workerctx.cli.move import move_store
from workerctx.cli.output import complain
from workerctx.cli.prune import prune
from workerctx.cli.queues import queues
from workerctx.cli.reload import ReloadOptions
from workerctx.cli.remote import RemoteOptions
from workerctx.cli.schedules import schedules
from workerctx.cli.supervisor import ProcessOptions
from workerctx.cli.values import Whole  # noqa: TC001 - cyclopts reads the annotations
from workerctx.cli.worker import WorkerCommand
from workerctx.cli.workers import workers
from workerctx.cli.workflows import workflows
from workerctx.errors import InvalidConfig
from workerctx.runtime import WorkerConfig

app: App = App(
    name="workerctx",
    help="Run workers and look after their jobs.",
    version=workerctx.__version__,
    error_console=Console(stderr=True, soft_wrap=True, highlight=False, markup=False),
    error_formatter=lambda error: f"workerctx: {error}",
)


@app.command
def worker(
    target: Annotated[str, Parameter(help="The registry, as MODULE:OBJECT, for example app:jobs.")],
    /,
    *,
    concurrency: Annotated[
        Whole | None,
        Parameter(name=["--concurrency", "-c"], help="How many jobs run at once. [env var: WORKERCTX_CONCURRENCY]"),
    ] = None,
    queue: Annotated[
        list[str] | None,
        Parameter(
            name=["--queue", "-q"],
            negative="",
            metavar="NAME[=WEIGHT]",
            help="A queue to serve; repeat it for more. With weights, as in -q high=3 -q default, each is served that "
            "often; without, each is preferred to the next. [env var: WORKERCTX_QUEUES]",
        ),
    ] = None,
    name: Annotated[
        str | None,
        Parameter(
            name="--name",
            env_var="WORKERCTX_NAME",
            help="What logs and lists call this worker; by default host name and process id.",
        ),
    ] = None,
    grace: Annotated[
        float | None,
        Parameter(name="--grace", help="Seconds that a stop lets running jobs go on. [env var: WORKERCTX_GRACE]"),
    ] = None,
    burst: Annotated[
        bool,
        Parameter(name="--burst", env_var="WORKERCTX_BURST", help="Stop as soon as there is nothing to do."),
    ] = False,
    backend: Annotated[
        Literal["asyncio", "trio"], Parameter(env_var="WORKERCTX_BACKEND", help="The event loop.")
    ] = "asyncio",
    remote: RemoteOptions | None = None,
    processes: ProcessOptions | None = None,
    reload: ReloadOptions | None = None,
    health: HealthOptions | None = None,
    metrics: MetricsOptions | None = None,
    logs: LogOptions | None = None,
) -> int:
    """Serve the jobs of a registry until SIGTERM or Ctrl-C; a second one ends at once.

    Every setting of WorkerConfig can come from the environment too: WORKERCTX_LEASE_TTL and so on.
    """
    try:
        config = WorkerConfig.from_env(concurrency=concurrency, queues=queue or None, grace=grace)
    except InvalidConfig as exc:
        return complain(exc, 2)
    return WorkerCommand(
        target=target,
        config=config,
        name=name,
        burst=burst,
        backend=backend,
        processes=processes or ProcessOptions(),
        reload=reload or ReloadOptions(),
        health=health or HealthOptions(),
        metrics=metrics or MetricsOptions(),
        logs=logs or LogOptions(),
        remote=remote or RemoteOptions(),
    ).run()


app.command(gateway)
app.command(enqueue)
app.command(jobs)
app.command(workers)
app.command(queues)
app.command(schedules)
app.command(workflows)
app.command(prune)
app.command(migrate)
app.command(move_store, name="move")
