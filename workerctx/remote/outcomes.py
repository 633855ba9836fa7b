"""What a worker tells its store of a run, as frames and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from workerctx.errors import ProtocolError
from workerctx.queue import (
    CompleteLease,
    FailLease,
    JobError,
    JobState,
    ReleaseLease,
    SnoozeLease,
    ThrottleLease,
    decode_json,
)
from workerctx.queue.codec import check_depth
from workerctx.remote.faults import UNREADABLE
from workerctx.remote.frames import Failure, Result
from workerctx.remote.records import ErrorRecord

if TYPE_CHECKING:
    from workerctx.queue import Finish, QueuedJob


def outcome_frame(finish: Finish, job_id: str = "") -> Result | Failure:
    """Say what a worker tells its store of a run, and of which job if that is known."""
    match finish:
        case CompleteLease(lease_id, outputs):
            return Result(lease_id, outputs, job_id)
        case FailLease(lease_id, error, retryable, delay):
            return Failure(lease_id, "fail" if retryable else "abort", ErrorRecord.of(error), delay, job_id=job_id)
        case ReleaseLease(lease_id):
            return Failure(lease_id, "release", job_id=job_id)
        case SnoozeLease(lease_id, delay):
            return Failure(lease_id, "snooze", delay=delay, job_id=job_id)
        case ThrottleLease(lease_id, retry_after, scope):
            return Failure(lease_id, "throttle", delay=retry_after, scope=scope, job_id=job_id)


def as_tellable(finish: Finish) -> Finish:
    """Return an outcome as one that can be told: there is no limit whose name is no Unicode, so that run has failed."""
    if isinstance(finish, ThrottleLease) and finish.scope is not None:
        name = finish.scope.encode(errors="backslashreplace").decode()
        if name != finish.scope:
            return FailLease(finish.lease_id, JobError("InvalidOutcome", f"no rate limit is called {name!r}"))
    return finish


def finish_of(frame: Result | Failure) -> Finish:
    """Return what the store is to be told.

    Raises:
        ProtocolError: What should be JSON is not; answer with `ResultAck.refused`.
    """
    try:
        return _finish_of(frame)
    except UNREADABLE as exc:
        raise ProtocolError(f"what became of lease {frame.lease_id!r} cannot be understood: {exc}") from exc


def is_recorded(job: QueuedJob, finish: Finish) -> bool:
    """Tell whether a job shows an outcome whose lease is gone: then it was stored before, and nothing is lost."""
    match finish:
        case CompleteLease():
            return job.state is JobState.SUCCEEDED and job.result == decode_json(finish.outputs_json)
        case FailLease():
            return any(failed.error == finish.error for failed in job.error_history)
        case _:
            return False


def _finish_of(frame: Result | Failure) -> Finish:
    if isinstance(frame, Result):
        msgspec.json.decode(frame.outputs)
        check_depth(frame.outputs, "result")
        return CompleteLease(frame.lease_id, frame.outputs)
    match frame.outcome:
        case "release":
            return ReleaseLease(frame.lease_id)
        case "snooze":
            return SnoozeLease(frame.lease_id, frame.delay or 0.0)
        case "throttle":
            return ThrottleLease(frame.lease_id, frame.delay or 0.0, frame.scope)
        case _:
            error = (frame.error or ErrorRecord("Error", "the worker did not say what went wrong")).error()
            return FailLease(frame.lease_id, error, frame.outcome == "fail", frame.delay)
