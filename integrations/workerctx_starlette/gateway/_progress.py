"""Progress of running jobs: workers report as often as they like, the store hears the newest value now and then."""

from __future__ import annotations

import logging
from itertools import islice
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.errors import InvalidRequest, LeaseLost
from workerctx.queue import decode_json
from workerctx.remote.faults import UNREADABLE
from workerctx.runtime.persist import keep_on

if TYPE_CHECKING:
    from workerctx.queue import JobQueue

_log = logging.getLogger("workerctx")

_INTERVAL: Final = 0.5
"""Seconds between two writes."""
_AT_ONCE: Final = 100


@define(eq=False)
class ProgressReports:
    """Collects the progress of the jobs of one namespace and stores it."""

    _jobs: JobQueue
    _newest: dict[str, bytes] = field(factory=dict[str, bytes], init=False)

    def put(self, lease_id: str, value: bytes) -> None:
        """Take note of a run's progress, as JSON; only the newest value counts."""
        self._newest[lease_id] = value

    async def run(self, name: str) -> None:
        """Store progress as it comes, until cancelled."""
        await keep_on(name, "store the progress of jobs", _INTERVAL, self._store)

    async def _store(self) -> None:
        newest, self._newest = self._newest, {}
        errors: list[Exception] = []
        try:
            while newest and not errors:
                async with anyio.create_task_group() as tasks:  # side by side, so that the store writes them together
                    for lease_id in list(islice(newest, _AT_ONCE)):
                        tasks.start_soon(self._store_one, newest, lease_id, errors)
        finally:
            self._newest = newest | self._newest  # what was not stored is tried again unless there is something newer
        if errors:
            raise errors[0]

    async def _store_one(self, newest: dict[str, bytes], lease_id: str, errors: list[Exception]) -> None:
        try:
            await self._jobs.progress(lease_id, decode_json(newest[lease_id]))
        except (InvalidRequest, LeaseLost, *UNREADABLE) as exc:
            _log.info("the progress of a job was not stored: %s", exc)
        except Exception as exc:  # noqa: BLE001 - told when the others have been tried
            errors.append(exc)
            return
        del newest[lease_id]
