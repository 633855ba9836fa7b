"""What SQL stores share: a job's row, how it becomes a `QueuedJob`, and back.

Times are whole microseconds since the epoch in a table, so that they survive every trip exactly; seconds as float
outside. Many rows travel as one JSON text each way: one step of a statement instead of one for each row, and so one
release of the interpreter lock, which a busy event loop may be slow to hand back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import msgspec

from workerctx.errors import LeaseLost
from workerctx.queue.codec import decode_json
from workerctx.queue.model import CancelReason, FailedAttempt, JobState, Lease, OnParentFailure, QueuedJob
from workerctx.queue.retry import Backoff, as_backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workerctx.queue.request import EnqueueRequest

MICROSECONDS: Final = 1_000_000
_LARGEST_SEQ: Final = 2**63 - 1
"""Of a row's number; databases count in 64 bits."""
_DIGITS: Final = len(str(_LARGEST_SEQ))


def to_micros(seconds: float) -> int:
    """Return seconds as whole microseconds."""
    return round(seconds * MICROSECONDS)


def from_micros(micros: int) -> float:
    """Return microseconds as seconds."""
    return micros / MICROSECONDS


def optional_seconds(micros: int | None) -> float | None:
    """Return microseconds as seconds, or None."""
    return None if micros is None else micros / MICROSECONDS


def optional_micros(seconds: float | None) -> int | None:
    """Return seconds as microseconds, or None."""
    return None if seconds is None else round(seconds * MICROSECONDS)


@attrs.frozen
class Group:
    """What the jobs have in common that one index range holds: a claim walks only the groups that fit it.

    So a million jobs of a kind or label that a worker does not know cost it nothing.
    """

    queue: str
    kind: str
    labels: frozenset[str]


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of a job that most jobs leave at their defaults, stored as one JSON text or NULL."""

    retry: Backoff | None = None
    timeout: float | None = None
    depends_on: tuple[str, ...] = ()
    on_parent_failure: OnParentFailure = "cancel"
    headers: dict[str, str] = {}


class JobRow(msgspec.Struct, array_like=True, gc=False):
    """A row of the jobs table, its columns in the order of `COLUMNS`."""

    seq: int
    id: str
    grp: int
    state: JobState
    priority: int
    run_at: int
    created_at: int
    attempt: int
    max_attempts: int
    deliveries: int
    waiting: int
    expires_at: int | None
    unique_key: str | None
    workflow_id: str | None
    tenant_id: str | None
    claim_id: str | None
    worker_id: str | None
    lease_expires: int | None
    began: int
    claimed_at: int | None
    finished_at: int | None
    cancel: CancelReason | None
    options: str | None
    progress: str | None
    errors: str | None
    payload: str
    result: str | None

    @property
    def lease_id(self) -> str:
        """The id of its lease."""
        return lease_id(self.claim_id or "", self.seq)


COLUMNS: Final = JobRow.__struct_fields__

_NO_OPTIONS: Final = Options()
_decode_rows = msgspec.json.Decoder(list[JobRow]).decode
_decode_options = msgspec.json.Decoder(Options).decode
_decode_errors = msgspec.json.Decoder(tuple[FailedAttempt, ...]).decode
_encode = msgspec.json.Encoder().encode


def decode_rows(text: str) -> list[JobRow]:
    """Read rows from the JSON text that a statement made of them."""
    return _decode_rows(text)


def json_text(value: object) -> str:
    """Return a parameter list or stored value as JSON text."""
    return _encode(value).decode()


def options_text(request: EnqueueRequest | QueuedJob) -> str | None:
    """Return the stored form of a request's or job's rarer options, or None if all are the defaults."""
    if not (
        request.retry is not None
        or request.timeout is not None
        or request.depends_on
        or request.headers
        or request.on_parent_failure != "cancel"
    ):
        return None
    return json_text(
        Options(
            retry=as_backoff(request.retry),
            timeout=request.timeout,
            depends_on=request.depends_on,
            on_parent_failure=request.on_parent_failure,
            headers=request.headers,
        )
    )


def row_options(row: JobRow) -> Options:
    """Return a row's rarer options."""
    return _NO_OPTIONS if row.options is None else _decode_options(row.options)


def to_job(row: JobRow, group: Group, upstream: Mapping[str, str] | None = None) -> QueuedJob:
    """Return a row as the job that it stores.

    Args:
        row: The row.
        group: Its group.
        upstream: Encoded results of the jobs it depends on, by id.
    """
    options = row_options(row)
    running = row.state is JobState.RUNNING
    return QueuedJob(
        id=row.id,
        kind=group.kind,
        queue=group.queue,
        payload_json=row.payload.encode(),
        state=row.state,
        priority=row.priority,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        deliveries=row.deliveries,
        retry=options.retry,
        timeout=options.timeout,
        run_at=row.run_at / MICROSECONDS,
        expires_at=optional_seconds(row.expires_at),
        unique_key=row.unique_key,
        workflow_id=row.workflow_id,
        depends_on=options.depends_on,
        on_parent_failure=options.on_parent_failure,
        upstream_outputs={key: decode_json(raw) for key, raw in upstream.items()} if upstream else {},
        required_labels=tuple(sorted(group.labels)) if group.labels else (),
        tenant_id=row.tenant_id,
        headers=dict(options.headers) if options.headers else {},
        progress=None if row.progress is None else decode_json(row.progress),
        created_at=row.created_at / MICROSECONDS,
        claimed_at=optional_seconds(row.claimed_at),
        finished_at=optional_seconds(row.finished_at),
        worker_id=row.worker_id,
        lease_id=row.lease_id if running else None,
        cancel_requested=row.cancel if running else None,
        result_json=None if row.result is None else row.result.encode(),
        error_history=() if row.errors is None else _decode_errors(row.errors),
    )


def to_lease(row: JobRow, ttl: float) -> Lease:
    """Return the lease that a row was just claimed with."""
    assert row.claimed_at is not None
    assert row.lease_expires is not None
    assert row.worker_id is not None
    return Lease(
        row.lease_id,
        row.id,
        row.worker_id,
        row.claimed_at / MICROSECONDS,
        ttl,
        row.lease_expires / MICROSECONDS,
    )


def errors_text(job: QueuedJob) -> str | None:
    """Return the stored form of a job's error history."""
    return json_text(job.error_history) if job.error_history else None


def lease_id(claim_id: str, seq: int) -> str:
    """Return the id of a lease: the claim that granted it and the row it holds, so that no index must find it."""
    return f"{claim_id}.{seq}"


def split_lease(lease: str) -> tuple[str, int]:
    """Return the claim id and the row number in a lease's id.

    Raises:
        LeaseLost: No store made this id.
    """
    claim_id, dot, seq = lease.rpartition(".")
    number = int(seq) if dot and seq.isdecimal() and len(seq) <= _DIGITS else -1
    if not 0 <= number <= _LARGEST_SEQ or not claim_id.isprintable():
        raise LeaseLost(lease, "no such lease was ever granted")
    return claim_id, number


def lease_pairs(leases: Iterable[str]) -> str:
    """Return ``[[seq, claim id], ...]`` as JSON text, in order, leaving out ids that no store made."""
    pairs: list[tuple[int, str]] = []
    for lease in leases:
        try:
            claim_id, seq = split_lease(lease)
        except LeaseLost:
            continue
        pairs.append((seq, claim_id))
    return json_text(sorted(pairs))
