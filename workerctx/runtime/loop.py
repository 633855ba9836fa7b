"""`WorkerLoop`: serves the jobs of a registry, from the first claim to the last acknowledgement.

Nesting is the order of shutdown, outermost first: the store, the loop's own tasks (exchange, wake-ups, heartbeat,
reaper) and the lease thread, the worker's context, the slots. A stop closes the desk; slots end when their job has
ended; at the deadline the context cancels them and their jobs are given back; only then do the outer layers end.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import AsyncContextManagerMixin

from workerctx.errors import WorkerError, WorkerNotFound
from workerctx.lifecycle import HeartBeat, Idle, Pause, Resume, Stop, WorkerContext
from workerctx.lifecycle.host import collapse
from workerctx.queue import CancelReason, WorkerCommand, WorkerInfo, new_id
from workerctx.runtime.config import WorkerConfig
from workerctx.runtime.desk import Desk
from workerctx.runtime.exchange import Exchange
from workerctx.runtime.leases import LeaseKeeper
from workerctx.runtime.progress import ProgressReports
from workerctx.runtime.slots import Slots, TenantScopeProvider
from workerctx.service import DataMap, Site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from typing import Self

    from workerctx.lifecycle import Event, Shutdown
    from workerctx.queue import Storage
    from workerctx.service import JobRegistry

_log = logging.getLogger("workerctx")

T = TypeVar("T")

_GOODBYE = 2.0
"""Seconds in which a worker that has stopped may still take its name off the list."""


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

    Raises:
        WorkerError: the registry has no handler.
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
        if not jobs.kinds:
            raise WorkerError(f"{jobs!r} has nothing to run: register a handler with @jobs.register first")
        self.jobs = jobs
        self.config = config or WorkerConfig.from_env()
        self.host_id = new_id()
        self.worker_id = new_id()
        self._tenant_scope = tenant_scope
        self._data = DataMap(data or {})
        self._burst = False
        self._desk = Desk()
        self._context = WorkerContext(
            name or f"{socket.gethostname()}-{os.getpid()}",
            grace=self.config.grace,
            service="WorkerLoop",
            shutdown=shutdown,
        )
        self._context.mark_unready("the store was not reached yet")

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

        Args:
            burst: stop as soon as there is nothing to claim and nothing runs; jobs that are not due are left.

        Raises:
            WorkerFailed: the loop's infrastructure failed.
            InvalidTransition: it was stopped before, or it ran already.

        Cancellation: a stop with grace 0; running jobs are given back, then the cancellation goes on.
        """
        self._burst = burst
        async with self:
            await self._context.wait_stopping()

    async def run_until(self, awaitable: Awaitable[T]) -> T:
        """Serve jobs until `awaitable` ends, then drain, and hand back its result or exception.

        Raises:
            WorkerFailed: the loop's infrastructure failed.
        """
        async with self:
            return await awaitable

    async def drain(self) -> None:
        """Run everything that can be claimed now and return; for tests and scripts."""
        await self.run(burst=True)

    def shutdown(self, reason: str | None = None) -> bool:
        """Stop taking jobs and let the running ones end within the grace; True for the call that did it.

        Threads: any thread, and a signal handler.
        """
        return self._context.stop(reason)

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        try:
            async with self.jobs, anyio.create_task_group() as tasks:
                storage = self.jobs.storage
                exchange = self._exchange(storage)
                reports = ProgressReports(storage.jobs, self._desk)
                slots = self._slots(storage, reports)
                try:
                    with LeaseKeeper(storage, self._desk, self.config, self._context):
                        await self._register(storage)
                        for serve in (exchange.run, exchange.watch, reports.run):
                            tasks.start_soon(self._serve, serve)
                        tasks.start_soon(self._serve, lambda: self._beat(storage))
                        tasks.start_soon(self._serve, lambda: self._reap(storage, exchange))
                        self._context.listen(lambda _, event: self._follow(event, exchange), Pause, Resume, Stop)
                        # Slots are part of the body, not spawned tasks: what the context counts are jobs.
                        async with self._context, anyio.create_task_group() as working:
                            for number in range(self.config.concurrency):
                                working.start_soon(slots.work, number, name=f"slot {number}")
                            yield self
                            self._context.stop("the body of its async with block ended")
                finally:
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await self._say_goodbye(storage, exchange, reports)
        except BaseException as exc:
            error = collapse(exc)
            if error is exc:
                raise
            raise error from error.__cause__

    def _exchange(self, storage: Storage) -> Exchange:
        return Exchange(
            storage.jobs, self._desk, self.config, self._context, self.worker_id, self.jobs.kinds, self._note_idle
        )

    def _slots(self, storage: Storage, reports: ProgressReports) -> Slots:
        site = Site(
            storage=storage,
            worker=self._context,
            router=self.jobs.router,
            host_id=self.host_id,
            limiter=anyio.CapacityLimiter(self.config.concurrency),
            data=self._data,
            report=reports.put,
        )
        return Slots(self._desk, self.jobs, self._context, site, self._tenant_scope)

    async def _serve(self, task: Callable[[], Awaitable[object]]) -> None:
        try:
            await task()
        except Exception as exc:  # noqa: BLE001 - the loop's own failure fails the worker, visibly
            self._context.fail(exc)

    def _follow(self, event: Event, exchange: Exchange) -> None:
        if isinstance(event, Stop):
            self._desk.close()
            for run in list(self._desk.live.values()):
                run.cancel(CancelReason.SHUTDOWN, scope_too=False)
        exchange.look()

    def _note_idle(self) -> None:
        self._context.emit(Idle())
        if self._burst:
            self._context.stop("burst: nothing is left to do")

    async def _register(self, storage: Storage) -> None:
        await storage.workers.register(
            WorkerInfo(
                id=self.worker_id,
                host_id=self.host_id,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                queues=self.config.queues,
                labels=self.config.labels,
                kinds=self.jobs.kinds,
                concurrency=self.config.concurrency,
            )
        )

    async def _beat(self, storage: Storage) -> None:
        """Show that the worker lives, and obey commands that were sent to it."""
        while True:
            await anyio.sleep(self.config.heartbeat)
            self._context.emit(HeartBeat(in_flight=self.in_flight))
            try:
                commands = await storage.workers.heartbeat(
                    self.worker_id, state=self._context.state.value, in_flight=self.in_flight
                )
            except WorkerNotFound:
                await self._register(storage)
            except Exception:  # noqa: BLE001 - logged, and tried again
                _log.exception("worker %r could not send its heartbeat", self._context.name)
            else:
                for command in commands:
                    self._obey(command)

    def _obey(self, command: WorkerCommand) -> None:
        _log.info("worker %r was sent the command %s", self._context.name, command.value)
        match command:
            case WorkerCommand.PAUSE if self._context.is_running:
                self._context.pause("remote command")
            case WorkerCommand.RESUME if self._context.is_paused:
                self._context.resume()
            case WorkerCommand.STOP:
                self._context.stop("remote command")
            case _:
                _log.info("worker %r is %s already", self._context.name, self._context.state.value)

    async def _reap(self, storage: Storage, exchange: Exchange) -> None:
        """Take jobs away from workers that let their leases run out."""
        while True:
            try:
                if await storage.jobs.reap_expired_leases():
                    exchange.look()
            except Exception:  # noqa: BLE001 - logged, and tried again
                _log.exception("worker %r could not reap expired leases", self._context.name)
            await anyio.sleep(self.config.reap_interval)

    async def _say_goodbye(self, storage: Storage, exchange: Exchange, reports: ProgressReports) -> None:
        self._desk.close()
        with anyio.move_on_after(self.config.hard_limit) as scope:
            await reports.flush()
            await exchange.flush()
        if scope.cancelled_caught:
            _log.error(
                "worker %r could not tell the store the outcome of its last jobs within %g seconds; their leases will"
                " expire and the jobs run again",
                self._context.name,
                self.config.hard_limit,
            )
        with anyio.move_on_after(_GOODBYE):
            try:
                await storage.workers.deregister(self.worker_id)
            except Exception:  # noqa: BLE001 - logged, and tried again
                _log.exception("worker %r could not take its name off the list", self._context.name)
