"""Jobs and requests as they travel: what a handler gave or returned stays the JSON that it is."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from workerctx.queue import (
    CancelReason,
    EnqueueRequest,
    FailedAttempt,
    JobError,
    JobState,
    Misfire,
    QueuedJob,
    Schedule,
    decode_json,
)
from workerctx.queue.model import OnParentFailure  # noqa: TC001
from workerctx.queue.retry import Backoff  # noqa: TC001

_NULL: Final = b"null"
_encode: Final = msgspec.json.Encoder().encode


class ErrorRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `JobError`."""

    kind: str
    message: str
    traceback: str | None = None
    details: bytes = _NULL

    @classmethod
    def of(cls, error: JobError) -> ErrorRecord:
        """Pack an error."""
        return cls(error.kind, error.message, error.traceback, _pack(error.details))

    def error(self) -> JobError:
        """Unpack it."""
        return JobError(self.kind, self.message, self.traceback, _unpack(self.details))


class AttemptRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `FailedAttempt`."""

    attempt: int
    at: float
    error: ErrorRecord


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A `QueuedJob`, with the same names; what may be any JSON value is the JSON itself."""

    id: str
    kind: str
    queue: str = "default"
    payload: bytes = _NULL
    state: JobState = JobState.RUNNING
    priority: int = 0
    attempt: int = 0
    max_attempts: int = 1
    deliveries: int = 0
    retry: Backoff | None = None
    timeout: float | None = None
    run_at: float = 0.0
    expires_at: float | None = None
    unique_key: str | None = None
    workflow_id: str | None = None
    depends_on: tuple[str, ...] = ()
    on_parent_failure: OnParentFailure = "cancel"
    upstream_outputs: bytes = b"{}"
    required_labels: tuple[str, ...] = ()
    tenant_id: str | None = None
    headers: dict[str, str] = {}
    progress: bytes = _NULL
    created_at: float = 0.0
    claimed_at: float | None = None
    finished_at: float | None = None
    worker_id: str | None = None
    lease_id: str | None = None
    cancel_requested: CancelReason | None = None
    result: bytes | None = None
    error_history: tuple[AttemptRecord, ...] = ()

    @classmethod
    def of(cls, job: QueuedJob) -> JobRecord:
        """Pack a job."""
        plain: dict[str, Any] = {name: getattr(job, name) for name in _PLAIN}
        if job.upstream_outputs:
            plain["upstream_outputs"] = _pack(job.upstream_outputs)
        if job.error_history:
            plain["error_history"] = tuple(
                AttemptRecord(each.attempt, each.at, ErrorRecord.of(each.error)) for each in job.error_history
            )
        return cls(payload=job.payload_json, result=job.result_json, progress=_pack(job.progress), **plain)

    def job(self) -> QueuedJob:
        """Unpack it.

        Raises:
            msgspec.MsgspecError: What should be JSON is not.
        """
        plain: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        if self.error_history:
            plain["error_history"] = tuple(
                FailedAttempt(each.attempt, each.at, each.error.error()) for each in self.error_history
            )
        return QueuedJob(
            payload_json=self.payload,
            result_json=self.result,
            progress=_unpack(self.progress),
            upstream_outputs=_unpack(self.upstream_outputs),
            **plain,
        )


_OPAQUE: Final = {"payload", "result", "progress", "upstream_outputs", "error_history"}
_PLAIN: Final = tuple(name for name in JobRecord.__struct_fields__ if name not in _OPAQUE)
"""What is the same in a record and in a job."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An `EnqueueRequest`, with the same names."""

    kind: str
    job_id: str | None = None
    payload: bytes = _NULL
    queue: str | None = None
    priority: int = 0
    delay: float = 0.0
    run_at: float | None = None
    expires_at: float | None = None
    timeout: float | None = None
    max_attempts: int = 5
    retry: Backoff | None = None
    unique_key: str | None = None
    workflow_id: str | None = None
    depends_on: tuple[str, ...] = ()
    on_parent_failure: OnParentFailure = "cancel"
    required_labels: tuple[str, ...] = ()
    tenant_id: str | None = None
    headers: dict[str, str] = {}

    @classmethod
    def of(cls, request: EnqueueRequest, job_id: str | None) -> RequestRecord:
        """Pack a request under an id, by which a second telling of it is recognised."""
        plain: dict[str, Any] = {name: getattr(request, name) for name in _ASKED}
        return cls(job_id=job_id, payload=request.payload_json, queue=request.pinned_queue, **plain)

    def request(self) -> EnqueueRequest:
        """Unpack it; everything is checked again.

        Raises:
            InvalidRequest: Something is out of range or cannot be stored.
            msgspec.MsgspecError: The payload is not JSON.
        """
        plain: dict[str, Any] = {name: getattr(self, name) for name in _ASKED}
        return EnqueueRequest(payload=_unpack(self.payload), queue=self.queue, job_id=self.job_id, **plain)


_ASKED: Final = tuple(name for name in RequestRecord.__struct_fields__ if name not in {"payload", "queue", "job_id"})


class ScheduleRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A `Schedule`, with the same names."""

    name: str
    request: RequestRecord
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    misfire: Misfire = Misfire.ONE
    enabled: bool = True
    next_fire_at: float | None = None
    last_fired_at: float | None = None

    @classmethod
    def of(cls, schedule: Schedule) -> ScheduleRecord:
        """Pack a schedule."""
        plain: dict[str, Any] = {name: getattr(schedule, name) for name in cls.__struct_fields__ if name != "request"}
        return cls(request=RequestRecord.of(schedule.request, None), **plain)

    def schedule(self) -> Schedule:
        """Unpack it; everything is checked again.

        Raises:
            InvalidRequest: It is not valid.
        """
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__ if name != "request"}
        return Schedule(request=self.request.request(), **plain)


def _pack(value: Any) -> bytes:
    return _NULL if value is None else _encode(value)


def _unpack(raw: bytes) -> Any:
    return None if raw == _NULL else decode_json(raw)
