"""A job as it is stored, and how it becomes a `QueuedJob`; an event as the script tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from workerctx.queue.codec import decode_json
from workerctx.queue.events import (
    Cancelled,
    Completed,
    Failed,
    JobEvent,
    LeaseExpired,
    Ready,
    Snoozed,
    Started,
)
from workerctx.queue.model import CancelReason, FailedAttempt, JobError, JobState, Lease, QueuedJob
from workerctx.queue.sql.rows import MICROSECONDS, Options, from_micros, optional_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Record(msgspec.Struct, array_like=True, gc=False):
    """A job's record, in the order in which the script stores it; ``waiting`` jobs are queued once they are due."""

    state: str
    group: int
    priority: int
    run_at: int
    created_at: int
    attempt: int
    max_attempts: int
    deliveries: int
    lease: str | None = None
    worker_id: str | None = None
    began: int | None = None
    claimed_at: int | None = None
    finished_at: int | None = None
    cancel: CancelReason | None = None
    parents: int | None = None
    expires_at: int | None = None
    unique_key: str | None = None
    workflow_id: str | None = None
    tenant_id: str | None = None


_decode_record = msgspec.json.Decoder(Record).decode
_decode_options = msgspec.json.Decoder(Options).decode
_decode_errors = msgspec.json.Decoder(tuple[FailedAttempt, ...]).decode
_decode_error = msgspec.json.Decoder(JobError).decode
_decode_group = msgspec.json.Decoder(tuple[str, str, tuple[str, ...]]).decode
_NO_OPTIONS: Final = Options()


@attrs.frozen
class Group:
    """What the jobs of one line have in common.

    Attributes:
        queue: Where they wait.
        kind: What they are.
        labels: What their worker must offer, in order.
    """

    queue: str
    kind: str
    labels: tuple[str, ...]


@attrs.define(eq=False)
class Groups:
    """The groups that answers named so far; a server that has lost data may give a number to another one."""

    _by_number: dict[int, Group] = attrs.field(factory=dict[int, Group], init=False)
    _texts: dict[int, str] = attrs.field(factory=dict[int, str], init=False)

    def learn(self, names: Sequence[tuple[int, str]]) -> None:
        """Remember groups by number, as the answer has just named them."""
        for number, text in names:
            if self._texts.get(number) != text:
                self._by_number[number], self._texts[number] = Group(*_decode_group(text)), text

    def __getitem__(self, number: int) -> Group:
        return self._by_number[number]


def lease_id(job_id: str, token: str) -> str:
    """Return the id of a lease: the job that it holds and the claim that granted it."""
    return f"{job_id}.{token}"


def split_lease(lease: str) -> tuple[str, str]:
    """Return the job and the claim of a lease's id; empty ones if no store made it."""
    job_id, _, token = lease.rpartition(".") if lease.isprintable() else ("", "", "")
    return job_id, token


def to_job(row: Sequence[Any], groups: Groups, now: int, *, unbegun: bool = False) -> QueuedJob:
    """Return a job.

    Args:
        row: As the script shows it.
        groups: The groups.
        now: Store time, in microseconds.
        unbegun: Whether it was just claimed for a run that begins later; the number of that run is told already.
    """
    job_id, text, *stored = row
    return _build(job_id, _decode_record(text), stored, groups, now, unbegun=unbegun)


def to_claimed(row: Sequence[Any], groups: Groups, now: int, ttl: float, *, began: bool) -> tuple[QueuedJob, Lease]:
    """Return a job that was just claimed, and its lease."""
    job_id, text, *stored = row
    record = _decode_record(text)
    job = _build(job_id, record, stored, groups, now, unbegun=not began)
    assert job.lease_id is not None
    granted = now / MICROSECONDS
    expires = (now + round(ttl * MICROSECONDS)) / MICROSECONDS
    return job, Lease(job.lease_id, job.id, record.worker_id or "", granted, ttl, expires)


def from_outbox(entry: Sequence[Any], now: int) -> QueuedJob:
    """Return a job that has left its place: its id, record and group, then what else is stored of it."""
    job_id, text, group, payload, options, errors, progress, result = entry
    record = _decode_record(text)
    stored = (payload, options, errors, progress, (), result)
    return _build(job_id, record, stored, {record.group: Group(*_decode_group(group))}, now, unbegun=False)


def _build(
    job_id: str,
    record: Record,
    stored: Sequence[Any],
    groups: Groups | Mapping[int, Group],
    now: int,
    *,
    unbegun: bool,
) -> QueuedJob:
    payload, stored_options, errors, progress, upstream, *results = stored
    group = groups[record.group]
    options = _decode_options(stored_options) if stored_options else _NO_OPTIONS
    if record.state == "waiting":
        state = JobState.SCHEDULED if record.run_at > now else JobState.QUEUED
    else:
        state = JobState(record.state)
    succeeded = state is JobState.SUCCEEDED
    return QueuedJob(
        id=job_id,
        kind=group.kind,
        queue=group.queue,
        payload_json=payload.encode(),
        state=state,
        priority=record.priority,
        attempt=record.attempt + unbegun,
        max_attempts=record.max_attempts,
        deliveries=record.deliveries,
        retry=options.retry,
        timeout=options.timeout,
        run_at=record.run_at / MICROSECONDS,
        expires_at=optional_seconds(record.expires_at),
        unique_key=record.unique_key,
        workflow_id=record.workflow_id,
        depends_on=options.depends_on,
        on_parent_failure=options.on_parent_failure,
        upstream_outputs={parent: decode_json(output) for parent, output in upstream} if upstream else {},
        required_labels=group.labels,
        tenant_id=record.tenant_id,
        headers=dict(options.headers) if options.headers else {},
        progress=decode_json(progress) if progress else None,
        created_at=record.created_at / MICROSECONDS,
        claimed_at=optional_seconds(record.claimed_at),
        finished_at=optional_seconds(record.finished_at),
        worker_id=record.worker_id,
        lease_id=None if record.lease is None else lease_id(job_id, record.lease),
        cancel_requested=record.cancel,
        result_json=(results[0].encode() if results[0] else b"null") if succeeded else None,
        error_history=_decode_errors(f"[{errors.replace(chr(10), ',')}]") if errors else (),
    )


def to_event(row: Sequence[Any], groups: Groups, now: int) -> JobEvent:
    """Return an event: a word, the job's id, group and workflow, and what belongs to the word."""
    word, job_id, number, workflow_id, *details = row
    group = groups[number]
    about: dict[str, Any] = {
        "job_id": job_id,
        "kind": group.kind,
        "queue": group.queue,
        "workflow_id": workflow_id or None,
        "at": from_micros(now),
    }
    return _EVENTS[word](about, *details)


def _ready(about: Mapping[str, Any]) -> JobEvent:
    return Ready(**about)


def _started(about: Mapping[str, Any], worker_id: str, token: str, attempt: int) -> JobEvent:
    return Started(**about, worker_id=worker_id, lease_id=lease_id(about["job_id"], token), attempt=attempt)


def _completed(about: Mapping[str, Any], outputs: str) -> JobEvent:
    return Completed(**about, outputs=decode_json(outputs))


def _failed(about: Mapping[str, Any], error: str, attempt: int, retryable: bool, run_at: int | None = None) -> JobEvent:
    due = from_micros(run_at) if retryable and run_at is not None else None
    return Failed(**about, error=_decode_error(error), attempt=attempt, retryable=retryable, run_at=due)


def _cancelled(about: Mapping[str, Any], reason: str) -> JobEvent:
    return Cancelled(**about, reason=reason)


def _lease_expired(about: Mapping[str, Any], worker_id: str, token: str) -> JobEvent:
    return LeaseExpired(**about, worker_id=worker_id, lease_id=lease_id(about["job_id"], token))


def _snoozed(about: Mapping[str, Any], run_at: int) -> JobEvent:
    return Snoozed(**about, run_at=from_micros(run_at))


_EVENTS: Final[dict[str, Callable[..., JobEvent]]] = {
    "ready": _ready,
    "started": _started,
    "completed": _completed,
    "failed": _failed,
    "cancelled": _cancelled,
    "lease_expired": _lease_expired,
    "snoozed": _snoozed,
}
