"""What a gateway does for one namespace: its store, the workers that serve it, and the chores."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from attrs import Factory, define, field

from workerctx.lifecycle.groups import collapse
from workerctx.queue import ReleaseLease
from workerctx.runtime.opening import opened
from workerctx.runtime.persist import keep_on
from workerctx.runtime.schedule import Ticker
from workerctx_starlette.gateway._connection import BREACH
from workerctx_starlette.gateway._exchange import Exchange
from workerctx_starlette.gateway._leases import Leases
from workerctx_starlette.gateway._progress import ProgressReports
from workerctx_starlette.gateway._roster import Roster

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from anyio.abc import TaskGroup

    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import Storage
    from workerctx.remote.frames import Task
    from workerctx_starlette.gateway._config import GatewayConfig
    from workerctx_starlette.gateway._session import Session

_log = logging.getLogger("workerctx")

_LAST_WORDS: Final = 5.0
"""Seconds in which the store can be told the last outcomes."""
_LIST: Final = 2.0
"""Seconds between two turns of the list of workers, at the most: each is on it well before it counts as silent."""
_SILENCE: Final = 60.0
"""Seconds without a sign of life after which any worker is taken off the list."""


@define(eq=False)
class Engine:
    """Serves the workers of one namespace.

    Attributes:
        storage: Where its jobs are.
        sessions: The workers that are connected, by their ids.
        leases: What they hold.
        exchange: Feeds them.
        progress: Of their jobs.
        roster: The list of workers in the store.
    """

    namespace: str
    storage: Storage
    config: GatewayConfig
    _context: WorkerContext
    _gateway_id: str
    sessions: dict[str, Session] = field(factory=dict[str, "Session"], init=False)
    leases: Leases = field(
        default=Factory(lambda self: Leases(self.storage.jobs, self.config), takes_self=True), init=False
    )
    exchange: Exchange = field(
        default=Factory(
            lambda self: Exchange(
                self.storage.jobs, self.leases, self.config, self._context, self.namespace, self._gateway_id
            ),
            takes_self=True,
        ),
        init=False,
    )
    progress: ProgressReports = field(
        default=Factory(lambda self: ProgressReports(self.storage.jobs), takes_self=True), init=False
    )
    roster: Roster = field(
        default=Factory(lambda self: Roster(self.storage.workers, self.sessions), takes_self=True), init=False
    )
    _tasks: TaskGroup | None = field(default=None, init=False)

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Open the store and do the chores inside; the last one is to tell the store what became of the jobs."""
        context, config = self._context, self.config
        name = context.name
        async with (
            opened(self.storage, context, config.store_patience, about=self.namespace),
            anyio.create_task_group() as tasks,
        ):
            self._tasks = tasks
            exchanged = anyio.Event()
            for chore in (
                lambda: self._exchange(exchanged),
                lambda: self.progress.run(name),
                lambda: Ticker(self.storage, ()).run(name),
                lambda: keep_on(name, "renew leases", config.heartbeat, self.leases.renew),
                lambda: keep_on(name, "reap expired leases", config.reap_interval, self._reap),
                lambda: keep_on(name, "keep the list of workers", min(config.heartbeat, _LIST), self.roster.turn),
                lambda: keep_on(name, "forget silent workers", _SILENCE, lambda: self.storage.workers.reap(_SILENCE)),
                self._hang_up_on_the_dead,
            ):
                tasks.start_soon(self._do, chore)
            try:
                yield
            finally:
                self._tasks = None
                await self._close(exchanged)
                tasks.cancel_scope.cancel()

    def join(self, session: Session) -> None:
        """Serve a worker; an earlier session of the same worker is over."""
        earlier = self.sessions.pop(session.worker_id, None)
        if earlier is not None:
            earlier.end(BREACH, "the worker has opened another session")
        self.sessions[session.worker_id] = session
        line = self.exchange.join(session)
        if line is not None and self._tasks is not None:
            self._tasks.start_soon(self._do, lambda: self.exchange.watch(line))
        if self._context.is_shutting_down:
            session.drain("the gateway is stopping")

    def leave(self, session: Session) -> None:
        """Serve a worker no more; its jobs wait for it for a while, and those that it has not seen go to others."""
        if self.sessions.get(session.worker_id) is session:
            del self.sessions[session.worker_id]
            self.roster.part(session)
        self.exchange.leave(session)
        self.give_back(session.outbox.take_back())
        self.roster.recall(session.worker_id, session.outbox.untold_commands())
        self.leases.part(session)

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Let others run what no worker has seen."""
        for task in tasks:
            self.leases.drop(task.lease_id)
            self.exchange.report(None, ReleaseLease(task.lease_id))

    async def _do(self, chore: Callable[[], Awaitable[object]]) -> None:
        try:
            await chore()
        except Exception as exc:  # noqa: BLE001 - the gateway's own failure fails it, visibly
            self._context.fail(collapse(exc))

    async def _exchange(self, exchanged: anyio.Event) -> None:
        try:
            await self.exchange.run()
        finally:
            exchanged.set()

    async def _reap(self) -> None:
        # What was told here during an outage goes to the store first, or this would take those jobs away from itself.
        if self.exchange.owes:
            return
        try:
            reaped = await self.storage.jobs.reap_expired_leases()
        except Exception as exc:
            self.exchange.note_store(exc)
            raise
        # Without workers nothing else asks the store, and without being ready a gateway may get none.
        self.exchange.note_store(None)
        if reaped:
            self.exchange.look()

    async def _hang_up_on_the_dead(self) -> None:
        config, patience = self.config, self.config.send_timeout
        while True:
            await anyio.sleep(min(config.silence, patience) / 4)
            now = anyio.current_time()
            for session in list(self.sessions.values()):
                silence = config.silence if session.holdings else config.idle_silence
                if now - session.heard_at > silence:
                    session.hang_up(f"nothing was heard for {silence:g} seconds")
                elif now - session.outbox.sending_since > patience:
                    session.hang_up(f"nothing was read for {patience:g} seconds")

    async def _close(self, exchanged: anyio.Event) -> None:
        self.exchange.end()
        with anyio.move_on_after(_LAST_WORDS, shield=True) as scope:
            await exchanged.wait()
            try:
                await self.leases.renew()
                await self.roster.take_off()
            except Exception as exc:  # noqa: BLE001 - leases expire, and the list is reaped
                _log.warning("gateway %r could not tell its store that it ends: %s", self._context.name, exc)
        if scope.cancelled_caught:
            _log.error(
                "gateway %r could not tell its store the last outcomes in time; their workers will tell them again",
                self._context.name,
            )
