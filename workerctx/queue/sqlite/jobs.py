"""The job queue in a SQLite file: each call is an operation, handed to the thread that writes or reads."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from workerctx.errors import InvalidRequest, JobCancelled, JobFailed
from workerctx.queue.codec import encode_json
from workerctx.queue.finish import (
    ClaimRequest,
    CompleteLease,
    FailLease,
    ReleaseLease,
    SnoozeLease,
    check_ttl,
)
from workerctx.queue.model import FINAL_STATES, JobError, JobState
from workerctx.queue.request import as_moment, as_seconds, check_name
from workerctx.queue.sql import optional_micros, to_micros
from workerctx.queue.sqlite import leases, looking, settling, steering
from workerctx.queue.sqlite.claiming import Claim, ClaimOrder, claim
from workerctx.queue.sqlite.enqueueing import Enqueue, enqueue_all
from workerctx.queue.sqlite.settling import REAPED_AT_ONCE, FinishOne, finish_all
from workerctx.queue.turns import Rota

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from workerctx.errors import QueueError
    from workerctx.queue.batching import Batcher
    from workerctx.queue.broadcast import Broadcast
    from workerctx.queue.events import JobEvent, Lagged
    from workerctx.queue.finish import Finish
    from workerctx.queue.jobqueue import Wakeups
    from workerctx.queue.model import Claimed, EnqueueOutcome, JobPage, Lease, QueuedJob, QueueInfo, Renewed
    from workerctx.queue.request import EnqueueRequest, Moment, Seconds
    from workerctx.queue.sqlite.callers import CallersTransaction
    from workerctx.queue.sqlite.transaction import Transaction
    from workerctx.queue.sqlite.wakeups import WakeupHub

RESULT_FALLBACK: Final = 2.0
"""Seconds after which a waiter for a result looks again, woken or not."""


@attrs.define(eq=False)
class SqliteJobs:
    """`JobQueue` in a SQLite file; see there for what each method promises."""

    _writer: Batcher[Transaction]
    _reader: Batcher[Transaction]
    _broadcast: Broadcast
    _hub: WakeupHub
    _callers: CallersTransaction
    _rota: Rota = attrs.field(factory=Rota, init=False)

    # Adding -----------------------------------------------------------------

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add one job."""
        if connection is not None:
            return self._callers.enqueue(connection, [request])[0]
        return await self._writer.call(Enqueue(request))

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add many jobs, all or none."""
        batch = list(requests)
        if connection is not None:
            return self._callers.enqueue(connection, batch)
        return await self._writer.call(lambda tx: enqueue_all(tx, batch))

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
            labels=labels,
            lease_ttl=lease_ttl,
            queues=queues,
            weights=weights or {},
            kinds=kinds,
            kind_limits=kind_limits or {},
            limit=limit,
            began=began,
        )
        return await self._writer.call(Claim(ClaimOrder(wanted, self._rota.turns(wanted))), _give_back)

    async def finish_many(
        self, finishes: Sequence[Finish], *, began: Collection[str] = ()
    ) -> Sequence[QueueError | None]:
        """Finish many leases, each for itself."""
        if not finishes and not began:
            return []
        return await self._writer.call(lambda tx: finish_all(tx, finishes, began))

    async def finish_and_claim(
        self, finishes: Sequence[Finish], claim: ClaimRequest, *, began: Collection[str] = ()
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        """Finish many leases and claim, in one transaction."""
        order = ClaimOrder(claim, self._rota.turns(claim))
        return await self._writer.call(
            lambda tx: _finish_and_claim(tx, finishes, began, order), lambda both: _give_back(both[1])
        )

    async def renew_lease(self, lease_id: str, *, extend_by: float = 30.0) -> Lease:
        """Let a lease run on."""
        check_ttl("extend_by", extend_by)
        return await self._writer.call(lambda tx: leases.renew_one(tx, lease_id, extend_by))

    async def renew_leases(self, lease_ids: Sequence[str], *, extend_by: float = 30.0) -> Renewed:
        """Let many leases run on."""
        check_ttl("extend_by", extend_by)
        return await self._writer.call(lambda tx: leases.renew(tx, lease_ids, extend_by))

    async def complete(self, lease_id: str, outputs: Any = None) -> None:
        """Finish a job with its result."""
        await self._writer.call(FinishOne(CompleteLease.of(lease_id, outputs)))

    async def fail(
        self, lease_id: str, error: str | JobError, *, retryable: bool = True, delay: float | None = None
    ) -> None:
        """End a run that failed."""
        await self._writer.call(FinishOne(FailLease(lease_id, JobError.of(error), retryable, delay)))

    async def release(self, lease_id: str) -> None:
        """Give a job back."""
        await self._writer.call(FinishOne(ReleaseLease(lease_id)))

    async def snooze(self, lease_id: str, *, delay: Seconds) -> None:
        """Give a job back for later."""
        await self._writer.call(FinishOne(SnoozeLease(lease_id, as_seconds(delay))))

    async def progress(self, lease_id: str, value: Any) -> None:
        """Store how far a running job is."""
        stored = encode_json(value, "progress").decode()
        await self._writer.call(lambda tx: leases.set_progress(tx, lease_id, stored))

    async def reap_expired_leases(self) -> Sequence[JobEvent]:
        """Take jobs away from leases that ran out."""
        events: list[JobEvent] = []
        # Nearly always there is nothing to reap, and then nobody needs the write lock.
        while await self._reader.call(looking.any_expired):
            reaped = await self._writer.call(settling.reap)
            events += reaped
            if len(reaped) < REAPED_AT_ONCE:
                break
        return events

    # Steering ---------------------------------------------------------------

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job, or ask its worker to stop it."""
        return await self._writer.call(lambda tx: steering.cancel(tx, job_id))

    async def cancel_workflow(self, workflow_id: str) -> int:
        """Cancel a workflow's jobs, and those to come."""
        return await self._writer.call(lambda tx: steering.cancel_workflow(tx, workflow_id))

    async def clear_workflow(self, workflow_id: str) -> None:
        """Let a cancelled workflow accept jobs again."""
        await self._writer.call(lambda tx: steering.clear_workflow(tx, workflow_id))

    async def is_cancelled(self, job_id: str) -> bool:
        """Return whether a job is cancelled or should stop for a user."""
        return await self._reader.call(lambda tx: looking.is_cancelled(tx, job_id))

    async def pause_queue(self, queue: str, *, until: Moment | None = None, cancel_running: bool = False) -> None:
        """Let nobody claim from a queue."""
        check_name("a queue's name", queue)
        moment = optional_micros(as_moment(until))
        await self._writer.call(lambda tx: steering.pause(tx, queue, moment, cancel_running=cancel_running))

    async def resume_queue(self, queue: str) -> None:
        """Let a queue be claimed from again."""
        await self._writer.call(lambda tx: steering.resume(tx, queue))

    async def retry(self, job_id: str) -> None:
        """Put a dead or cancelled job back."""
        await self._writer.call(lambda tx: steering.retry(tx, job_id))

    async def delete(self, job_id: str) -> None:
        """Remove a job that is not running."""
        await self._writer.call(lambda tx: steering.delete(tx, job_id))

    async def prune(self, retention: Seconds, *, states: Collection[JobState] | None = None) -> int:
        """Remove jobs that finished long ago."""
        seconds = as_seconds(retention)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidRequest(f"retention must be 0 or more seconds, got {seconds}")
        chosen = FINAL_STATES if states is None else frozenset(states)
        if not chosen <= FINAL_STATES:
            alive = ", ".join(sorted(chosen - FINAL_STATES))
            raise InvalidRequest(f"only finished jobs can be pruned, not {alive}")
        removed = 0
        while count := await self._writer.call(lambda tx: steering.prune(tx, chosen, to_micros(seconds))):
            removed += count
        return removed

    # Looking ----------------------------------------------------------------

    async def get(self, job_id: str) -> QueuedJob:
        """Return a job."""
        return await self._reader.call(lambda tx: looking.get(tx, job_id))

    async def result(self, job_id: str, *, timeout: float | None = None) -> Any:
        """Wait for a job's outputs."""
        job = await self.get(job_id)
        if job.state not in FINAL_STATES:
            with anyio.fail_after(timeout):
                async with self.wakeups((), finished=True) as wakeups:
                    while (job := await self.get(job_id)).state not in FINAL_STATES:
                        await wakeups.wait(RESULT_FALLBACK)
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
        if limit < 1:
            raise InvalidRequest(f"a page holds at least 1 job, got limit={limit}")
        wanted = looking.Filter(
            state=None if state is None else JobState(state),
            kind=kind,
            queue=queue,
            tenant_id=tenant_id,
            workflow_id=workflow_id,
            unique_key=unique_key,
        )
        return await self._reader.call(lambda tx: looking.page(tx, wanted, limit, cursor))

    async def counts(self, *, queue: str | None = None) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        return await self._reader.call(lambda tx: looking.counts(tx, queue))

    async def queues(self) -> Sequence[QueueInfo]:
        """Return every queue that holds jobs or is paused."""
        return await self._reader.call(looking.queues)

    # Being told -------------------------------------------------------------

    def subscribe(self, *, capacity: int = 1024) -> AbstractAsyncContextManager[AsyncIterator[JobEvent | Lagged]]:
        """Return the events of what is done through this Storage object."""
        return self._broadcast.subscribe(capacity)

    @asynccontextmanager
    async def wakeups(
        self, queues: Collection[str] | None = None, *, finished: bool = False
    ) -> AsyncGenerator[Wakeups]:
        """Return a waiter that is woken when jobs may have become claimable."""
        chosen = None if queues is None else frozenset(queues)

        async def next_due() -> float | None:
            return await self._reader.call(lambda tx: looking.next_due(tx, chosen))

        async with self._hub.wait_for(chosen, finished=finished, next_due=next_due) as waiter:
            yield waiter

    async def wake(self, queue: str | None = None) -> None:
        """Wake who waits for jobs."""
        await anyio.to_thread.run_sync(self._hub.tell, None if queue is None else (queue,))


def _finish_and_claim(
    tx: Transaction, finishes: Sequence[Finish], began: Collection[str], order: ClaimOrder
) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
    return finish_all(tx, finishes, began), claim(tx, order)


def _give_back(claimed: Sequence[Claimed]) -> Callable[[Transaction], object] | None:
    """Return the operation that gives claimed jobs back when nobody took delivery of them."""
    releases = [ReleaseLease(lease.id) for _, lease in claimed]
    return (lambda tx: finish_all(tx, releases, ())) if releases else None
