"""The contract of a job queue: everything that can be done to jobs at rest.

What `workerctx.queue.base` says of errors, commits and cancellation holds for every method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from workerctx.errors import QueueError
    from workerctx.queue.events import JobEvent, Lagged
    from workerctx.queue.finish import ClaimRequest, Finish
    from workerctx.queue.model import (
        Claimed,
        EnqueueOutcome,
        JobError,
        JobPage,
        JobState,
        Lease,
        QueuedJob,
        QueueInfo,
        Renewed,
    )
    from workerctx.queue.prepared import Prepared
    from workerctx.queue.request import EnqueueRequest, Moment, Seconds


class Wakeups(Protocol):
    """A waiter for wake-ups, level-triggered: one that comes between two waits ends the next wait at once."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a wake-up.

        Args:
            timeout: Seconds; None waits without end. A store may also return early without a wake-up, so
                look for work after every return.

        Returns:
            Whether there was a wake-up.
        """
        ...

    def then(self, call: Prepared[object] | None) -> None:
        """Have a call begun where the next wake-up arrives, a few moments before `wait` returns.

        Nothing is begun by a wake-up that has come before, nor where `wait` returns without one.

        Args:
            call: Instead of the one before; None for none. The owner asks for its result, or drops it.
        """
        ...


class JobQueue(Protocol):
    """Jobs at rest: everything that can be done to them, at least once and fenced by leases."""

    # Adding -----------------------------------------------------------------

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add one job.

        Args:
            request: The job.
            connection: A connection or session of the caller, on SQL stores: the job is part of the caller's
                transaction, and nothing is published for it.

        Raises:
            InvalidRequest: A parent does not exist, the id is taken, or the connection cannot be used here.
        """
        ...

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add many jobs in one transaction: all of them or none.

        Returns:
            The outcomes in the order of the requests; equal unique keys within the batch are one job, too.

        Raises:
            InvalidRequest: As in `enqueue`; then no job was added.
        """
        ...

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
        """Take the next job, or None if there is none for this worker now."""
        ...

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
        """Take up to ``limit`` jobs, best first.

        Args:
            worker_id: Who takes them.
            labels: What the worker offers.
            lease_ttl: Seconds.
            queues: Which to look into, in this order, each with its share.
            weights: The shares, see `ClaimRequest`.
            kinds: Which kinds it can run; None for all.
            kind_limits: Of each of these kinds at most so many jobs.
            limit: Largest number of jobs.
            began: Whether the runs begin at once; False for prefetched jobs, see `finish_many`.

        Returns:
            The jobs and their leases; a job's ``attempt`` is the number of the run to come, whether it counts
            already or not.
        """
        ...

    async def finish_many(
        self, finishes: Sequence[Finish], *, began: Collection[str] = ()
    ) -> Sequence[QueueError | None]:
        """Finish many leases in one transaction, each guarded by its id and failing alone.

        Args:
            finishes: What became of them; a lease is named at most once.
            began: Leases claimed with ``began=False`` whose run has begun meanwhile; lost ones are ignored.

        Returns:
            For each finish None, or the `LeaseLost` or other error that it met; the others are not affected.
        """
        ...

    async def finish_and_claim(
        self, finishes: Sequence[Finish], claim: ClaimRequest, *, began: Collection[str] = ()
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        """Do `finish_many` and then a claim in the same transaction."""
        ...

    def prepare_claim(self, request: ClaimRequest) -> Prepared[Sequence[Claimed]] | None:
        """Return a claim to be begun by the next wake-up; see `Wakeups.then`.

        Jobs that it got are given back if it is dropped.

        Returns:
            None if this store would gain nothing by that: claim after the wake-up.

        Threads: the event loop that asks for the result.
        """
        ...

    async def renew_lease(self, lease_id: str, *, extend_by: float = 30.0) -> Lease:
        """Let a lease run for ``extend_by`` seconds from now.

        Raises:
            LeaseExpired: It ran out already.
            LeaseLost: It was finished or reaped.
        """
        ...

    async def renew_leases(self, lease_ids: Sequence[str], *, extend_by: float = 30.0) -> Renewed:
        """Renew many leases, and learn which are lost and which jobs should stop."""
        ...

    async def complete(self, lease_id: str, outputs: Any = None) -> None:
        """Finish a job with its result, any JSON value; success beats a cancel that came meanwhile.

        Raises:
            LeaseLost: The lease does not hold the job any more; nothing was changed.
            InvalidRequest: The outputs cannot be stored; the lease is as it was.
        """
        ...

    async def fail(
        self, lease_id: str, error: str | JobError, *, retryable: bool = True, delay: float | None = None
    ) -> None:
        """End a run that failed: the job is tried again later, or is dead, or cancelled if that was asked.

        Args:
            lease_id: The lease that holds the job.
            error: What went wrong.
            retryable: False makes the job dead whatever its attempts.
            delay: Seconds until the next run; None follows its retry policy.

        Raises:
            LeaseLost: The lease does not hold the job any more; nothing was changed.
        """
        ...

    async def release(self, lease_id: str) -> None:
        """Give a job back, to be claimed at once, without using up an attempt.

        Raises:
            LeaseLost: The lease does not hold the job any more; nothing was changed.
        """
        ...

    async def snooze(self, lease_id: str, *, delay: Seconds) -> None:
        """Give a job back, due ``delay`` seconds from now, without using up an attempt.

        Raises:
            LeaseLost: The lease does not hold the job any more; nothing was changed.
        """
        ...

    async def progress(self, lease_id: str, value: Any) -> None:
        """Store how far a running job is, any JSON value.

        Raises:
            LeaseLost: The lease does not hold the job any more; nothing was changed.
            InvalidRequest: The value cannot be stored.
        """
        ...

    async def reap_expired_leases(self) -> Sequence[JobEvent]:
        """Take jobs away from workers that let their lease run out.

        A run that had begun uses up an attempt; the job goes back with its backoff, or is dead.

        Returns:
            The events of this reap: `LeaseExpired` and what followed for each job.
        """
        ...

    # Steering ---------------------------------------------------------------

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job: at once if it is not running, otherwise its worker is told to stop it.

        Returns:
            False if it had already finished.

        Raises:
            JobNotFound: There is none.
        """
        ...

    async def cancel_workflow(self, workflow_id: str) -> int:
        """Cancel every job of a workflow, and those enqueued into it until `clear_workflow`.

        Returns:
            How many jobs were cancelled or told to stop.
        """
        ...

    async def clear_workflow(self, workflow_id: str) -> None:
        """Let a cancelled workflow accept jobs again."""
        ...

    async def is_cancelled(self, job_id: str) -> bool:
        """Return whether a job is cancelled or was asked to stop by a user.

        Raises:
            JobNotFound: There is none.
        """
        ...

    async def pause_queue(self, queue: str, *, until: Moment | None = None, cancel_running: bool = False) -> None:
        """Let nobody in the cluster claim from a queue.

        Args:
            queue: Its name; it need not hold jobs.
            until: When it resumes by itself: seconds since the epoch or an aware datetime.
            cancel_running: Ask its running jobs to stop; they are given back, without using up an attempt.
        """
        ...

    async def resume_queue(self, queue: str) -> None:
        """Let a queue be claimed from again.

        Raises:
            InvalidRequest: That is no queue's name.
        """
        ...

    async def retry(self, job_id: str) -> None:
        """Put a dead or cancelled job back, due now, with its attempts reset.

        Raises:
            JobNotFound: There is none.
            WrongState: It is neither dead nor cancelled.
            UniqueKeyTaken: Another active job has its unique key.
        """
        ...

    async def delete(self, job_id: str) -> None:
        """Remove a job that is not running.

        Jobs that waited for it are treated as if it had been cancelled.

        Raises:
            JobNotFound: There is none.
            WrongState: It is running.
        """
        ...

    async def prune(self, retention: Seconds, *, states: Collection[JobState] | None = None) -> int:
        """Remove jobs that finished more than ``retention`` seconds ago.

        One stays as long as a job that depends on it has not ended, since that needs its output.

        Args:
            retention: Seconds or a timedelta.
            states: Which final states; None for all three.

        Returns:
            How many were removed. Works in small transactions, so that it holds up nobody.
        """
        ...

    # Looking ----------------------------------------------------------------

    async def get(self, job_id: str) -> QueuedJob:
        """Return a job.

        Raises:
            JobNotFound: There is none.
        """
        ...

    async def result(self, job_id: str, *, timeout: float | None = None) -> Any:
        """Wait until a job has finished and return its outputs.

        Args:
            job_id: The job.
            timeout: Seconds; None waits without end.

        Raises:
            JobNotFound: There is none.
            JobFailed: It is dead.
            JobCancelled: It was cancelled.
            TimeoutError: It had not finished in time.
        """
        ...

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
        """Return jobs that match every given filter, in order of their ids, a page at a time."""
        ...

    async def counts(self, *, queue: str | None = None) -> dict[JobState, int]:
        """Return how many jobs are in each state; every state is there."""
        ...

    async def queues(self) -> Sequence[QueueInfo]:
        """Return every queue that holds jobs or is paused, by name."""
        ...

    # Being told -------------------------------------------------------------

    def subscribe(self, *, capacity: int = 1024) -> AbstractAsyncContextManager[AsyncIterator[JobEvent | Lagged]]:
        """Return the events of what is done through this Storage object, from entering on, after each commit.

        Args:
            capacity: How many events wait for a slow subscriber before the oldest are dropped and counted by
                `Lagged`.
        """
        ...

    def wakeups(
        self, queues: Collection[str] | None = None, *, finished: bool = False
    ) -> AbstractAsyncContextManager[Wakeups]:
        """Return a waiter that is woken when jobs may have become claimable.

        Args:
            queues: Only in these; None for any.
            finished: Also wake when jobs have finished.
        """
        ...

    async def wake(self, queue: str | None = None) -> None:
        """Wake who waits for jobs in ``queue`` (or any), here and in other processes.

        Raises:
            InvalidRequest: That cannot be the name of a queue.
        """
        ...
