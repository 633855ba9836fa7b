"""What becomes of a job, as far as that can be told where its run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from workerctx.errors import RunCancelled
from workerctx.lifecycle.groups import is_cancelled_here
from workerctx.queue import CompleteLease, FailLease, ReleaseLease
from workerctx.runtime import JobOutcome
from workerctx.runtime.outcome import (
    VERDICTS,
    finish_of_cancellation,
    finish_of_error,
    finish_of_error_in_cancelled_run,
    outcome_of,
    reason_of,
)
from workerctx.service.describe import describe
from workerctx.service.layers.catch import as_failure, crash_of, holds

if TYPE_CHECKING:
    from workerctx import JobCtx
    from workerctx.queue import Finish, JobError


def outcome_of_run(ctx: JobCtx, output: object, error: BaseException | None) -> tuple[JobOutcome, JobError | None]:
    """Return the outcome of a run that ended with this, and what the job failed with, if that is what it did."""
    finish = _finish(ctx, output, error)
    outcome = outcome_of(ctx.job, finish, ctx.cancel.reason)
    has_failed = outcome in {JobOutcome.FAILED, JobOutcome.DEAD}
    return outcome, finish.error if has_failed and isinstance(finish, FailLease) else None


def _finish(ctx: JobCtx, output: object, error: BaseException | None) -> Finish | None:
    """Return what the store will be told; which lease it is about does not matter here."""
    if error is None:
        return finish_of_error("", output) if isinstance(output, VERDICTS) else CompleteLease("")
    cancelled = is_cancelled_here()
    if isinstance(error, Exception):
        failure = as_failure(error) or error
        if cancelled or (isinstance(failure, RunCancelled) and ctx.cancel.is_set()):
            return finish_of_error_in_cancelled_run("", failure, reason_of(ctx), ctx.job.timeout)
        return finish_of_error("", failure)
    if holds(error, KeyboardInterrupt):
        return ReleaseLease("")
    if holds(error, anyio.get_cancelled_exc_class()):
        return (
            finish_of_cancellation("", reason_of(ctx), ctx.job.timeout) if cancelled else FailLease("", describe(error))
        )
    return FailLease("", describe(crash_of(error)))
