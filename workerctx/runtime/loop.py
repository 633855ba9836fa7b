"""`WorkerLoop`: serves the jobs of a registry, from the first claim to the last acknowledgement.

Nesting is the order of shutdown, outermost first: the store, the name on the list of workers, the thread that renews
leases, the chores (wake-ups, heartbeat, reaper, and the exchange, which tells the store the last outcomes), the
processes of handlers, the worker's context, the slots. A stop closes the desk; slots end when their job has ended; at
the deadline the context cancels them and their jobs are given back; only then do the outer layers end.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import AsyncContextManagerMixin

from workerctx.errors import InvalidTransition, WorkerError
from workerctx.lifecycle import Outcome, WorkerContext
from workerctx.lifecycle.groups import collapse
from workerctx.queue import CancelReason, WorkerInfo, new_id
from workerctx.runtime.boot import host_id
from workerctx.runtime.chores import Chores
from workerctx.runtime.config import WorkerConfig
from workerctx.runtime.desk import Desk
from workerctx.runtime.leases import LeaseKeeper
from workerctx.runtime.opening import STORE, opened
from workerctx.runtime.presence import Presence
from workerctx.runtime.progress import ProgressReports
from workerctx.runtime.seats import Seating
from workerctx.runtime.slots import Slots
from workerctx.service import DataMap, Processes, Site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from typing import Self

    from workerctx.lifecycle import Shutdown
    from workerctx.queue import Storage
    from workerctx.service import JobRegistry, Registration, TenantScopeProvider

T = TypeVar("T")

_log = logging.getLogger("workerctx")


class WorkerLoop(AsyncContextManagerMixin):
    """Runs the jobs of a registry's handlers, several at once, until it is stopped.

    ``await loop.run()`` serves until a stop; ``async with loop:`` serves in the background of the block, for example
    inside the lifespan of a web application. Its `context` is a `WorkerContext`: pause, resume, stop, listeners and
    waiting are the context's. One loop runs once.

    Args:
        jobs: the handlers and their store; opened and closed by the loop unless it is open.
        config: the settings; by default those of the environment, see `WorkerConfig.from_env`.
        name: for people and logs; by default host name and process id.
        tenant_scope: makes the async context manager inside which each run of a tenant's job happens.
        data: values that handlers can have injected, by type.
        shutdown: a token that stops the loop when it is set.
    """

    def __init__(
        self,
        jobs: JobRegistry,
        config: WorkerConfig | None = None,
        *,
        name: str | None = None,
        tenant_scope: TenantScopeProvider | None = None,
        data: Mapping[type[Any], object] | None = None,
        shutdown: Shutdown | None = None,
    ) -> None:
        self.jobs = jobs
        self.config: WorkerConfig = config or WorkerConfig.from_env()
        self.host_id: str = host_id()
        self.worker_id: str = new_id()
        self._tenant_scope = tenant_scope
        self._data = DataMap(data or {})
        self._burst = False
        self._entered = False
        self._keeper: LeaseKeeper | None = None
        self._desk = Desk()
        self._context = WorkerContext(
            name or f"{socket.gethostname()}-{os.getpid()}",
            grace=self.config.grace,
            service="WorkerLoop",
            shutdown=shutdown,
        )

    @classmethod
    def from_registry(cls, jobs: JobRegistry, config: WorkerConfig | None = None) -> Self:
        """Return a loop over what a registry has; for a `Monitor`: ``partial(WorkerLoop.from_registry, jobs)``."""
        return cls(jobs, config)

    @property
    def register(self) -> Registration:
        """The registry's decorator, for handlers that are added to a loop before it runs.

        Raises:
            InvalidTransition: it runs already, or was stopped.
        """
        self._refuse_second_run()
        return self.jobs.register

    @property
    def context(self) -> WorkerContext:
        """The worker's lifecycle: state, listeners, waiting."""
        return self._context

    @property
    def in_flight(self) -> int:
        """How many jobs are running."""
        return self._desk.in_flight

    async def run(self, *, burst: bool = False) -> None:
        """Serve jobs until the loop is stopped and drained.

        A store that cannot be reached yet is waited for, as long as `WorkerConfig.store_patience` says.

        Args:
            burst: stop as soon as there is nothing to claim and nothing runs; jobs that are not due are left. A store
                that cannot be reached is not waited for.

        Raises:
            WorkerFailed: the loop's infrastructure failed.
            WorkerError: the registry has no handler, or its store cannot be used.
            InvalidTransition: it was stopped before, or it ran already.
            KeyboardInterrupt: a handler left with it; its job was given back.

        Cancellation: a stop with grace 0; running jobs are given back, then the cancellation goes on.
        """
        self._burst = burst
        await self._serve_while(self._context.wait_stopping)

    async def run_until(self, awaitable: Awaitable[T]) -> T | None:
        """Serve jobs until `awaitable` ends, then drain, and hand back its result or exception.

        Returns:
            Its result; None if the loop was stopped first, in which case it is cancelled.

        Raises:
            WorkerFailed: the loop's infrastructure failed.
            InvalidTransition: the loop was stopped before, or it ran already.
        """

        async def until_stopped() -> T | None:
            async with anyio.create_task_group() as race:

                async def give_up() -> None:
                    await self._context.wait_stopping()
                    race.cancel_scope.cancel()

                race.start_soon(give_up)
                result = await awaitable
                race.cancel_scope.cancel()
                return result
            return None

        try:
            return await self._serve_while(until_stopped)
        finally:
            if isinstance(awaitable, Coroutine):
                awaitable.close()  # it never began if the loop could not

    async def drain(self) -> None:
        """Run everything that can be claimed now and return; for tests and scripts."""
        await self.run(burst=True)

    def shutdown(self, reason: str | None = None) -> bool:
        """Stop taking jobs and let the running ones end within the grace; True for the call that did it.

        Threads: any thread, and a signal handler.
        """
        return self._context.stop(reason)

    def cancel_runs(self, news: Mapping[str, CancelReason]) -> None:
        """Cancel the runs of leases, each for its reason; for a store that pushes such news.

        Threads: any.
        """
        if self._keeper is not None:
            self._keeper.tell(news)

    async def _serve_while(self, body: Callable[[], Awaitable[T]]) -> T | None:
        """Serve until `body` ends, drain, and hand back its result or exception; None if stopped while starting."""
        self._refuse_second_run()
        result, failure = None, None
        try:
            async with self:
                try:
                    result = await body()
                except Exception as exc:  # noqa: BLE001 - raised again after the drain
                    failure = collapse(exc)
        except InvalidTransition:
            if self._context.outcome is not Outcome.NEVER_STARTED:
                raise
        if failure is not None:
            raise failure
        return result

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        self._refuse_second_run()
        self._refuse_empty()
        self._entered = True
        self._desk.open(Seating.of(self.jobs.handlers, self.config.concurrency_per_kind))
        self._warn_of_unknown_kinds()
        try:
            async with opened(self.jobs, self._context, 0.0 if self._burst else self.config.store_patience):
                self._context.mark_unready("the store was not reached yet", about=STORE)  # until the first round
                storage = self.jobs.storage
                presence = self._presence(storage)
                reports = ProgressReports(storage.jobs, self._desk)
                chores = self._chores(storage, presence, reports)
                processes = Processes()
                slots = self._slots(storage, reports, processes)
                self._keeper = LeaseKeeper(storage, self._desk, self.config, self._context)
                try:
                    async with (
                        self._keeper,
                        chores.under_way(),
                        processes,
                        self._context,
                        # Slots are part of the body, not spawned tasks: what the context counts are jobs.
                        anyio.create_task_group() as working,
                    ):
                        for _ in range(self.config.concurrency):
                            slots.start(working)
                        yield self
                        self._context.stop("the body of its async with block ended")
                finally:
                    await presence.leave()
        except BaseException as exc:
            error = collapse(exc)
            if error is exc:
                raise
            raise error from error.__cause__
        if slots.interrupt is not None:
            raise slots.interrupt

    def _refuse_empty(self) -> None:
        if not self.jobs.kinds:
            raise WorkerError(f"{self.jobs!r} has nothing to run: register a handler with @jobs.register first")

    def _refuse_second_run(self) -> None:
        if self._entered or self._context.is_stopped:
            raise InvalidTransition(
                self._context.name, self._context.state.value, "run", "a loop runs once, make a new one"
            )

    def _warn_of_unknown_kinds(self) -> None:
        unknown = sorted(self.config.concurrency_per_kind.keys() - self.jobs.kinds)
        if unknown:
            _log.warning(
                "worker %r has no handler for %s, which concurrency_per_kind limits",
                self._context.name,
                ", ".join(map(repr, unknown)),
            )

    def _chores(self, storage: Storage, presence: Presence, reports: ProgressReports) -> Chores:
        return Chores(
            storage,
            self.jobs,
            self._desk,
            self.config,
            self._context,
            presence,
            reports,
            self.worker_id,
            self._burst,
        )

    def _slots(self, storage: Storage, reports: ProgressReports, processes: Processes) -> Slots:
        site = Site(
            storage=storage,
            worker=self._context,
            router=self.jobs.router,
            host_id=self.host_id,
            limiter=anyio.CapacityLimiter(self.config.concurrency),
            data=self._data,
            report=reports.put,
            processes=processes,
            on_enqueue=self.jobs.on_enqueue,
        )
        return Slots(self._desk, self.jobs, self._context, site, self._tenant_scope)

    def _presence(self, storage: Storage) -> Presence:
        info = WorkerInfo(
            id=self.worker_id,
            name=self._context.name,
            host_id=self.host_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            queues=tuple(self.config.queues),
            labels=self.config.labels,
            kinds=self.jobs.kinds,
            concurrency=self.config.concurrency,
            kind_limits=self._desk.seating.totals,
            key_limits=self._desk.seating.of_each_key,
        )
        return Presence(storage.workers, info, self._desk, self._context)
