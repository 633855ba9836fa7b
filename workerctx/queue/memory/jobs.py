"""The job queue in memory: each call is one checkpoint and then one synchronous change."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import attrs

from workerctx.queue.codec import decode_json
from workerctx.queue.memory import adding, claiming, finishing, listing, steering
from workerctx.queue.memory.wakeups import MemoryWakeups
from workerctx.queue.model import FINAL_STATES
from workerctx.queue.skeleton import JobQueueSkeleton, refuse_connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from workerctx.errors import QueueError
    from workerctx.queue.events import JobEvent, Lagged
    from workerctx.queue.finish import Finish
    from workerctx.queue.jobqueue import Wakeups
    from workerctx.queue.memory.session import Session
    from workerctx.queue.model import Claimed, EnqueueOutcome, JobPage, JobState, Lease, QueuedJob, QueueInfo, Renewed
    from workerctx.queue.request import EnqueueRequest
    from workerctx.queue.skeleton import JobFilter
    from workerctx.queue.turns import ClaimOrder


@attrs.define(eq=False)
class MemoryJobs(JobQueueSkeleton):
    """`JobQueue` in memory; see there for what each method promises."""

    _session: Session

    # Adding -----------------------------------------------------------------

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add one job."""
        return (await self.enqueue_bulk((request,), connection=connection))[0]

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add many jobs, all or none."""
        refuse_connection("a memory store", connection)
        batch = tuple(requests)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return adding.enqueue(change, batch)

    # Working ----------------------------------------------------------------

    async def _claim(self, order: ClaimOrder) -> Sequence[Claimed]:
        return (await self._finish_and_claim((), (), order))[1]

    async def finish_many(
        self, finishes: Sequence[Finish], *, began: Collection[str] = ()
    ) -> Sequence[QueueError | None]:
        """Finish many leases, each for itself."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.begin(change, began)
            return finishing.finish(change, finishes, self._session.store.buckets)

    async def _finish(self, finish: Finish) -> None:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.finish_one(change, finish, self._session.store.buckets)

    async def _finish_and_claim(
        self, finishes: Sequence[Finish], began: Collection[str], order: ClaimOrder
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.begin(change, began)
            outcomes = finishing.finish(change, finishes, self._session.store.buckets)
            return outcomes, claiming.claim(change, order)

    async def _renew_lease(self, lease_id: str, extend_by: float) -> Lease:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return finishing.renew(change, lease_id, extend_by)

    async def _renew_leases(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return finishing.renew_all(change, lease_ids, extend_by)

    async def _set_progress(self, lease_id: str, stored: bytes) -> None:
        value = decode_json(stored)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.progress(change, lease_id, value)

    async def reap_expired_leases(self) -> Sequence[JobEvent]:
        """Take jobs away from leases that ran out."""
        await anyio.lowlevel.checkpoint()
        with self._session.change(heard=True) as change:
            finishing.reap(change)
        return tuple(change.events)

    # Steering ---------------------------------------------------------------

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job, or ask its worker to stop it."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return steering.cancel(change, job_id)

    async def cancel_workflow(self, workflow_id: str) -> int:
        """Cancel a workflow's jobs, and those to come."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return steering.cancel_workflow(change, workflow_id)

    async def clear_workflow(self, workflow_id: str) -> None:
        """Let a cancelled workflow accept jobs again."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            change.table.cancelled_workflows.discard(workflow_id)

    async def is_cancelled(self, job_id: str) -> bool:
        """Return whether a job is cancelled or should stop for a user."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return steering.is_cancelled(steering.find(change.table, job_id))

    async def _pause(self, queue: str, until: float | None, *, cancel_running: bool) -> None:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            steering.pause(change, queue, until, cancel_running=cancel_running)

    async def _resume(self, queue: str) -> None:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            steering.resume(change, queue)

    async def retry(self, job_id: str) -> None:
        """Put a dead or cancelled job back."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            steering.retry(change, job_id)

    async def delete(self, job_id: str) -> None:
        """Remove a job that is not running."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            steering.delete(change, job_id)

    async def _prune(self, retention: float, states: frozenset[JobState], limit: int) -> int:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return steering.prune(change, states, change.now - retention, limit)

    # Looking ----------------------------------------------------------------

    async def get(self, job_id: str) -> QueuedJob:
        """Return a job."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return steering.look(change, job_id)

    async def _wait_for_end(self, job_id: str) -> QueuedJob:
        table = self._session.store.table

        def has_ended() -> bool:
            job = table.jobs.get(job_id)
            return job is None or job.state in FINAL_STATES

        with table.watch(job_id, has_ended) as latch:
            await latch.wait()
        return await self.get(job_id)

    async def _page(self, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return listing.page(change, wanted, limit, cursor)

    async def counts(self, *, queue: str | None = None) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            change.table.promote_all(change.now)
            return change.table.counts(queue)

    async def queues(self) -> Sequence[QueueInfo]:
        """Return every queue that holds jobs or is paused."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return listing.queues(change)

    # Being told -------------------------------------------------------------

    def subscribe(self, *, capacity: int = 1024) -> AbstractAsyncContextManager[AsyncIterator[JobEvent | Lagged]]:
        """Return the events of what is done through this Storage object."""
        self._session.check_open()
        return self._session.broadcast.subscribe(capacity)

    @asynccontextmanager
    async def wakeups(
        self, queues: Collection[str] | None = None, *, finished: bool = False
    ) -> AsyncGenerator[Wakeups]:
        """Return a waiter that is woken when jobs may have become claimable."""
        chosen = None if queues is None else frozenset(queues)
        waiter = MemoryWakeups(chosen, finished, self._session.upcoming(chosen))
        with self._session.store.alarms.join(waiter):
            yield waiter

    async def _wake(self, queue: str | None) -> None:
        """Wake who waits for jobs."""
        await anyio.lowlevel.checkpoint()
        alarms = self._session.store.alarms
        if queue is None:
            alarms.ring_all()
        else:
            alarms.ring((queue,))
