"""What a worker does besides running jobs: talk to the store, look at the clock, fire schedules, stay on the list."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.lifecycle import Idle, Pause, Resume, Stop
from workerctx.queue import CancelReason
from workerctx.runtime.exchange import Exchange
from workerctx.runtime.overruns import LOOK_EVERY, Overruns
from workerctx.runtime.persist import keep_on
from workerctx.runtime.schedule import Ticker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from workerctx.lifecycle import Event, WorkerContext
    from workerctx.queue import Storage
    from workerctx.runtime.config import WorkerConfig
    from workerctx.runtime.desk import Desk
    from workerctx.runtime.presence import Presence
    from workerctx.runtime.progress import ProgressReports
    from workerctx.service import JobRegistry

_SILENCE: Final = 60.0
"""Seconds without a heartbeat after which a worker is taken off the list."""


@define(eq=False)
class Chores:
    """The tasks beside a worker's slots.

    Args:
        burst: Stop the worker once there is nothing left to do.
    """

    _storage: Storage
    _jobs: JobRegistry
    _desk: Desk
    _config: WorkerConfig
    _context: WorkerContext
    _presence: Presence
    _reports: ProgressReports
    _worker_id: str
    _burst: bool
    _exchange: Exchange = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._exchange = Exchange(
            self._storage.jobs,
            self._desk,
            self._config,
            self._context,
            self._worker_id,
            self._jobs.kinds,
            self._note_idle,
        )

    @asynccontextmanager
    async def under_way(self) -> AsyncGenerator[None]:
        """Do them inside; the last act is to tell the store what became of the jobs."""
        name, config = self._context.name, self._config
        ticker = Ticker(self._storage, self._jobs.schedules)
        if self._burst:
            # Who finds nothing to do would be gone before it is known what is due, and what has expired.
            await ticker.fire()
            await self._reap()
        self._context.listen(lambda _, event: self._follow(event), Pause, Resume, Stop)
        async with anyio.create_task_group() as tasks:
            for chore in (
                self._exchange.run,
                self._exchange.watch,
                self._look_at_the_clock,
                lambda: ticker.run(name),
                lambda: self._reports.run(name),
                lambda: self._presence.run(config.heartbeat),
                lambda: keep_on(name, "reap expired leases", config.reap_interval, self._reap),
                lambda: keep_on(name, "forget silent workers", _SILENCE, self._forget_the_silent),
            ):
                tasks.start_soon(self._do, chore)
            try:
                yield
            finally:
                self._desk.close()
                self._exchange.end(config.hard_limit)
                tasks.cancel_scope.cancel()

    async def _do(self, chore: Callable[[], Awaitable[object]]) -> None:
        try:
            await chore()
        except Exception as exc:  # noqa: BLE001 - the loop's own failure fails the worker, visibly
            self._context.fail(exc)

    async def _look_at_the_clock(self) -> None:
        overruns = Overruns(self._desk, self._config, self._context)
        while True:
            await anyio.sleep(LOOK_EVERY)
            overruns.look()
            self._exchange.note_silence()

    async def _reap(self) -> None:
        # What ended here during an outage is told first, or this would take those jobs away from itself.
        if not self._exchange.owes and await self._storage.jobs.reap_expired_leases():
            self._exchange.look()

    async def _forget_the_silent(self) -> None:
        await self._storage.workers.reap(_SILENCE)

    def _follow(self, event: Event) -> None:
        if isinstance(event, Stop):
            self._desk.close()
            self._desk.tell_all(CancelReason.SHUTDOWN)
        self._exchange.look()

    def _note_idle(self) -> None:
        self._context.emit(Idle())
        if self._burst:
            self._context.stop("burst: nothing is left to do")
