"""What happened to jobs, told after it was committed."""

from __future__ import annotations

from typing import Any

import msgspec

from workerctx.queue.model import JobError  # noqa: TC001 - msgspec reads the annotations


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that a subscription yields.

    Attributes:
        job_id: The job it is about.
        kind: The handler's stable name.
        queue: Where the job is.
        workflow_id: The workflow it belongs to, if any.
        at: Store time, in seconds since the epoch.
    """

    job_id: str
    kind: str
    queue: str
    workflow_id: str | None = None
    at: float = 0.0


class Ready(JobEvent, frozen=True, kw_only=True):
    """A job was accepted, put back, or is no longer blocked: it waits only for its time and a worker."""


class Started(JobEvent, frozen=True, kw_only=True):
    """A worker claimed the job."""

    worker_id: str
    lease_id: str
    attempt: int


class Completed(JobEvent, frozen=True, kw_only=True):
    """The job succeeded."""

    outputs: Any = None


class Failed(JobEvent, frozen=True, kw_only=True):
    """A run failed.

    Attributes:
        error: What went wrong.
        attempt: Number of the run.
        retryable: Whether the job was really put back; False means that it is dead.
        run_at: When it is tried again, in store time.
    """

    error: JobError
    attempt: int
    retryable: bool
    run_at: float | None = None


class Cancelled(JobEvent, frozen=True, kw_only=True):
    """The job was cancelled and will not run any more."""

    reason: str


class LeaseExpired(JobEvent, frozen=True, kw_only=True):
    """A worker let its lease run out; what became of the job follows as Ready, Failed or Cancelled."""

    worker_id: str
    lease_id: str


class Snoozed(JobEvent, frozen=True, kw_only=True):
    """The job asked for a later time, or was given back, without using up an attempt."""

    run_at: float


class Lagged(msgspec.Struct, frozen=True):
    """The subscriber was too slow and lost the ``missed`` oldest events."""

    missed: int
