"""Running the jobs that wait, and letting time pass for those that are not due."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import define, field

from workerctx.errors import InvalidRequest
from workerctx.queue import Cancelled, Completed, Failed, JobState, Snoozed
from workerctx.queue.request import as_seconds
from workerctx.runtime import WorkerConfig, WorkerLoop

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from workerctx.queue import QueuedJob, Storage
    from workerctx.queue.request import Seconds
    from workerctx.service import JobRegistry, TenantScopeProvider

JobOutcome: TypeAlias = Completed | Failed | Cancelled | Snoozed
"""How a run ended, or a job that could not run any more."""

_OUTCOMES: Final = (Completed, Failed, Cancelled, Snoozed)
_WAITING: Final = (JobState.QUEUED, JobState.SCHEDULED, JobState.BLOCKED)
_LEASE: Final = 30 * 86400.0
"""Seconds; handlers in virtual time may sleep long, and leases are renewed in real time."""
_TICK: Final = 0.001
"""Seconds by which a moment is passed, so that rounding cannot keep it ahead."""
_EVENTS: Final = 1_000_000


async def run_pending(
    jobs: JobRegistry,
    *,
    advance: Seconds = 0.0,
    queues: Collection[str] | None = None,
    data: Mapping[type[Any], object] | None = None,
    tenant_scope: TenantScopeProvider | None = None,
) -> list[JobOutcome]:
    """Run every job that is due, and those that they lead to, one at a time in a real `WorkerLoop`.

    Works with any store whose clock a test may move; usually inside ``with manual(jobs):``.

    Args:
        jobs: Whose handlers and store; opened for this if it is not open.
        advance: By how many seconds (or a timedelta) to move the store's clock, from one due moment to the next: what
            falls due on the way, such as retries and schedules, runs at its time.
        queues: Only these; None for all. Labels that jobs require are always there.
        data: What handlers can have injected, by type; as in `WorkerLoop`.
        tenant_scope: As in `WorkerLoop`.

    Returns:
        What happened, in order: `Completed`, `Failed`, `Cancelled` and `Snoozed` events. A failure is told, not
        raised; ``Failed.retryable`` says whether the job will be tried again.

    Raises:
        InvalidRequest: The seconds are negative.
    """
    seconds = as_seconds(advance)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidRequest(f"time goes forward by 0 or more seconds, got {seconds}")
    async with jobs:
        pending = _Pending(jobs, jobs.storage, queues, data, tenant_scope)
        await pending.declare()
        end = await jobs.storage.now() + seconds
        while True:
            due = await pending.run()
            now = await jobs.storage.now()
            if not seconds or now >= end:
                return pending.happened
            await jobs.storage.advance(min(due, end) - now + _TICK)


@define(eq=False)
class _Pending:
    """The jobs of a store that wait.

    Attributes:
        happened: What became of those that ran.
    """

    _jobs: JobRegistry
    _storage: Storage
    _queues: Collection[str] | None
    _data: Mapping[type[Any], object] | None
    _tenant_scope: TenantScopeProvider | None
    happened: list[JobOutcome] = field(factory=list["JobOutcome"], init=False)

    async def declare(self) -> None:
        """Put the registry's schedules into the store, as a worker does when it starts."""
        known = {schedule.name for schedule in await self._storage.schedules.list()}
        for schedule in self._jobs.schedules:
            if schedule.name not in known:
                await self._storage.schedules.put(schedule)

    async def run(self) -> float:
        """Run what is due now; return when something will be, in store time."""
        while True:
            await self._storage.jobs.reap_expired_leases()
            fired = await self._storage.schedules.fire_due()
            before = len(self.happened)
            waiting = await self._waiting()
            now = await self._storage.now()
            if any(job.state is not JobState.BLOCKED and job.run_at <= now for job in waiting):
                await self._burst(waiting)
            if len(self.happened) == before:
                tick = math.inf if fired.next_due is None else now + fired.next_due
                return min([tick, *(job.run_at for job in waiting if job.run_at > now)])

    async def _waiting(self) -> list[QueuedJob]:
        found: list[QueuedJob] = []
        for state in _WAITING:
            cursor = None
            while True:
                page = await self._storage.jobs.list(state=state, limit=1000, cursor=cursor)
                found += page.jobs
                cursor = page.next_cursor
                if cursor is None:
                    break
        if self._queues is not None:
            found = [job for job in found if job.queue in self._queues]
        return found

    async def _burst(self, waiting: list[QueuedJob]) -> None:
        config = WorkerConfig(
            queues=tuple(sorted({job.queue for job in waiting})),
            concurrency=1,
            prefetch=0,
            labels=tuple(sorted({label for job in waiting for label in job.required_labels})),
            lease_ttl=_LEASE,
        )
        loop = WorkerLoop(self._jobs, config, name="run_pending", data=self._data, tenant_scope=self._tenant_scope)
        async with self._storage.jobs.subscribe(capacity=_EVENTS) as events:
            await loop.run(burst=True)
        self.happened += [event async for event in events if isinstance(event, _OUTCOMES)]
