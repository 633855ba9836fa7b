"""The contract of a store: what every backend promises, and all that the floors above know of it.

Each method may raise `StoreUnavailable` (try again later), `StoreClosed` and `SchemaError` besides what it
lists. Every change is committed when its call returns. A cancelled call has either happened or not, never
half; a claim whose caller was cancelled is given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from workerctx.errors import QueueError, Throttled
    from workerctx.queue.events import JobEvent, Lagged
    from workerctx.queue.finish import ClaimRequest, Finish
    from workerctx.queue.limits import Granted, RateLimit
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
    from workerctx.queue.request import EnqueueRequest, Moment, Seconds
    from workerctx.queue.schedule import Fired, Schedule
    from workerctx.queue.workers import WorkerCommand, WorkerInfo


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
        kinds: Collection[str] | None = None,
        limit: int = 100,
        began: bool = True,
    ) -> Sequence[Claimed]:
        """Take up to ``limit`` jobs, best first.

        Args:
            worker_id: Who takes them.
            labels: What the worker offers.
            lease_ttl: Seconds.
            queues: Which to look into, in this order, each with its share.
            kinds: Which kinds it can run; None for all.
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
        """Let a queue be claimed from again."""
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
        """Wake who waits for jobs in ``queue`` (or any), here and in other processes."""
        ...


class RateLimits(Protocol):
    """Limits that hold across the cluster."""

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Set a limit: ``capacity`` calls at once, refilled evenly over ``per`` seconds.

        What is used up stays used up.

        Raises:
            InvalidRequest: Capacity or period are out of range.
        """
        ...

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Take ``amount`` calls, or learn how many seconds to wait; one atomic step.

        Raises:
            UnknownScope: Nobody configured it.
            InvalidRequest: The amount is below 1 or above the capacity.
        """
        ...

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Let nobody acquire for ``retry_after`` seconds.

        Raises:
            UnknownScope: Nobody configured it.
        """
        ...

    async def list(self) -> Sequence[RateLimit]:
        """Return the configured limits, by scope."""
        ...


class Workers(Protocol):
    """The worker processes of the cluster."""

    async def register(self, worker: WorkerInfo) -> None:
        """Add a worker, or replace the entry with its id."""
        ...

    async def heartbeat(self, worker_id: str, *, state: str = "running", in_flight: int = 0) -> Sequence[WorkerCommand]:
        """Say that a worker lives and what it does.

        Returns:
            The commands sent to it since the last heartbeat, oldest first; each is handed out once.

        Raises:
            WorkerNotFound: It is not registered (any more): register again.
        """
        ...

    async def send(self, worker_id: str, command: WorkerCommand) -> None:
        """Send a command to a worker.

        Raises:
            WorkerNotFound: It is not registered.
        """
        ...

    async def deregister(self, worker_id: str) -> None:
        """Remove a worker; one that is not there is no error."""
        ...

    async def reap(self, older_than: float) -> Sequence[WorkerInfo]:
        """Remove and return workers without a heartbeat for more than ``older_than`` seconds."""
        ...

    async def list(self) -> Sequence[WorkerInfo]:
        """Return the registered workers, by id."""
        ...


class Schedules(Protocol):
    """Jobs that come again."""

    async def put(self, schedule: Schedule) -> None:
        """Add a schedule or replace the one with its name; a changed timing starts afresh."""
        ...

    async def get(self, name: str) -> Schedule:
        """Return a schedule.

        Raises:
            ScheduleNotFound: There is none.
        """
        ...

    async def list(self) -> Sequence[Schedule]:
        """Return every schedule, by name."""
        ...

    async def enable(self, name: str, *, enabled: bool = True) -> None:
        """Switch a schedule on or off; what it missed while off is not made up for.

        Raises:
            ScheduleNotFound: There is none.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove a schedule; one that is not there is no error."""
        ...

    async def fire_due(self) -> Fired:
        """Enqueue a job for each tick that is due, each exactly once however many processes ask.

        A schedule's next tick moves on by compare-and-set in the transaction that enqueues its jobs.
        """
        ...


class LeaseRenewer(Protocol):
    """Keeps leases alive from a thread of its own: synchronous, with its own connection.

    Threads: used by one thread, which need not have an event loop.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def renew(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        """Renew leases for ``extend_by`` seconds from now, and learn which are lost or should stop."""
        ...


class Storage(Protocol):
    """One namespace of one store; an async context manager that opens and closes it."""

    @property
    def url(self) -> str:
        """Where the store is."""
        ...

    @property
    def namespace(self) -> str:
        """Which part of the store it is; nothing crosses it."""
        ...

    @property
    def jobs(self) -> JobQueue:
        """The jobs."""
        ...

    @property
    def rate_limits(self) -> RateLimits:
        """The rate limits."""
        ...

    @property
    def workers(self) -> Workers:
        """The registered workers."""
        ...

    @property
    def schedules(self) -> Schedules:
        """The jobs that come again."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None: ...

    def open_renewer(self) -> LeaseRenewer:
        """Return a renewer for the leases of this storage."""
        ...

    async def now(self) -> float:
        """Return the store's time, in seconds since the epoch, its test offset included."""
        ...

    async def advance(self, seconds: float) -> None:
        """Move the store's clock forward for everyone who opens it; for tests, see `workerctx.testing`."""
        ...
