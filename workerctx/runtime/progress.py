"""Progress of running jobs: handlers report as often as they like, the store hears the newest value now and then."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import anyio
from attrs import define, field

from workerctx.errors import InvalidRequest, LeaseLost
from workerctx.lifecycle.latch import Latch
from workerctx.runtime.persist import keep_on

if TYPE_CHECKING:
    from workerctx.queue import JobQueue
    from workerctx.runtime.desk import Desk
    from workerctx.service import JobCtx

_log = logging.getLogger("workerctx")

_INTERVAL: Final = 0.5
"""Seconds between two writes of progress."""


@define(eq=False)
class ProgressReports:
    """Collects the progress of running jobs and stores it."""

    _jobs: JobQueue
    _desk: Desk
    _newest: dict[str, Any] = field(factory=dict[str, Any], init=False)
    _latch: Latch = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._latch = Latch(lambda: bool(self._newest))

    def put(self, ctx: JobCtx, value: Any) -> None:
        """Take note of a run's progress; only the newest value counts.

        Threads: any.
        """
        lease_id = ctx.job.lease_id
        if lease_id is not None:
            self._newest[lease_id] = value
            self._latch.wake()

    async def run(self, worker: str) -> None:
        """Store progress as it comes, until cancelled; a run that has ended needs none."""
        await keep_on(worker, "store the progress of jobs", _INTERVAL, self._store)

    async def _store(self) -> None:
        await self._latch.wait()
        newest, self._newest = self._newest, {}
        failures: list[Exception] = []

        async def store(lease_id: str, value: Any) -> None:
            try:
                await self._jobs.progress(lease_id, value)
            except (InvalidRequest, LeaseLost) as exc:
                _log.warning("the progress of a job was not stored: %s", exc)
            except Exception as exc:  # noqa: BLE001 - tried again unless there is something newer
                self._newest.setdefault(lease_id, value)
                failures.append(exc)

        async with anyio.create_task_group() as tasks:  # side by side, so that the store writes them together
            for lease_id, value in newest.items():
                if lease_id in self._desk.live:
                    tasks.start_soon(store, lease_id, value)
        if failures:
            raise failures[0]
