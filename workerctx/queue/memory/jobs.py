"""The job queue in memory: each call is one checkpoint and then one synchronous change."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import attrs

from workerctx.errors import InvalidRequest, JobCancelled, JobFailed
from workerctx.queue.codec import decode_json, encode_json
from workerctx.queue.finish import (
    ClaimRequest,
    CompleteLease,
    FailLease,
    ReleaseLease,
    SnoozeLease,
)
from workerctx.queue.memory import adding, claiming, finishing, listing, steering
from workerctx.queue.memory.wakeups import MemoryWakeups
from workerctx.queue.model import FINAL_STATES, JobError, JobState
from workerctx.queue.request import as_moment, as_names, as_seconds, check_name
from workerctx.queue.turns import Rota

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from workerctx.errors import QueueError
    from workerctx.queue.events import JobEvent, Lagged
    from workerctx.queue.finish import Finish
    from workerctx.queue.jobqueue import Wakeups
    from workerctx.queue.memory.session import Session
    from workerctx.queue.model import Claimed, EnqueueOutcome, JobPage, Lease, QueuedJob, QueueInfo, Renewed
    from workerctx.queue.request import EnqueueRequest, Moment, Seconds

_PRUNED_AT_ONCE: Final = 1000


@attrs.define(eq=False)
class MemoryJobs:
    """`JobQueue` in memory; see there for what each method promises."""

    _session: Session
    _rota: Rota = attrs.field(factory=Rota, init=False)

    # Adding -----------------------------------------------------------------

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add one job."""
        return (await self.enqueue_bulk((request,), connection=connection))[0]

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add many jobs, all or none."""
        if connection is not None:
            raise InvalidRequest(
                f"a memory store has no transactions to join, so it cannot use {type(connection).__name__}: "
                "leave connection out, or use a SQL store"
            )
        batch = tuple(requests)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return adding.enqueue(change, batch)

    # Working ----------------------------------------------------------------

    async def claim(
        self,
        worker_id: str,
        *,
        labels: Collection[str] = (),
        lease_ttl: float = 30.0,
        queues: Sequence[str] = ("default",),
        weights: Mapping[str, int] | None = None,
        kinds: Collection[str] | None = None,
    ) -> Claimed | None:
        """Take the next job."""
        claimed = await self.claim_many(
            worker_id, labels=labels, lease_ttl=lease_ttl, queues=queues, weights=weights, kinds=kinds, limit=1
        )
        return claimed[0] if claimed else None

    async def claim_many(
        self,
        worker_id: str,
        *,
        labels: Collection[str] = (),
        lease_ttl: float = 30.0,
        queues: Sequence[str] = ("default",),
        weights: Mapping[str, int] | None = None,
        kinds: Collection[str] | None = None,
        kind_limits: Mapping[str, int] | None = None,
        limit: int = 100,
        began: bool = True,
    ) -> Sequence[Claimed]:
        """Take up to ``limit`` jobs."""
        wanted = ClaimRequest(
            worker_id=worker_id,
            labels=as_names(labels),
            lease_ttl=lease_ttl,
            queues=as_names(queues),
            weights=weights or {},
            kinds=None if kinds is None else as_names(kinds),
            kind_limits=kind_limits or {},
            limit=limit,
            began=began,
        )
        return (await self.finish_and_claim((), wanted))[1]

    async def finish_many(
        self, finishes: Sequence[Finish], *, began: Collection[str] = ()
    ) -> Sequence[QueueError | None]:
        """Finish many leases, each for itself."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.begin(change, began)
            return finishing.finish(change, finishes, self._session.store.buckets)

    async def finish_and_claim(
        self, finishes: Sequence[Finish], claim: ClaimRequest, *, began: Collection[str] = ()
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        """Finish many leases and claim, in one change."""
        turns = self._rota.turns(claim)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.begin(change, began)
            outcomes = finishing.finish(change, finishes, self._session.store.buckets)
            return outcomes, claiming.claim(change, claim, turns)

    async def renew_lease(self, lease_id: str, *, extend_by: float = 30.0) -> Lease:
        """Let a lease run on."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return finishing.renew(change, lease_id, extend_by)

    async def renew_leases(self, lease_ids: Sequence[str], *, extend_by: float = 30.0) -> Renewed:
        """Let many leases run on."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return finishing.renew_all(change, lease_ids, extend_by)

    async def complete(self, lease_id: str, outputs: Any = None) -> None:
        """Finish a job with its result."""
        await self._finish(CompleteLease.of(lease_id, outputs))

    async def fail(
        self, lease_id: str, error: str | JobError, *, retryable: bool = True, delay: float | None = None
    ) -> None:
        """End a run that failed."""
        await self._finish(FailLease(lease_id, JobError.of(error), retryable, delay))

    async def release(self, lease_id: str) -> None:
        """Give a job back."""
        await self._finish(ReleaseLease(lease_id))

    async def snooze(self, lease_id: str, *, delay: Seconds) -> None:
        """Give a job back for later."""
        await self._finish(SnoozeLease(lease_id, as_seconds(delay)))

    async def progress(self, lease_id: str, value: Any) -> None:
        """Store how far a running job is."""
        stored = decode_json(encode_json(value, "progress"))
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.progress(change, lease_id, stored)

    async def reap_expired_leases(self) -> Sequence[JobEvent]:
        """Take jobs away from leases that ran out."""
        await anyio.lowlevel.checkpoint()
        with self._session.change(heard=True) as change:
            finishing.reap(change)
        return tuple(change.events)

    async def _finish(self, how: Finish) -> None:
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            finishing.finish_one(change, how, self._session.store.buckets)

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

    async def pause_queue(self, queue: str, *, until: Moment | None = None, cancel_running: bool = False) -> None:
        """Let nobody claim from a queue."""
        check_name("a queue's name", queue)
        moment = as_moment(until)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            steering.pause(change, queue, moment, cancel_running=cancel_running)

    async def resume_queue(self, queue: str) -> None:
        """Let a queue be claimed from again."""
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

    async def prune(self, retention: Seconds, *, states: Collection[JobState] | None = None) -> int:
        """Remove jobs that finished long ago."""
        chosen = steering.check_prune(as_seconds(retention), states)
        before = self._session.now() - as_seconds(retention)
        removed = 0
        while True:
            await anyio.lowlevel.checkpoint()
            with self._session.change() as change:
                count = steering.prune(change, chosen, before, _PRUNED_AT_ONCE)
            removed += count
            if count < _PRUNED_AT_ONCE:
                return removed

    # Looking ----------------------------------------------------------------

    async def get(self, job_id: str) -> QueuedJob:
        """Return a job."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            return steering.look(change, job_id)

    async def result(self, job_id: str, *, timeout: float | None = None) -> Any:
        """Wait for a job's outputs."""
        self._session.check_open()
        table = self._session.store.table

        def has_ended() -> bool:
            job = table.jobs.get(job_id)
            return job is None or job.state in FINAL_STATES

        if not has_ended():
            with anyio.fail_after(timeout), table.watch(job_id, has_ended) as latch:
                await latch.wait()
        job = await self.get(job_id)
        if job.state is JobState.SUCCEEDED:
            return job.result
        assert job.error is not None
        if job.state is JobState.CANCELLED:
            raise JobCancelled(job_id, job.error.message)
        raise JobFailed(job_id, str(job.error))

    async def list(
        self,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        queue: str | None = None,
        tenant_id: str | None = None,
        workflow_id: str | None = None,
        unique_key: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> JobPage:
        """Return a page of the jobs that match."""
        wanted = listing.Filter(
            state=state,
            kind=kind,
            queue=queue,
            tenant_id=tenant_id,
            workflow_id=workflow_id,
            unique_key=unique_key,
        )
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

    async def wake(self, queue: str | None = None) -> None:
        """Wake who waits for jobs."""
        await anyio.lowlevel.checkpoint()
        alarms = self._session.store.alarms
        if queue is None:
            alarms.ring_all()
        else:
            alarms.ring((queue,))
