"""What a store is told of a run, depending on how the run ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from workerctx.errors import Abort, InvalidRequest, RetryAfter, RunCancelled, Snooze, Throttled
from workerctx.queue import (
    CancelReason,
    CompleteLease,
    FailLease,
    JobError,
    ReleaseLease,
    SnoozeLease,
    ThrottleLease,
)
from workerctx.queue.transitions import check_finish
from workerctx.runtime.events import JobOutcome
from workerctx.service.describe import describe

if TYPE_CHECKING:
    from workerctx.queue import Finish, QueuedJob
    from workerctx.service import JobCtx

VERDICTS: Final = (Abort, RetryAfter, Snooze, Throttled)
"""What a handler raises or returns to say how its job goes on."""

_WORDS: Final[dict[type[Finish], JobOutcome]] = {
    CompleteLease: JobOutcome.SUCCEEDED,
    ReleaseLease: JobOutcome.RELEASED,
    SnoozeLease: JobOutcome.SNOOZED,
    ThrottleLease: JobOutcome.THROTTLED,
}
_NOT_THE_HANDLERS_FAULT: Final = (CancelReason.SHUTDOWN, CancelReason.QUEUE_PAUSED, CancelReason.LEASE_LOST)


def finish_of_error(lease_id: str, error: Exception) -> Finish:
    """Translate what a handler raised, or returned in place of an output; what no store could keep is a failure."""
    finish = _verdict(lease_id, error)
    try:
        check_finish(finish)
    except InvalidRequest as exc:  # such as a wait of NaN seconds
        return FailLease(lease_id, describe(exc))
    return finish


def _verdict(lease_id: str, error: Exception) -> Finish:
    match error:
        case Snooze():
            return SnoozeLease(lease_id, error.seconds)
        case Throttled():
            return ThrottleLease(lease_id, error.retry_after, error.scope)
        case RetryAfter():
            return FailLease(lease_id, describe(error), delay=error.seconds)
        case Abort():
            return FailLease(lease_id, describe(error), retryable=False)
        case _:
            return FailLease(lease_id, describe(error))


def finish_of_error_in_cancelled_run(
    lease_id: str, error: Exception, reason: CancelReason, timeout: float | None
) -> Finish | None:
    """Translate what a handler raised after it was cancelled; a verdict of its own still counts."""
    if isinstance(error, VERDICTS):
        return finish_of_error(lease_id, error)
    if isinstance(error, RunCancelled) or reason in _NOT_THE_HANDLERS_FAULT:
        return finish_of_cancellation(lease_id, reason, timeout)
    return finish_of_error(lease_id, error)


def finish_of_cancellation(lease_id: str, reason: CancelReason, timeout: float | None) -> Finish | None:
    """Translate a cancellation; None if there is nobody left to be told."""
    match reason:
        case CancelReason.LEASE_LOST:
            return None
        case CancelReason.SHUTDOWN | CancelReason.QUEUE_PAUSED:
            return ReleaseLease(lease_id)
        case CancelReason.TIMEOUT:
            return FailLease(lease_id, JobError("TimeoutError", f"the run took longer than {timeout:g} seconds"))
        case CancelReason.USER:
            return FailLease(lease_id, JobError("Cancelled", "cancelled while it was running"), retryable=False)


def reason_of(ctx: JobCtx) -> CancelReason:
    """Return why a run was cancelled: as it was told, but a shutdown does not extend a timeout."""
    told = ctx.cancel.reason
    if told in (None, CancelReason.SHUTDOWN):
        return CancelReason.TIMEOUT if anyio.current_time() >= ctx.deadline else CancelReason.SHUTDOWN
    return told


def outcome_of(job: QueuedJob, finish: Finish | None, reason: CancelReason | None) -> JobOutcome:
    """Say in one word what becomes of a job, given what its store is told and why its run was cancelled, if it was."""
    if finish is None:
        return JobOutcome.LOST
    if reason is CancelReason.USER and not isinstance(finish, CompleteLease):
        return JobOutcome.CANCELLED
    if isinstance(finish, FailLease):
        return JobOutcome.FAILED if finish.retryable and job.attempt < job.max_attempts else JobOutcome.DEAD
    return _WORDS[type(finish)]
