"""What becomes of a job, as far as that can be told where its run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from workerctx.errors import Abort, RunCancelled, Snooze, Throttled
from workerctx.queue import CancelReason
from workerctx.runtime import JobOutcome

if TYPE_CHECKING:
    from workerctx import JobCtx

_GIVEN_UP: Final[dict[CancelReason | None, JobOutcome]] = {
    CancelReason.USER: JobOutcome.CANCELLED,
    CancelReason.LEASE_LOST: JobOutcome.LOST,
    CancelReason.SHUTDOWN: JobOutcome.RELEASED,
    CancelReason.QUEUE_PAUSED: JobOutcome.RELEASED,
}


def outcome_of_run(ctx: JobCtx, error: BaseException | None) -> tuple[JobOutcome, bool]:
    """Return the outcome of a run that ended with this, and whether that is a failure of the job."""
    if error is None:
        return JobOutcome.SUCCEEDED, False
    if isinstance(error, Snooze):
        return JobOutcome.SNOOZED, False
    if isinstance(error, Throttled):
        return JobOutcome.THROTTLED, False
    given_up = _GIVEN_UP.get(_reason(ctx)) if _is_cancellation(error) else None
    if given_up is not None:
        return given_up, False
    final = isinstance(error, Abort) or ctx.job.attempt >= ctx.job.max_attempts
    return (JobOutcome.DEAD if final else JobOutcome.FAILED), True


def _is_cancellation(error: BaseException) -> bool:
    kinds = (RunCancelled, anyio.get_cancelled_exc_class())
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)


def _reason(ctx: JobCtx) -> CancelReason | None:
    """Return why a run was cancelled; a shutdown does not extend a timeout, and None is a failure of the handler."""
    told = ctx.cancel.reason
    if told not in {None, CancelReason.SHUTDOWN}:
        return told
    if anyio.current_time() >= ctx.deadline:
        return CancelReason.TIMEOUT
    return CancelReason.SHUTDOWN if ctx.stopping else told
