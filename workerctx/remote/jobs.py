"""The job queue as a remote worker sees it: jobs and outcomes go through the hatch, everything else is asked for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import attrs
from anyio import to_thread

from workerctx.errors import InvalidRequest, LeaseLost, QueueError, StoreBusy
from workerctx.queue import Renewed, new_id
from workerctx.queue.request import as_seconds
from workerctx.queue.skeleton import RESULT_FALLBACK, JobQueueSkeleton
from workerctx.remote import calls
from workerctx.remote.calls.jobs import LONGEST_WAIT
from workerctx.remote.records import RequestRecord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence

    from workerctx.queue import (
        Claimed,
        ClaimRequest,
        EnqueueOutcome,
        EnqueueRequest,
        Finish,
        JobEvent,
        JobPage,
        JobState,
        Lagged,
        Lease,
        QueuedJob,
        QueueInfo,
    )
    from workerctx.queue.prepared import Prepared
    from workerctx.queue.request import Seconds
    from workerctx.queue.skeleton import JobFilter
    from workerctx.queue.turns import ClaimOrder
    from workerctx.remote.asks import Asks
    from workerctx.remote.hatch import Hatch


@attrs.define(eq=False)
class RemoteJobs(JobQueueSkeleton):
    """The `JobQueue` behind a gateway; see there for what each method promises.

    Outcomes are recorded here and told by the session, so a finish returns before the gateway has heard of it.
    """

    _hatch: Hatch
    _asks: Asks
    _disk: anyio.CapacityLimiter = attrs.field(factory=lambda: anyio.CapacityLimiter(1), init=False)
    """The thread that waits for the disk: handlers may have taken all of the event loop's."""

    # Working ------------------------------------------------------------------

    async def finish_many(
        self, finishes: Sequence[Finish], *, began: Collection[str] = ()
    ) -> Sequence[QueueError | None]:
        """Record what became of leases, to be told by the session."""
        if self._hatch.unacked.waits_for_disk and finishes:
            # Not to be abandoned: what is recorded must also be told.
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._hatch.tell, finishes, began, limiter=self._disk)
        else:
            await anyio.lowlevel.checkpoint()
            self._hatch.tell(finishes, began)
        return [None] * len(finishes)

    async def finish_and_claim(
        self, finishes: Sequence[Finish], claim: ClaimRequest, *, began: Collection[str] = ()
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        """Record what became of leases, and take what has arrived."""
        refused = await self.finish_many(finishes, began=began)
        return refused, self._hatch.take(claim)

    async def _finish(self, finish: Finish) -> None:
        await self.finish_many([finish])

    async def _finish_and_claim(
        self, finishes: Sequence[Finish], began: Collection[str], order: ClaimOrder
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        return await self.finish_and_claim(finishes, order.request, began=began)

    async def _claim(self, order: ClaimOrder) -> Sequence[Claimed]:
        await anyio.lowlevel.checkpoint()
        return self._hatch.take(order.request)

    async def _renew_leases(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:  # noqa: ARG002 - the session's
        await anyio.lowlevel.checkpoint()
        held = set(self._hatch.holding)
        return Renewed(lost=tuple(lease_id for lease_id in lease_ids if lease_id not in held))

    async def _renew_lease(self, lease_id: str, extend_by: float) -> Lease:
        lost = (await self._renew_leases([lease_id], extend_by)).lost
        if lost:
            raise LeaseLost(lease_id)
        raise InvalidRequest("a remote worker's session renews its leases: there is nothing to do")

    async def _set_progress(self, lease_id: str, stored: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self._hatch.progress(lease_id, stored)

    async def reap_expired_leases(self) -> Sequence[JobEvent]:
        """Leave it to the gateway."""
        await anyio.lowlevel.checkpoint()
        return ()

    @asynccontextmanager
    async def wakeups(
        self,
        queues: Collection[str] | None = None,  # noqa: ARG002 - what arrives is for us
        *,
        finished: bool = False,
    ) -> AsyncGenerator[_Arrivals]:
        """Return a waiter that is woken when jobs have arrived."""
        if finished:
            _refuse_events()
        yield _Arrivals(self._hatch, self._hatch.arrivals)

    # Asking -------------------------------------------------------------------

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add one job."""
        return (await self.enqueue_bulk([request], connection=connection))[0]

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add many jobs in one transaction."""
        if connection is not None:
            raise InvalidRequest("a remote worker has no connection to its store: enqueue without connection=")
        records = tuple(RequestRecord.of(request, request.job_id or new_id()) for request in requests)
        return await self._asks.ask(calls.Enqueue(records))

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job."""
        return await self._asks.ask(calls.CancelJob(job_id))

    async def cancel_workflow(self, workflow_id: str) -> int:
        """Cancel every job of a workflow."""
        return await self._asks.ask(calls.CancelWorkflow(workflow_id))

    async def clear_workflow(self, workflow_id: str) -> None:
        """Let a cancelled workflow accept jobs again."""
        await self._asks.ask(calls.ClearWorkflow(workflow_id))

    async def is_cancelled(self, job_id: str) -> bool:
        """Return whether a job is cancelled or was asked to stop."""
        return await self._asks.ask(calls.IsCancelled(job_id))

    async def _pause(self, queue: str, until: float | None, *, cancel_running: bool) -> None:
        await self._asks.ask(calls.PauseQueue(queue, until, cancel_running))

    async def _resume(self, queue: str) -> None:
        await self._asks.ask(calls.ResumeQueue(queue))

    async def retry(self, job_id: str) -> None:
        """Put a job that is dead or cancelled back."""
        await self._asks.ask(calls.RetryJob(job_id))

    async def delete(self, job_id: str) -> None:
        """Remove a job that is not running."""
        await self._asks.ask(calls.DeleteJob(job_id))

    async def prune(self, retention: Seconds, *, states: Collection[JobState] | None = None) -> int:
        """Remove jobs that finished long ago."""
        chosen = None if states is None else tuple(states)
        return await self._asks.ask(calls.PruneJobs(as_seconds(retention), chosen))

    async def _prune(self, retention: float, states: frozenset[JobState], limit: int) -> int:  # noqa: ARG002 - in one go
        return await self.prune(retention, states=states)

    async def get(self, job_id: str) -> QueuedJob:
        """Return a job."""
        return (await self._asks.ask(calls.GetJob(job_id))).job()

    async def _page(self, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
        page = await self._asks.ask(calls.ListJobs(**attrs.asdict(wanted, recurse=False), limit=limit, cursor=cursor))
        return page.page()

    async def counts(self, *, queue: str | None = None) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        return await self._asks.ask(calls.CountJobs(queue))

    async def queues(self) -> Sequence[QueueInfo]:
        """Return every queue that holds jobs or is paused."""
        return await self._asks.ask(calls.ListQueues())

    async def _wake(self, queue: str | None) -> None:
        await self._asks.ask(calls.Wake(queue))

    async def _wait_for_end(self, job_id: str) -> QueuedJob:
        while True:
            try:
                job = (await self._asks.ask(calls.AwaitEnd(job_id, LONGEST_WAIT))).job()
            except StoreBusy:  # more handlers wait than the gateway lets wait at once
                await anyio.sleep(RESULT_FALLBACK)
                continue
            if job.state.is_final:
                return job

    @asynccontextmanager
    async def subscribe(self, *, capacity: int = 1024) -> AsyncGenerator[AsyncIterator[JobEvent | Lagged]]:  # noqa: ARG002
        """Refuse: events do not travel.

        Raises:
            QueueError: Always.
        """
        _refuse_events()
        yield _no_events()


@attrs.define(eq=False)
class _Arrivals:
    """Waits for jobs to arrive."""

    _hatch: Hatch
    _seen: int

    def then(self, call: Prepared[object] | None) -> None:
        pass

    async def wait(self, timeout: float | None = None) -> bool:
        hatch = self._hatch
        with anyio.move_on_after(timeout):
            await hatch.arrived.wait(unless=lambda: hatch.arrivals != self._seen)
        woken, self._seen = hatch.arrivals != self._seen, hatch.arrivals
        return woken


def _refuse_events() -> None:
    raise QueueError("a remote worker hears no events of its store: ask a job's handle for its result or status")


async def _no_events() -> AsyncGenerator[JobEvent | Lagged]:
    nothing: tuple[JobEvent, ...] = ()
    for event in nothing:
        yield event
