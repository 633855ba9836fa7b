"""A job as people and programs see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from workerctx.cli.output import local_time
from workerctx.queue import JobState

if TYPE_CHECKING:
    from workerctx.queue import QueuedJob

COLUMNS: Final = ("ID", "KIND", "QUEUE", "STATE", "RUNS", "PRIO", "WHEN")

_RAW: Final = frozenset({"payload_json", "result_json"})


def document(job: QueuedJob) -> dict[str, Any]:
    """Return a job as a JSON object: its attributes, with payload and result decoded; times are numbers."""
    fields = {name: getattr(job, name) for name in job.__struct_fields__ if name not in _RAW}
    decoded = {"payload": job.payload, "result": job.result, "error": job.error}
    return {**fields, **{name: msgspec.to_builtins(value) for name, value in decoded.items()}}


def row(job: QueuedJob) -> tuple[str, ...]:
    """Return a job as a row of `COLUMNS`."""
    return (
        job.id,
        job.kind,
        job.queue,
        job.state.value,
        f"{job.attempt}/{job.max_attempts}",
        str(job.priority),
        _when(job),
    )


def _when(job: QueuedJob) -> str:
    match job.state:
        case JobState.RUNNING:
            return f"since {local_time(job.claimed_at)}"
        case JobState.SCHEDULED | JobState.QUEUED:
            return f"due {local_time(job.run_at)}"
        case JobState.BLOCKED:
            return "-"
        case _:
            return f"ended {local_time(job.finished_at)}"


def lines(job: QueuedJob) -> list[str]:
    """Return everything about a job that is not a default, one fact a line, its failures last."""
    facts: list[tuple[str, object]] = [
        ("id", job.id),
        ("kind", job.kind),
        ("queue", job.queue),
        ("state", job.state.value),
        ("runs", f"{job.attempt} of at most {job.max_attempts}"),
        ("claims", job.deliveries),
        ("priority", job.priority),
        ("payload", _json(job.payload)),
        ("created", local_time(job.created_at)),
        ("due", local_time(job.run_at)),
        ("expires", _optional_time(job.expires_at)),
        ("claimed", _optional_time(job.claimed_at)),
        ("ended", _optional_time(job.finished_at)),
        ("worker", job.worker_id),
        ("to stop", job.cancel_requested),
        ("timeout", None if job.timeout is None else f"{job.timeout:g} s"),
        ("retry", None if job.retry is None else _json(job.retry)),
        ("unique key", job.unique_key),
        ("tenant", job.tenant_id),
        ("workflow", job.workflow_id),
        ("depends on", ", ".join(job.depends_on) or None),
        ("labels", ", ".join(job.required_labels) or None),
        ("headers", _json(job.headers) if job.headers else None),
        ("progress", None if job.progress is None else _json(job.progress)),
        ("result", None if job.result_json is None else _json(job.result)),
    ]
    shown = [f"{name:<11} {value}" for name, value in facts if value is not None]
    for failure in job.error_history:
        shown.append(f"{local_time(failure.at)} run {failure.attempt}: {failure.error}")
        if failure.error.traceback is not None:
            shown.append(failure.error.traceback.rstrip())
    return shown


def _optional_time(moment: float | None) -> str | None:
    return None if moment is None else local_time(moment)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
