"""Progress of running jobs: handlers report as often as they like, the store hears the newest value now and then."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import anyio
from attrs import define, field

from workerctx.errors import QueueError
from workerctx.lifecycle.latch import Latch

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

    async def run(self) -> None:
        """Store progress as it comes, until cancelled."""
        while True:
            await self._latch.wait()
            await self.flush()
            await anyio.sleep(_INTERVAL)

    async def flush(self) -> None:
        """Store what was reported and not stored yet; a run that has ended needs none."""
        newest, self._newest = self._newest, {}
        for lease_id, value in newest.items():
            if lease_id not in self._desk.live:
                continue
            try:
                await self._jobs.progress(lease_id, value)
            except QueueError as exc:
                _log.warning("the progress of a job was not stored: %s", exc)
