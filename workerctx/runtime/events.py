"""What a worker loop tells listeners besides the lifecycle's own events; none is made that nobody listens for."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import frozen

from workerctx.lifecycle import Event

if TYPE_CHECKING:
    from workerctx.queue import JobError, QueuedJob


class JobOutcome(StrEnum):
    """What becomes of a job whose run has ended, as its worker tells the store."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The run failed and the job is tried again."""
    DEAD = "dead"
    """The run failed, and it was the last."""
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"
    """The handler asked for a later time."""
    THROTTLED = "throttled"
    """The handler met a limit."""
    RELEASED = "released"
    """The worker gave the job back, since it stops or the queue is paused."""
    LOST = "lost"
    """The lease was lost during the run: the job belongs to somebody else by now."""


@frozen(eq=False, kw_only=True)
class JobsClaimed(Event):
    """The worker took jobs from its store.

    Attributes:
        number: how many.
    """

    number: int


@frozen(eq=False, kw_only=True)
class JobFinished(Event):
    """A run has ended; the store will hear of it in the next round.

    Attributes:
        job: the job as it was claimed.
        outcome: what becomes of it. If the store refuses that because the lease is lost, `JobLost` follows.
        error: how the run failed, if it did.
        seconds: how long it ran.
        waited: seconds from the time when the job was due to the beginning of the run.
    """

    job: QueuedJob
    outcome: JobOutcome
    error: JobError | None
    seconds: float
    waited: float


@frozen(eq=False, kw_only=True)
class JobLost(Event):
    """A lease of this worker ran out, and the store may have given the job to somebody else.

    Attributes:
        lease_id: the lease.
        after_run: False if the run was cancelled for it, True if it had ended and its outcome was not taken.
    """

    lease_id: str
    after_run: bool


@frozen(eq=False, kw_only=True)
class StoreFailed(Event):
    """The store failed; the worker is not ready and tries again.

    Attributes:
        error: what the store raised.
        failures: the how manieth failure in a row it is.
    """

    error: Exception
    failures: int

    def as_error(self) -> BaseException | None:
        """Return what the store raised."""
        return self.error


@frozen(eq=False, kw_only=True)
class StoreRecovered(Event):
    """The store answers again.

    Attributes:
        failures: how often it had failed in a row.
    """

    failures: int


@frozen(eq=False, kw_only=True)
class LoopLag(Event):
    """The event loop answered a call from another thread, as it is asked to all the time.

    Attributes:
        seconds: how long that took.
    """

    seconds: float


@frozen(eq=False, kw_only=True)
class LoopBlocked(Event):
    """The event loop was blocked for too long and runs again.

    Attributes:
        seconds: how long it did not answer.
        stack: where it was stuck when that was noticed.
    """

    seconds: float
    stack: str


@frozen(eq=False, kw_only=True)
class RunOverran(Event):
    """A sync handler goes on in its thread, which nothing can end, although its run is over.

    Attributes:
        job: the job, as it was claimed.
        seconds: for how long it has gone on.
        stack: where it is.
    """

    job: QueuedJob
    seconds: float
    stack: str
