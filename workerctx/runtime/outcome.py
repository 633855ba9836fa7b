"""What a store is told of a run, depending on how the run ended."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.queue import CancelReason, FailLease, JobError, ReleaseLease, SnoozeLease, ThrottleLease

if TYPE_CHECKING:
    from workerctx.queue import Finish

_MAX_FRAMES: Final = 30
_MAX_TRACEBACK: Final = 8000
_MAX_MESSAGE: Final = 2000


def finish_of_error(lease_id: str, error: Exception) -> Finish:
    """Translate what a handler raised, or returned in place of an output."""
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


def describe(error: BaseException) -> JobError:
    """Turn an exception into what is stored of it: class, message, and a traceback cut to a sensible length."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-_MAX_FRAMES))
    if len(text) > _MAX_TRACEBACK:
        half = _MAX_TRACEBACK // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    message = str(error) or type(error).__name__
    return JobError(type(error).__qualname__, message[:_MAX_MESSAGE], text)
