"""The job queue of a SQL store: each call is an operation, handed to the thread that writes or reads."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from workerctx.queue.finish import ReleaseLease
from workerctx.queue.skeleton import JobQueueSkeleton
from workerctx.queue.sql import leases, looking, settling, steering
from workerctx.queue.sql.claiming import Claim, claim
from workerctx.queue.sql.enqueueing import Enqueue, enqueue_all
from workerctx.queue.sql.rows import optional_micros, to_micros
from workerctx.queue.sql.settling import REAPED_AT_ONCE, FinishOne, finish_all

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from workerctx.errors import QueueError
    from workerctx.queue.batching import Batcher
    from workerctx.queue.broadcast import Broadcast
    from workerctx.queue.events import JobEvent, Lagged
    from workerctx.queue.finish import ClaimRequest, Finish
    from workerctx.queue.jobqueue import Wakeups
    from workerctx.queue.model import Claimed, EnqueueOutcome, JobPage, JobState, Lease, QueuedJob, QueueInfo, Renewed
    from workerctx.queue.prepared import Prepared
    from workerctx.queue.request import EnqueueRequest
    from workerctx.queue.skeleton import JobFilter
    from workerctx.queue.sql.transaction import Transaction
    from workerctx.queue.turns import ClaimOrder
    from workerctx.queue.waking import WakeupHub


class CallersTransaction(Protocol):
    """Enqueues on a connection that belongs to somebody else."""

    async def enqueue(self, connection: Any, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
        """Add jobs that are there once the connection's owner commits."""
        ...


@attrs.define(eq=False)
class SqlJobs(JobQueueSkeleton):
    """`JobQueue` in tables; see there for what each method promises."""

    _writer: Batcher[Transaction]
    _reader: Batcher[Transaction]
    _broadcast: Broadcast
    _hub: WakeupHub
    _callers: CallersTransaction

    # Adding -----------------------------------------------------------------

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add one job."""
        if connection is not None:
            return (await self._callers.enqueue(connection, [request]))[0]
        return await self._writer.call(Enqueue(request))

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add many jobs, all or none."""
        batch = list(requests)
        if connection is not None:
            return await self._callers.enqueue(connection, batch)
        return await self._writer.call(lambda tx: enqueue_all(tx, batch))

    # Working ----------------------------------------------------------------

    async def _claim(self, order: ClaimOrder) -> Sequence[Claimed]:
        return await self._writer.call(Claim(order), _give_back)

    def prepare_claim(self, request: ClaimRequest) -> Prepared[Sequence[Claimed]]:
        """Return a claim to be begun by the next wake-up."""
        return self._writer.prepare(Claim(self._rota.order(request)), _give_back)

    async def finish_many(
        self, finishes: Sequence[Finish], *, began: Collection[str] = ()
    ) -> Sequence[QueueError | None]:
        """Finish many leases, each for itself."""
        if not finishes and not began:
            return []
        return await self._writer.call(lambda tx: finish_all(tx, finishes, began))

    async def _finish(self, finish: Finish) -> None:
        await self._writer.call(FinishOne(finish))

    async def _finish_and_claim(
        self, finishes: Sequence[Finish], began: Collection[str], order: ClaimOrder
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        return await self._writer.call(
            lambda tx: (finish_all(tx, finishes, began), claim(tx, order)), lambda both: _give_back(both[1])
        )

    async def _renew_lease(self, lease_id: str, extend_by: float) -> Lease:
        return await self._writer.call(lambda tx: leases.renew_one(tx, lease_id, extend_by))

    async def _renew_leases(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        return await self._writer.call(lambda tx: leases.renew(tx, lease_ids, extend_by))

    async def _set_progress(self, lease_id: str, stored: bytes) -> None:
        await self._writer.call(lambda tx: leases.set_progress(tx, lease_id, stored.decode()))

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

    async def _pause(self, queue: str, until: float | None, *, cancel_running: bool) -> None:
        moment = optional_micros(until)
        await self._writer.call(lambda tx: steering.pause(tx, queue, moment, cancel_running=cancel_running))

    async def _resume(self, queue: str) -> None:
        await self._writer.call(lambda tx: steering.resume(tx, queue))

    async def retry(self, job_id: str) -> None:
        """Put a dead or cancelled job back."""
        await self._writer.call(lambda tx: steering.retry(tx, job_id))

    async def delete(self, job_id: str) -> None:
        """Remove a job that is not running."""
        await self._writer.call(lambda tx: steering.delete(tx, job_id))

    async def _prune(self, retention: float, states: frozenset[JobState], limit: int) -> int:
        return await self._writer.call(lambda tx: steering.prune(tx, states, to_micros(retention), limit))

    # Looking ----------------------------------------------------------------

    async def get(self, job_id: str) -> QueuedJob:
        """Return a job."""
        return await self._reader.call(lambda tx: looking.get(tx, job_id))

    def _prepare_get(self, job_id: str) -> Prepared[QueuedJob]:
        return self._reader.prepare(lambda tx: looking.get(tx, job_id))

    async def _page(self, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
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

    async def _wake(self, queue: str | None) -> None:
        """Wake who waits for jobs."""

        def do(tx: Transaction) -> None:
            if queue is None:
                tx.everyone = True
            else:
                tx.ready.add(queue)

        await self._writer.call(do)


def _give_back(claimed: Sequence[Claimed]) -> Callable[[Transaction], object] | None:
    """Return the operation that gives claimed jobs back when nobody took delivery of them."""
    releases = [ReleaseLease(lease.id) for _, lease in claimed]
    return (lambda tx: finish_all(tx, releases, ())) if releases else None
