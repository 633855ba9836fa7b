"""``workerctx worker``: a process that serves jobs, or several under a supervisor."""

from __future__ import annotations

import math
import os
import socket
import sys
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import anyio
from attrs import frozen

import workerctx
from workerctx.cli.ending import ignore_signals
from workerctx.cli.health import HealthServer, Pulse, health_of
from workerctx.cli.line import LowerEnd
from workerctx.cli.loading import load_registry
from workerctx.cli.logs import Announcer, in_words
from workerctx.cli.output import number_of, without_password
from workerctx.cli.reload import watching
from workerctx.cli.remote import DENIED
from workerctx.cli.restarts import Restarts
from workerctx.cli.supervisor import Supervisor
from workerctx.cli.turns import take_short_turns
from workerctx.errors import CommandError, InvalidConfig, MonitorFailed, SessionDenied, WorkerError
from workerctx.lifecycle import Monitor, Stop, WorkerContext, stop_on_signals
from workerctx.queue import connect
from workerctx.runtime import WorkerLoop

if TYPE_CHECKING:
    from pathlib import Path

    from workerctx.cli.health import Health, HealthOptions
    from workerctx.cli.logs import LogOptions
    from workerctx.cli.metrics import MetricsOptions
    from workerctx.cli.reload import ReloadOptions
    from workerctx.cli.remote import RemoteOptions
    from workerctx.cli.supervisor import ProcessOptions
    from workerctx.lifecycle import WorkerContext
    from workerctx.remote import Worker
    from workerctx.runtime import WorkerConfig
    from workerctx.service import JobRegistry


@frozen(eq=False)
class _Looping:
    """A loop, as a monitor runs it.

    Attributes:
        burst: Whether it ends when there is nothing to do.
    """

    loop: WorkerLoop
    burst: bool

    @property
    def context(self) -> WorkerContext:
        return self.loop.context

    async def run(self) -> None:
        await self.loop.run(burst=self.burst)


@frozen(kw_only=True)
class WorkerCommand:
    """What ``workerctx worker`` was asked for.

    Attributes:
        target: The registry, as ``MODULE:OBJECT``.
        name: The worker's; None takes host name and process id.
    """

    target: str
    config: WorkerConfig
    name: str | None
    burst: bool
    backend: Literal["asyncio", "trio"]
    processes: ProcessOptions
    reload: ReloadOptions
    health: HealthOptions
    metrics: MetricsOptions
    logs: LogOptions
    remote: RemoteOptions

    def run(self) -> int:
        """Serve until stopped and return the exit status; what went wrong is said in a sentence."""
        announcer = Announcer()
        try:
            line = LowerEnd.from_environment()
            announcer = self.logs.set_up(None if line is None else line.name)
            self._check()
            if line is None and (self.processes.processes is not None or self.reload.wanted):
                return self._supervise(announcer)
            return self._serve(announcer, line)
        except CommandError as exc:
            return announcer.complain(exc, 2)
        except WorkerError as exc:
            return announcer.complain(exc, 1)
        except Exception as exc:
            if not announcer.as_json:
                raise
            return announcer.complain(exc, 1)

    def _check(self) -> None:
        self.health.check()
        size = self.processes.processes
        for wrong, complaint in (
            (size is not None and size < 1, f"--processes must be at least 1, not {size}"),
            (
                not 0 <= self.processes.restart_delay < math.inf,
                "--restart-delay must be a number of seconds, and not negative",
            ),
            (self.burst and self.reload.wanted, "--burst and --reload do not go together: leave one of them out"),
            (
                self.remote.lacks_gateway,
                "--token-file and --tls-... are for a gateway: name it with --remote, or leave them out",
            ),
            (self._is_remote and self.burst, "--burst needs a store to look into: leave it out with --remote"),
            (
                self._is_remote and self.metrics.port is not None,
                "--metrics-port needs a store to ask: leave it out with --remote",
            ),
        ):
            if wrong:
                raise CommandError(complaint)
        if self.backend == "trio" and find_spec("trio") is None:
            raise CommandError("--backend trio needs the 'trio' extra: pip install 'workerctx[trio]'")

    def _supervise(self, announcer: Announcer) -> int:
        if sys.platform == "win32":
            raise CommandError("--processes and --reload need Linux or macOS: leave them out here")
        size = self.processes.processes or 1
        roots = self.reload.roots() if self.reload.wanted else []
        # Deaths of one place come ever more slowly; if all places are ill, twice is enough.
        restarts = None if roots else Restarts(self.processes.restart_delay, bearable=4 + size)
        command = [sys.executable, "-m", "workerctx", *sys.argv[1:]]
        supervisor = Supervisor(command, size, self.config.grace, self.config.hard_limit, restarts)
        name = self.name or f"{socket.gethostname()}-{os.getpid()}"
        with ExitStack() as stack:
            stack.enter_context(stop_on_signals(supervisor))
            stack.callback(ignore_signals)
            server = None
            if self.health.port is not None:
                server = stack.enter_context(HealthServer(self.health, supervisor.health))
            announcer.say(
                f"workerctx {workerctx.__version__} supervisor {name}", self._supervisor_facts(size, roots, server)
            )
            if roots:
                stack.enter_context(watching(roots, supervisor.restart))
            status = supervisor.run()
            announcer.say(f"supervisor {name} stopped: {supervisor.reason or 'all workers have ended'}")
        return status

    def _serve(self, announcer: Announcer, line: LowerEnd | None) -> int:
        jobs = load_registry(self.target)
        take_short_turns()
        try:
            worker = self._make_worker(jobs, self._name_of(line))
        except WorkerError as exc:
            raise CommandError(str(exc)) from exc
        name = worker.context.name
        monitor = Monitor(name, grace=self.config.grace)
        monitor.add(worker)
        pulse = Pulse()

        def health() -> Health:
            return health_of(worker.context, pulse, self.health.stuck_after)

        async def serve() -> None:
            # A handler's KeyboardInterrupt leaves asyncio's loop at once, and comes here when all tasks are cancelled.
            # If it left a second time, the loop would be closed before anyio's threads are told to end.
            with suppress(KeyboardInterrupt):
                async with pulse.beating():
                    await monitor.run(hard_exit=True, hard_limit=self.config.hard_limit)

        with ExitStack() as stack:
            stack.enter_context(stop_on_signals(monitor))
            stack.callback(ignore_signals)
            server = None
            if line is not None:
                line.attach(monitor, health)
            elif self.health.port is not None:
                server = stack.enter_context(HealthServer(self.health, lambda: {name: health()}))
            self._tell_of_drain(announcer, worker.context, line)
            number = 1 if line is None else line.number
            facts = self._worker_facts(jobs, server) if number == 1 else {}  # the others would say the same
            if isinstance(worker, _Looping):
                facts |= stack.enter_context(self.metrics.serving(worker.loop, number))
            if facts:
                announcer.say(f"workerctx {workerctx.__version__} worker {name}", facts)
            try:
                with suppress(KeyboardInterrupt):  # see above
                    anyio.run(serve, backend=self.backend)
            except MonitorFailed as exc:
                failure = exc.failures[-1][1]
                if isinstance(failure, InvalidConfig):  # such as a journal that cannot be used
                    raise CommandError(str(failure)) from failure
                announcer.say(f"the worker failed: {in_words(failure)}")
                return DENIED if isinstance(failure, SessionDenied) else 1
            announcer.say(f"worker {name} stopped: {worker.context.reason}")
        return 0

    def _tell_of_drain(self, announcer: Announcer, context: WorkerContext, line: LowerEnd | None) -> None:
        """Say it when the worker begins to drain; of one among several the supervisor does."""

        def tell(context: WorkerContext, event: Stop) -> None:
            if context.task_count:
                runs = number_of(context.task_count, "job")
                announcer.say(f"worker {context.name} drains, {event.reason}: {runs} under way, grace {self._grace}")

        if line is None:
            context.listen(tell, Stop)

    @property
    def _is_remote(self) -> bool:
        return self.remote.endpoint is not None

    def _make_worker(self, jobs: JobRegistry, name: str | None) -> _Looping | Worker:
        if self._is_remote:
            return self.remote.make_worker(jobs, self.config, name)
        connect(jobs.url)
        if not jobs.kinds:
            raise CommandError(f"{jobs!r} has nothing to run: register a handler with @jobs.register first")
        return _Looping(WorkerLoop(jobs, self.config, name=name), self.burst)

    def _name_of(self, line: LowerEnd | None) -> str | None:
        """Return what the worker was called; one of several processes has its number behind that."""
        return self.name if self.name is None or line is None else f"{self.name}-{line.number}"

    def _supervisor_facts(self, size: int, roots: list[Path], server: HealthServer | None) -> dict[str, str]:
        facts = {"serves": self.target, "processes": str(size), "grace": self._grace}
        if roots:
            facts["reload"] = f"when Python files change in {', '.join(map(str, roots))}"
        return facts | _probes(server)

    def _worker_facts(self, jobs: JobRegistry, server: HealthServer | None) -> dict[str, str]:
        source = (
            {"store": without_password(jobs.url)} if self.remote.endpoint is None else {"gateway": self.remote.endpoint}
        )
        facts = source | {
            "queues": self._queues,
            "kinds": ", ".join(jobs.kinds),
            "concurrency": f"{self.config.concurrency} on {self.backend}",
            "grace": self._grace,
        }
        return facts | _probes(server)

    @property
    def _queues(self) -> str:
        queues = self.config.queues
        return ", ".join(queues if len(queues) == 1 else (f"{queue}={weight}" for queue, weight in queues.items()))

    @property
    def _grace(self) -> str:
        return "no limit" if self.config.grace is None else f"{self.config.grace:g} s"


def _probes(server: HealthServer | None) -> dict[str, str]:
    return {} if server is None else {"health": f"{server.url}/livez /readyz /startupz"}
