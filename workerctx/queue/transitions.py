"""What becomes of a job: pure functions from one record to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from workerctx.errors import InvalidRequest
from workerctx.queue.codec import encode_json
from workerctx.queue.events import Cancelled, Completed, Failed, LeaseExpired, Ready, Snoozed, Started
from workerctx.queue.finish import CompleteLease, FailLease, ReleaseLease, SnoozeLease, ThrottleLease
from workerctx.queue.model import (
    DELIVERY_MARGIN,
    ERROR_HISTORY,
    CancelReason,
    FailedAttempt,
    JobError,
    JobState,
)
from workerctx.queue.request import check_name
from workerctx.queue.retry import LONGEST_WAIT, is_number

if TYPE_CHECKING:
    from workerctx.queue.events import JobEvent
    from workerctx.queue.finish import Finish
    from workerctx.queue.model import QueuedJob

BY_USER: Final = "cancelled by a user"
EXPIRED: Final = "expired"


def workflow_cancelled(workflow_id: str) -> str:
    """Return the reason of jobs that go down with their workflow."""
    return f"workflow {workflow_id!r} was cancelled"


def claim(job: QueuedJob, *, worker_id: str, lease_id: str, began: bool, now: float) -> QueuedJob:
    """Return the job as held by a new lease; what an earlier run was told to do is forgotten."""
    return replace(
        job,
        state=JobState.RUNNING,
        attempt=job.attempt + began,
        deliveries=job.deliveries + 1,
        claimed_at=now,
        worker_id=worker_id,
        lease_id=lease_id,
        cancel_requested=None,
    )


def is_poison(job: QueuedJob) -> bool:
    """Whether the job was lost by its workers so often that it may not be handed out again."""
    return job.deliveries >= job.max_attempts + DELIVERY_MARGIN


def poisoned(job: QueuedJob, now: float) -> QueuedJob:
    """Return the job dead, because its workers vanish with it."""
    error = JobError(
        "too many deliveries",
        f"it was claimed {job.deliveries} times and never given back or finished: it may kill its workers",
    )
    return _final(_remember(job, error, now), JobState.DEAD, now)


def cancel(job: QueuedJob, reason: str, now: float) -> QueuedJob:
    """Return the job cancelled."""
    return _final(_remember(job, JobError("cancelled", reason), now), JobState.CANCELLED, now)


def finish(job: QueuedJob, how: Finish, *, began: bool, now: float) -> QueuedJob:
    """Return what becomes of a held job when its worker says how the run ended."""
    match how:
        case CompleteLease():
            attempt = job.attempt + (not began)
            return replace(_final(job, JobState.SUCCEEDED, now), attempt=attempt, result_json=how.outputs_json)
        case FailLease():
            counted = job if began else replace(job, attempt=job.attempt + 1)
            return _fail(counted, how.error, now, retryable=how.retryable, delay=how.delay)
        case ReleaseLease():
            return _give_back(job, job.run_at, began=began, now=now)
        case SnoozeLease():
            return _give_back(job, now + how.delay, began=began, now=now)
        case ThrottleLease():
            return _give_back(job, now + how.retry_after, began=began, now=now)


def expire_lease(job: QueuedJob, *, began: bool, now: float) -> QueuedJob:
    """Return what becomes of a job whose lease ran out."""
    if began:
        error = JobError("lease expired", f"worker {job.worker_id!r} let its lease run out during the run")
        return _fail(job, error, now, retryable=True, delay=None)
    if job.cancel_requested is CancelReason.USER:
        return cancel(job, BY_USER, now)
    return _waiting(job, job.run_at, now)


def retry(job: QueuedJob, now: float) -> QueuedJob:
    """Return a dead or cancelled job as if it had just been added."""
    # A time to run by that has passed would cancel it at once, against the word of who put it back.
    expired = job.expires_at is not None and job.expires_at <= now
    fresh = replace(
        job,
        attempt=0,
        deliveries=0,
        claimed_at=None,
        finished_at=None,
        result_json=None,
        expires_at=None if expired else job.expires_at,
    )
    return _waiting(fresh, now, now)


def arrive(job: QueuedJob, now: float, *, waiting: bool, reason: str | None = None) -> QueuedJob:
    """Return a job of another store as it stands in this one.

    Args:
        job: Any that is not running.
        now: The time here, which may be another one than there.
        waiting: Whether it waits for an unfinished job.
        reason: Why it cannot be alive here, if it cannot.
    """
    if job.state.is_final:
        return job
    if reason is not None:
        return cancel(job, reason, now)
    return replace(job, state=JobState.BLOCKED) if waiting else _waiting(job, job.run_at, now)


def unblock(job: QueuedJob, now: float) -> QueuedJob:
    """Return a blocked job as waiting for its time, or for a worker."""
    return _waiting(job, max(job.run_at, now), now)


def check_finish(how: Finish) -> None:
    """Refuse a wait that is no number of seconds, and details of an error that cannot be stored.

    Raises:
        InvalidRequest: A wait is negative, NaN or too long, or details are not JSON or too large.
    """
    match how:
        case FailLease():
            if how.delay is not None:
                check_wait(how.delay)
            if how.error.details is not None:
                encode_json(how.error.details, "error's details")
            try:
                "".join((how.error.kind, how.error.message, how.error.traceback or "")).encode()
            except (TypeError, UnicodeError) as exc:
                raise InvalidRequest(f"an error is told in texts, and this is none: {exc}") from exc
        case SnoozeLease():
            check_wait(how.delay)
        case ThrottleLease():
            check_wait(how.retry_after)
            if how.scope is not None:
                check_name("a rate limit's scope", how.scope)
        case _:
            pass


def check_wait(seconds: float, what: str = "a wait") -> None:
    """Refuse a wait that is no number of seconds.

    Args:
        seconds: How long.
        what: How the value is called in an error message.

    Raises:
        InvalidRequest: It is no number, negative, NaN, or longer than any store can keep.
    """
    if not is_number(seconds):
        raise InvalidRequest(f"{what} is a number of seconds, got {seconds!r}")
    if not 0 <= seconds <= LONGEST_WAIT:
        raise InvalidRequest(f"{what} is 0 to {LONGEST_WAIT:.0f} seconds, got {seconds}")


def ending(job: QueuedJob, now: float) -> JobEvent:
    """Return the event of a run that ended: the job is final, or was put back to be tried again."""
    about = _about(job, now)
    if job.state is JobState.SUCCEEDED:
        return Completed(**about, outputs=job.result)
    error = job.error_history[-1].error
    if job.state is JobState.CANCELLED:
        return Cancelled(**about, reason=error.message)
    if job.state is JobState.DEAD:
        return Failed(**about, error=error, attempt=job.attempt, retryable=False)
    return Failed(**about, error=error, attempt=job.attempt, retryable=True, run_at=job.run_at)


def reason_of(job: QueuedJob) -> str:
    """Return why a job was cancelled."""
    return job.error_history[-1].error.message


def given_back(job: QueuedJob, now: float) -> JobEvent:
    """Return the event of a job that its worker did not keep."""
    if job.state is JobState.CANCELLED:
        return ending(job, now)
    return Snoozed(**_about(job, now), run_at=job.run_at)


def ready(job: QueuedJob, now: float) -> JobEvent:
    """Return the event of a job that waits only for its time and a worker."""
    return Ready(**_about(job, now))


def started(job: QueuedJob, now: float) -> JobEvent:
    """Return the event of a claim."""
    assert job.worker_id is not None
    assert job.lease_id is not None
    return Started(**_about(job, now), worker_id=job.worker_id, lease_id=job.lease_id, attempt=job.attempt)


def lease_expired(job: QueuedJob, now: float) -> JobEvent:
    """Return the event of a lease that ran out, given the job as it was held."""
    assert job.worker_id is not None
    assert job.lease_id is not None
    return LeaseExpired(**_about(job, now), worker_id=job.worker_id, lease_id=job.lease_id)


def _about(job: QueuedJob, now: float) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "workflow_id": job.workflow_id,
        "at": now,
    }


def _fail(job: QueuedJob, error: JobError, now: float, *, retryable: bool, delay: float | None) -> QueuedJob:
    failed = _remember(job, error, now)
    if job.cancel_requested is CancelReason.USER:
        return cancel(failed, BY_USER, now)
    if not retryable or job.attempt >= job.max_attempts:
        return _final(failed, JobState.DEAD, now)
    wait = job.backoff.delay(job.attempt) if delay is None else delay
    return _waiting(failed, now + wait, now)


def _give_back(job: QueuedJob, run_at: float, *, began: bool, now: float) -> QueuedJob:
    if job.cancel_requested is CancelReason.USER:
        return cancel(job, BY_USER, now)
    # A worker that gives a job back did not die of it: neither a run nor a delivery is held against the job.
    unspent = replace(job, attempt=job.attempt - began, deliveries=job.deliveries - 1)
    return _waiting(unspent, run_at, now)


def _waiting(job: QueuedJob, run_at: float, now: float) -> QueuedJob:
    state = JobState.QUEUED if run_at <= now else JobState.SCHEDULED
    return replace(job, state=state, run_at=run_at, worker_id=None, lease_id=None, cancel_requested=None)


def _final(job: QueuedJob, state: JobState, now: float) -> QueuedJob:
    return replace(job, state=state, finished_at=now, lease_id=None, cancel_requested=None)


def _remember(job: QueuedJob, error: JobError, now: float) -> QueuedJob:
    history = (*job.error_history, FailedAttempt(job.attempt, now, error))
    return replace(job, error_history=history[-ERROR_HISTORY:])
