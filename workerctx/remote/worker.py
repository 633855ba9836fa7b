"""`Worker`: serves jobs over a session with a gateway, without access to the store."""

from __future__ import annotations

import logging
import os
from collections.abc import Coroutine
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from attrs import evolve

from workerctx.errors import InvalidConfig, InvalidTransition, WorkerFailed
from workerctx.lifecycle import Outcome, Pause, Stop
from workerctx.lifecycle.groups import collapse
from workerctx.remote.asks import Asks
from workerctx.remote.builder import WorkerBuilder
from workerctx.remote.frames import Register
from workerctx.remote.hatch import Hatch
from workerctx.remote.link import Link
from workerctx.remote.storage import RemoteStorage
from workerctx.remote.thread import in_own_thread, on_this_loop
from workerctx.remote.unacked import UnackedResults
from workerctx.runtime import JobLost, WorkerLoop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from workerctx.lifecycle import Event, WorkerContext
    from workerctx.remote.builder import Crew
    from workerctx.remote.config import RemoteConfig
    from workerctx.remote.session import Connector, WorkerSession

_log = logging.getLogger("workerctx")

_GOODBYE = 2.0
"""Seconds to wait for the thread of a session that was told to end."""


class Worker:
    """Runs jobs that a gateway sends, with the same handlers, layers and lifecycle as a `WorkerLoop`.

    `Worker.builder` makes one. It connects to the gateway, registers, and serves; when the session breaks it connects
    again and tells every outcome that was not acknowledged, see `ReconnectConfig`. Runs go on meanwhile. The session
    lives in a thread and an event loop of its own, so a handler that blocks does not lose it. One worker runs once.

    Attributes:
        config: The settings.
        activity_types: The kinds that it registers, sorted, without aliases.
        available_handlers: The kinds that it can run, aliases among them.
    """

    def __init__(self, config: RemoteConfig, crew: Crew) -> None:
        self.config: RemoteConfig = config
        self.activity_types: tuple[str, ...] = crew.kinds
        self.available_handlers: frozenset[str] = frozenset(crew.jobs.kinds)
        self._crew = crew
        self._entered = False
        self._loop = WorkerLoop(
            crew.jobs,
            config.for_loop(),
            name=config.identity,
            tenant_scope=crew.tenant_scope,
            data=crew.data,
        )

    @classmethod
    def builder(cls, config: RemoteConfig) -> WorkerBuilder[Self]:
        """Begin to put a worker together: ``Worker.builder(config).register(resize).build()``."""
        return WorkerBuilder(config, cls)

    @property
    def context(self) -> WorkerContext:
        """The worker's lifecycle: state, listeners, waiting; pending until the first registration."""
        return self._loop.context

    @property
    def in_flight(self) -> int:
        """How many jobs are running."""
        return self._loop.in_flight

    def shutdown(self, reason: str | None = None) -> bool:
        """Take no more jobs, let the running ones end within the grace and report them; True for the call that did it.

        Threads: any thread, and a signal handler.
        """
        return self.context.stop(reason)

    async def run(self) -> None:
        """Connect and serve until the worker is stopped.

        Raises:
            SessionDenied: The gateway refuses this worker.
            RemoteError: No session could be opened, too many broke, or the last outcomes were not acknowledged.
            WorkerFailed: The worker's own infrastructure failed.
            InvalidTransition: It was stopped before, or it ran already.
            ModuleNotFoundError: The extra ``remote`` is not installed.

        Cancellation: a stop with grace 0; running jobs are given back, then the cancellation goes on.
        """
        await self._serve(self._websocket(), None)

    async def run_until(self, shutdown: Awaitable[object]) -> None:
        """Connect and serve until `shutdown` ends, as `run` does.

        A shutdown wins over connecting, over pauses between tries and over telling outcomes again. Jobs that run are
        told, let go on for the grace, and reported.

        Args:
            shutdown: A coroutine, a `Shutdown` token or anything else that can be awaited. What it raises is raised
                after the drain.
        """
        await self._serve(self._websocket(), shutdown)

    async def run_with_connector_until(self, connect: Connector, shutdown: Awaitable[object]) -> None:
        """Serve over sessions that `connect` opens, as `run_until` does.

        Args:
            connect: Called for each try, in the session's thread; returns an async context manager.
            shutdown: As in `run_until`.
        """
        await self._serve(connect, shutdown)

    async def run_with_session(self, session: WorkerSession) -> WorkerSession:
        """Serve over one open session, on the caller's event loop, until it ends; for tests.

        Returns:
            The session, which is left open.

        Raises:
            RemoteError: It broke; there is no second one.
        """
        await self._serve(_once(session), None, single=True)
        return session

    async def run_with_session_until(self, session: WorkerSession, shutdown: Awaitable[object]) -> WorkerSession:
        """Serve over one open session, as `run_with_session` does, until `shutdown` ends."""
        await self._serve(_once(session), shutdown, single=True)
        return session

    def _websocket(self) -> Connector:
        from workerctx.remote.websocket import connector

        return connector(self.config)

    # Inside -------------------------------------------------------------------

    async def _serve(self, connect: Connector, shutdown: Awaitable[object] | None, *, single: bool = False) -> None:
        try:
            if self.context.is_stopped or self._entered:
                raise InvalidTransition(
                    self.context.name, self.context.state.value, "run", "a worker runs once, make a new one"
                )
            self._entered = True
            unacked = self._unacked(single=single)
            try:
                await self._connected(connect, shutdown, unacked, single=single)
            finally:
                unacked.close()
        finally:
            if isinstance(shutdown, Coroutine):
                shutdown.close()  # it never began if the worker could not

    def _unacked(self, *, single: bool) -> UnackedResults:
        if self.config.journal is None or single:
            return UnackedResults()
        unacked = UnackedResults.open(self.config.journal, fsync=self.config.journal_fsync)
        if unacked.namespace not in (None, *self.config.namespaces):
            unacked.close()
            raise InvalidConfig(
                f"the journal {str(self.config.journal)!r} holds {len(unacked)} outcomes of namespace"
                f" {unacked.namespace!r}, in which this worker does not serve: add it to the namespaces, or use another"
                " journal"
            )
        return unacked

    async def _connected(
        self, connect: Connector, shutdown: Awaitable[object] | None, unacked: UnackedResults, *, single: bool
    ) -> None:
        link = self._link(connect, unacked, single=single)
        heard = self.context.listen(lambda _, event: self._follow(event, link), Pause, Stop)
        failures: list[Exception] = []
        try:
            async with self._place(link, single=single), anyio.create_task_group() as minders:
                minders.start_soon(self._mind, link)
                if shutdown is not None:
                    minders.start_soon(self._heed, shutdown, failures)
                try:
                    await self._work(link)
                finally:
                    link.finish()
                    with anyio.move_on_after(self.config.hard_limit, shield=True):
                        await link.ended.wait()
                    minders.cancel_scope.cancel()
            if not link.is_over:  # its thread hangs and was left behind
                link.give_up(link.untold())
        except BaseException as exc:
            failure = collapse(exc)
            if not (isinstance(failure, WorkerFailed) and failure.__cause__ is link.error):
                if failure is exc:
                    raise
                raise failure from failure.__cause__
        finally:
            heard.disconnect()
        for error in (*failures, link.error):
            if error is not None:
                raise error

    def _place(self, link: Link, *, single: bool) -> AbstractAsyncContextManager[None]:
        return on_this_loop(link) if single else in_own_thread(link, f"session of {self.context.name}", _GOODBYE)

    async def _work(self, link: Link) -> None:
        """Run the loop once there was a registration, until it is stopped."""
        await link.changed.wait()
        if link.ack is None:
            self._note_end(link)
            return
        storage = RemoteStorage(self.config.endpoint, link.hatch, link.ack.namespace)
        with ExitStack() as lent:
            for store in self._crew.stores:
                lent.enter_context(store.lend(storage))
            try:
                await self._loop.run()
            except InvalidTransition:
                if self.context.outcome is not Outcome.NEVER_STARTED:
                    raise

    async def _mind(self, link: Link) -> None:
        """Stop the worker when there will be no session any more."""
        await link.ended.wait()
        self._note_end(link)

    def _note_end(self, link: Link) -> None:
        if link.error is not None and not link.is_stopping:
            self.context.fail(link.error)
        else:
            self.context.stop("the session has ended")

    async def _heed(self, shutdown: Awaitable[object], failures: list[Exception]) -> None:
        try:
            await shutdown
        except Exception as exc:  # noqa: BLE001 - raised again after the drain
            failures.append(exc)
        finally:
            self.context.stop("what it ran for has ended")

    def _follow(self, event: Event, link: Link) -> None:
        if isinstance(event, Stop):
            link.hatch.take_nothing(event.reason or "shutdown")
            link.stop()
        else:
            link.hatch.take_nothing()

    def _link(self, connect: Connector, unacked: UnackedResults, *, single: bool) -> Link:
        asks = Asks()
        hatch = Hatch(self._loop.worker_id, self.available_handlers, unacked, asks)
        asks.wake = hatch.wake
        hatch.on_news = self._loop.cancel_runs
        hatch.on_late = self._note_late
        link = Link(
            connect,
            lambda: self._introduction(link),
            hatch,
            evolve(self.config.reconnect, max_attempts=1) if single else self.config.reconnect,
            self.config.prefetch_window,
            single,
        )
        link.on_change = self._note_session
        return link

    def _introduction(self, link: Link) -> Register:
        config = self.config
        known = link.hatch.unacked.namespace
        granted = () if known is None else (known,)
        return Register(
            worker_id=self._loop.worker_id,
            namespaces=tuple(dict.fromkeys((*granted, *config.namespaces))),
            queues=tuple(self._loop.config.queues),
            weights=dict(self._loop.config.queues),
            kinds=tuple(sorted(self.available_handlers)),
            labels=config.labels,
            concurrency=config.max_concurrency,
            identity=config.identity,
            node=config.node,
            host_id=self._loop.host_id,
            pid=os.getpid(),
            holding=link.hatch.holding,
        )

    def _note_late(self, lease_ids: Sequence[str]) -> None:
        for lease_id in lease_ids:
            _log.warning(
                "worker %r finished a job too late, its outcome was not taken: %s", self.context.name, lease_id
            )
            self.context.emit(JobLost(lease_id=lease_id, after_run=True))

    def _note_session(self, trouble: str | None) -> None:
        if trouble is None:
            self.context.mark_ready(about="session")
        else:
            self.context.mark_unready(trouble, about="session")


def _once(session: WorkerSession) -> Connector:
    @asynccontextmanager
    async def connect() -> AsyncGenerator[Any]:
        yield session

    return connect
