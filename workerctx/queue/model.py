"""The nouns of the queue: a job, its state, the lease that holds it, and how it failed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias

import msgspec

from workerctx.queue.codec import decode_json
from workerctx.queue.retry import DEFAULT_RETRY, RetryPolicy

DELIVERY_MARGIN: Final = 3
"""A job that was claimed more than ``max_attempts + DELIVERY_MARGIN`` times is dead."""

ERROR_HISTORY: Final = 32
"""How many failures a job remembers, the newest ones."""

OnParentFailure: TypeAlias = Literal["cancel", "run"]


class JobState(StrEnum):
    """Where a job is in its life; the last three are final."""

    BLOCKED = "blocked"
    """Waits for other jobs to finish."""
    SCHEDULED = "scheduled"
    """Waits for its time: a delay, a retry or a snooze."""
    QUEUED = "queued"
    """Can be claimed."""
    RUNNING = "running"
    """Held by a lease."""
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    """Failed for good."""
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing happens to the job any more."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED})
ACTIVE_STATES: Final = frozenset(JobState) - FINAL_STATES


class CancelReason(StrEnum):
    """Why the run of a job is being cancelled."""

    USER = "user"
    QUEUE_PAUSED = "queue_paused"
    SHUTDOWN = "shutdown"
    TIMEOUT = "timeout"
    LEASE_LOST = "lease_lost"


class JobError(msgspec.Struct, frozen=True):
    """What went wrong in a run.

    Attributes:
        kind: Name of the exception's class, or a word such as ``lease expired``.
        message: One sentence.
        traceback: Formatted traceback, if there is one.
        details: Any further JSON value.
    """

    kind: str
    message: str
    traceback: str | None = None
    details: Any = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    @classmethod
    def of(cls, error: str | JobError) -> JobError:
        """Return ``error`` itself, or a plain text as a `JobError` of kind ``Error``."""
        return cls("Error", error) if isinstance(error, str) else error


class FailedAttempt(msgspec.Struct, frozen=True):
    """One entry of a job's error history.

    Attributes:
        attempt: Number of the run that failed; 0 if no run had begun.
        at: Store time, in seconds since the epoch.
        error: What went wrong.
    """

    attempt: int
    at: float
    error: JobError


class QueuedJob(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job as a store knows it, at one moment.

    Times are store times in seconds since the epoch. ``attempt`` counts runs: 0 before the first, 1 in it.

    Attributes:
        id: Time-ordered id, unique in the namespace.
        kind: The handler's stable name.
        payload_json: The payload as stored; `payload` decodes it.
        attempt: Number of the current or last run.
        max_attempts: How many runs the job may have, the first included.
        deliveries: How often it was claimed.
        retry: Its own backoff; None means the default one.
        timeout: Longest run, in seconds.
        run_at: When it is or was due.
        expires_at: A run that has not begun by then never does.
        upstream_outputs: Results of the jobs it depends on, by id.
        result_json: The result as stored; `result` decodes it.
        cancel_requested: Why its current run should stop, if it should.
        error_history: The newest failures, oldest first.
    """

    id: str
    kind: str
    queue: str = "default"
    payload_json: bytes = b"null"
    state: JobState = JobState.QUEUED
    priority: int = 0
    attempt: int = 0
    max_attempts: int = 1
    deliveries: int = 0
    retry: RetryPolicy | None = None
    timeout: float | None = None
    run_at: float = 0.0
    expires_at: float | None = None
    unique_key: str | None = None
    workflow_id: str | None = None
    depends_on: tuple[str, ...] = ()
    on_parent_failure: OnParentFailure = "cancel"
    upstream_outputs: dict[str, Any] = {}
    required_labels: tuple[str, ...] = ()
    tenant_id: str | None = None
    headers: dict[str, str] = {}
    progress: Any = None
    created_at: float = 0.0
    claimed_at: float | None = None
    finished_at: float | None = None
    worker_id: str | None = None
    lease_id: str | None = None
    cancel_requested: CancelReason | None = None
    result_json: bytes | None = None
    error_history: tuple[FailedAttempt, ...] = ()

    @property
    def payload(self) -> Any:
        """The payload, decoded."""
        return decode_json(self.payload_json)

    @property
    def result(self) -> Any:
        """The outputs of a job that succeeded, decoded; None for any other."""
        return None if self.result_json is None else decode_json(self.result_json)

    @property
    def error(self) -> JobError | None:
        """The last failure or reason of cancellation; None for a job that succeeded or never failed."""
        if self.state is JobState.SUCCEEDED or not self.error_history:
            return None
        return self.error_history[-1].error

    @property
    def backoff(self) -> RetryPolicy:
        """The policy that its retries follow."""
        return DEFAULT_RETRY if self.retry is None else self.retry


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The right to run a job and to finish it, for a while.

    Attributes:
        id: A new one with every claim; each finish names it.
        job_id: The job it holds.
        worker_id: Who claimed it.
        granted_at: Store time, in seconds since the epoch.
        ttl: Seconds from the grant or the last renewal to expiry.
        expires_at: Store time of expiry as granted; a renewal moves it in the store.
    """

    id: str
    job_id: str
    worker_id: str
    granted_at: float
    ttl: float
    expires_at: float


Claimed: TypeAlias = tuple[QueuedJob, Lease]


class EnqueueOutcome(msgspec.Struct, frozen=True, gc=False):
    """Where a request ended up.

    Attributes:
        id: Of the new job, or of the active one with the same unique key.
        deduped: Whether such a job was there already, so that nothing was added.
    """

    id: str
    deduped: bool = False


class Renewed(msgspec.Struct, frozen=True):
    """What a renewal of many leases found.

    Attributes:
        lost: Ids of leases that are no longer ours.
        cancelled: Ids of leases whose job should stop, and why; they were renewed.
    """

    lost: tuple[str, ...] = ()
    cancelled: dict[str, CancelReason] = {}


class JobPage(msgspec.Struct, frozen=True):
    """Some jobs of a listing.

    Attributes:
        jobs: In order of their ids.
        next_cursor: Pass it as ``cursor`` for the following page; None on the last one.
    """

    jobs: tuple[QueuedJob, ...]
    next_cursor: str | None = None


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue that holds jobs or is paused.

    Attributes:
        name: Of the queue.
        paused: Whether nobody claims from it now.
        paused_until: When it resumes by itself, in store time; None if it does not.
        counts: How many jobs it has in each state that occurs.
    """

    name: str
    paused: bool = False
    paused_until: float | None = None
    counts: dict[JobState, int] = {}
