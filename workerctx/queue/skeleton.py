"""The part of a job queue that is the same in every store: small calls told by large ones, and what is refused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from workerctx.errors import InvalidRequest, JobCancelled, JobFailed
from workerctx.queue.codec import encode_json
from workerctx.queue.finish import ClaimRequest, CompleteLease, FailLease, ReleaseLease, SnoozeLease, check_ttl
from workerctx.queue.model import FINAL_STATES, JobError, JobState
from workerctx.queue.request import as_moment, as_names, as_seconds, check_moment, check_name
from workerctx.queue.retry import LONGEST_WAIT
from workerctx.queue.turns import Rota

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from workerctx.errors import QueueError
    from workerctx.queue.finish import Finish
    from workerctx.queue.jobqueue import Wakeups
    from workerctx.queue.model import Claimed, JobPage, Lease, QueuedJob, Renewed
    from workerctx.queue.prepared import Prepared
    from workerctx.queue.request import Moment, Seconds
    from workerctx.queue.turns import ClaimOrder

RESULT_FALLBACK: Final = 2.0
"""Seconds after which a waiter for a result looks again, woken or not."""

PRUNED_AT_ONCE: Final = 1000
"""How many jobs one step of a prune removes."""


@attrs.frozen(kw_only=True)
class JobFilter:
    """Which jobs a listing shows; None matches all."""

    state: JobState | None = None
    kind: str | None = None
    queue: str | None = None
    tenant_id: str | None = None
    workflow_id: str | None = None
    unique_key: str | None = None


@attrs.define(eq=False)
class JobQueueSkeleton(ABC):
    """Base of the stores' job queues: checks what is asked for and leaves a few operations to the store.

    See `JobQueue` for what each method promises; what a store adds are the other methods of that protocol.
    """

    _rota: Rota = attrs.field(factory=Rota, init=False)

    # What a store does ------------------------------------------------------

    @abstractmethod
    async def _claim(self, order: ClaimOrder) -> Sequence[Claimed]:
        """Take jobs, and give them back if nobody takes delivery."""

    @abstractmethod
    async def _finish(self, finish: Finish) -> None:
        """Finish one lease."""

    @abstractmethod
    async def _finish_and_claim(
        self, finishes: Sequence[Finish], began: Collection[str], order: ClaimOrder
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        """Finish many leases and claim, in one transaction."""

    @abstractmethod
    async def _renew_lease(self, lease_id: str, extend_by: float) -> Lease:
        """Let a lease run for ``extend_by`` seconds from now."""

    @abstractmethod
    async def _renew_leases(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        """Let leases run for ``extend_by`` seconds from now."""

    @abstractmethod
    async def _set_progress(self, lease_id: str, stored: bytes) -> None:
        """Store how far a running job is, given as JSON."""

    @abstractmethod
    async def _pause(self, queue: str, until: float | None, *, cancel_running: bool) -> None:
        """Let nobody claim from a queue, until a moment of store time or for good."""

    @abstractmethod
    async def _resume(self, queue: str) -> None:
        """Let a queue be claimed from again."""

    @abstractmethod
    async def _wake(self, queue: str | None) -> None:
        """Wake who waits for jobs in a queue, or any."""

    @abstractmethod
    async def _prune(self, retention: float, states: frozenset[JobState], limit: int) -> int:
        """Remove at most ``limit`` jobs in final states that finished longer ago; return how many."""

    @abstractmethod
    async def _page(self, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
        """Return a page of the jobs that match."""

    @abstractmethod
    async def get(self, job_id: str) -> QueuedJob:
        """Return a job."""

    @abstractmethod
    def wakeups(
        self, queues: Collection[str] | None = None, *, finished: bool = False
    ) -> AbstractAsyncContextManager[Wakeups]:
        """Return a waiter that is woken when jobs may have become claimable."""

    # What follows from it ---------------------------------------------------

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
        request = ClaimRequest(
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
        return await self._claim(self._rota.order(request))

    async def finish_and_claim(
        self, finishes: Sequence[Finish], claim: ClaimRequest, *, began: Collection[str] = ()
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        """Finish many leases and claim, in one transaction."""
        return await self._finish_and_claim(finishes, began, self._rota.order(claim))

    def prepare_claim(self, request: ClaimRequest) -> Prepared[Sequence[Claimed]] | None:  # noqa: ARG002
        """Return None: nobody but the caller could begin a claim."""
        return None

    def _prepare_get(self, job_id: str) -> Prepared[QueuedJob] | None:  # noqa: ARG002
        """Return a look at a job to be begun by the next wake-up; None if the store would gain nothing by that."""
        return None

    async def wake(self, queue: str | None = None) -> None:
        """Wake who waits for jobs."""
        if queue is not None:
            check_name("a queue's name", queue)
        await self._wake(queue)

    async def renew_lease(self, lease_id: str, *, extend_by: float = 30.0) -> Lease:
        """Let a lease run on."""
        check_ttl("extend_by", extend_by)
        return await self._renew_lease(lease_id, extend_by)

    async def renew_leases(self, lease_ids: Sequence[str], *, extend_by: float = 30.0) -> Renewed:
        """Let many leases run on."""
        check_ttl("extend_by", extend_by)
        return await self._renew_leases(lease_ids, extend_by)

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
        await self._set_progress(lease_id, encode_json(value, "progress"))

    async def pause_queue(self, queue: str, *, until: Moment | None = None, cancel_running: bool = False) -> None:
        """Let nobody claim from a queue."""
        check_name("a queue's name", queue)
        moment = as_moment(until)
        if moment is not None:
            check_moment("until", moment)
        await self._pause(queue, moment, cancel_running=cancel_running)

    async def resume_queue(self, queue: str) -> None:
        """Let a queue be claimed from again."""
        check_name("a queue's name", queue)
        await self._resume(queue)

    async def prune(self, retention: Seconds, *, states: Collection[JobState] | None = None) -> int:
        """Remove jobs that finished long ago."""
        seconds = as_seconds(retention)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidRequest(f"retention must be 0 or more seconds, got {seconds}")
        seconds = min(seconds, LONGEST_WAIT)  # longer than any job has been finished
        chosen = FINAL_STATES if states is None else frozenset(states)
        if not chosen <= FINAL_STATES:
            alive = ", ".join(sorted(chosen - FINAL_STATES))
            raise InvalidRequest(f"only finished jobs can be pruned, not {alive}")
        removed = 0
        while count := await self._prune(seconds, chosen, PRUNED_AT_ONCE):
            removed += count
        return removed

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
        wanted = JobFilter(
            state=None if state is None else JobState(state),
            kind=kind,
            queue=queue,
            tenant_id=tenant_id,
            workflow_id=workflow_id,
            unique_key=unique_key,
        )
        return await self._page(wanted, limit, cursor)

    async def result(self, job_id: str, *, timeout: float | None = None) -> Any:
        """Wait for a job's outputs."""
        job = await self.get(job_id)
        if job.state not in FINAL_STATES:
            with anyio.move_on_after(timeout) as patience:
                job = await self._wait_for_end(job_id)
            if patience.cancelled_caught:
                raise TimeoutError(
                    f"job {job_id!r} has not ended within {timeout} seconds: `workerctx jobs explain {job_id}` says why"
                )
        if job.state is JobState.SUCCEEDED:
            return job.result
        assert job.error is not None
        if job.state is JobState.CANCELLED:
            raise JobCancelled(job_id, job.error.message)
        raise JobFailed(job_id, str(job.error))

    async def _wait_for_end(self, job_id: str) -> QueuedJob:
        """Return a job once it has finished."""
        async with self.wakeups((), finished=True) as wakeups:
            job = await self.get(job_id)
            while job.state not in FINAL_STATES:
                look = self._prepare_get(job_id)
                wakeups.then(look)
                await wakeups.wait(RESULT_FALLBACK)
                job = await (self.get(job_id) if look is None else look.result())
        return job


def refuse_connection(store: str, connection: object) -> None:
    """Refuse a caller's connection, in a store where there is no such thing.

    Raises:
        InvalidRequest: There is one.
    """
    if connection is not None:
        raise InvalidRequest(
            f"{store} has no transactions to join, so it cannot use {type(connection).__name__}: "
            "leave connection out, or use a SQL store"
        )
