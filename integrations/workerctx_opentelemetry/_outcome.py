"""What becomes of a job, as far as that can be told where its run ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import anyio

from workerctx.errors import Abort, RunCancelled, Snooze, Throttled
from workerctx.queue import CancelReason
from workerctx.runtime import JobOutcome

if TYPE_CHECKING:
    from workerctx import JobCtx

_GIVEN_UP: Final = {
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
    """Tell whether the run ended because a scope around it was cancelled; any other cancellation is a failure."""
    if isinstance(error, Exception):
        return isinstance(error, RunCancelled)
    return anyio.current_effective_deadline() == -math.inf


def _reason(ctx: JobCtx) -> CancelReason:
    """Return why a run was cancelled: as it was told, but a shutdown does not extend a timeout."""
    told = ctx.cancel.reason or CancelReason.SHUTDOWN
    late = told is CancelReason.SHUTDOWN and anyio.current_time() >= ctx.deadline
    return CancelReason.TIMEOUT if late else told
