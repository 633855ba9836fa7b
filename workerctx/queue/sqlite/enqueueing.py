"""Adding jobs: one INSERT for many, with unique keys, dependencies and cancelled workflows looked up before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from workerctx.errors import InvalidRequest
from workerctx.queue.events import Cancelled, JobEvent, Ready
from workerctx.queue.ids import new_id
from workerctx.queue.model import EnqueueOutcome, FailedAttempt, JobError, JobState
from workerctx.queue.sql import json_text, optional_micros, options_text, to_micros
from workerctx.queue.sqlite.engine import Merging
from workerctx.queue.transitions import workflow_cancelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.request import EnqueueRequest
    from workerctx.queue.sqlite.transaction import Transaction

INSERT: Final = (
    "INSERT INTO workerctx_jobs (seq, ns, id, grp, state, priority, run_at, created_at, max_attempts, waiting, "
    "expires_at, unique_key, workflow_id, tenant_id, finished_at, options, errors, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
NEWEST: Final = "SELECT max(seq) FROM workerctx_jobs"
BY_ID: Final = "SELECT seq, state FROM workerctx_jobs WHERE ns = ? AND id = ?"
BY_KEY: Final = (
    "SELECT id FROM workerctx_jobs WHERE ns = ? AND unique_key = ? AND unique_key IS NOT NULL AND finished_at IS NULL"
)
CANCELLED_WORKFLOW: Final = "SELECT 1 FROM workerctx_cancelled_workflows WHERE ns = ? AND workflow_id = ?"
ADD_DEPENDENCY: Final = "INSERT INTO workerctx_dependencies (parent, child, done) VALUES (?, ?, ?)"

_FAILED: Final = (JobState.DEAD, JobState.CANCELLED)


class Enqueue(Merging["EnqueueRequest", EnqueueOutcome]):
    """Add one job; many of them share the statements."""

    rank = 1

    @classmethod
    def together(cls, tx: Transaction, arguments: Sequence[EnqueueRequest]) -> Sequence[EnqueueOutcome | QueueError]:
        """Add each job, or say why not."""
        batch = _Batch(tx)
        outcomes: list[EnqueueOutcome | QueueError] = []
        for request in arguments:
            try:
                outcomes.append(batch.add(request))
            except InvalidRequest as exc:
                outcomes.append(exc)
        batch.write()
        return outcomes


def enqueue_all(tx: Transaction, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
    """Add all the jobs or none.

    Raises:
        InvalidRequest: A parent does not exist, or an id is taken.
    """
    batch = _Batch(tx)
    outcomes = [batch.add(request) for request in requests]
    batch.write()
    return outcomes


@attrs.define(eq=False)
class _Batch:
    """Rows that are on their way into the table, with what later requests must know of them."""

    _tx: Transaction
    _seq: int = attrs.field(init=False)
    _rows: list[tuple[object, ...]] = attrs.field(factory=list[tuple[object, ...]], init=False)
    _dependencies: list[tuple[int, int, int]] = attrs.field(factory=list[tuple[int, int, int]], init=False)
    _added: dict[str, tuple[int, JobState]] = attrs.field(factory=dict[str, tuple[int, JobState]], init=False)
    _aliases: dict[str, str] = attrs.field(factory=dict[str, str], init=False)
    _keys: dict[str, str] = attrs.field(factory=dict[str, str], init=False)
    _workflows: dict[str, bool] = attrs.field(factory=dict[str, bool], init=False)
    _groups: dict[tuple[str, str, tuple[str, ...]], int] = attrs.field(
        factory=dict[tuple[str, str, tuple[str, ...]], int], init=False
    )

    def __attrs_post_init__(self) -> None:
        self._seq = self._tx.value(NEWEST) or 0

    def add(self, request: EnqueueRequest) -> EnqueueOutcome:
        """Prepare a row, unless an active job has its unique key."""
        if request.unique_key is not None:
            holder = self._holder(request.unique_key)
            if holder is not None:
                if request.job_id is not None:
                    self._aliases[request.job_id] = holder
                return EnqueueOutcome(holder, deduped=True)
        job_id = new_id() if request.job_id is None else self._unused(request.job_id)
        seq = self._seq + 1
        waiting, reason = self._look_at_parents(request, seq) if request.depends_on else (0, None)
        if request.workflow_id is not None and self._is_cancelled(request.workflow_id):
            reason = workflow_cancelled(request.workflow_id)
        state = self._append(request, seq, job_id, waiting, reason)
        self._seq = seq
        # Only a request with an id of its own, or one of the same key, can be named by a later one.
        if request.job_id is not None:
            self._added[job_id] = (seq, state)
        if request.unique_key is not None and reason is None:
            self._keys[request.unique_key] = job_id
        self._tell(request, job_id, reason)
        return EnqueueOutcome(job_id)

    def _append(self, request: EnqueueRequest, seq: int, job_id: str, waiting: int, reason: str | None) -> JobState:
        tx = self._tx
        run_at = tx.now if request.run_at is None else to_micros(request.run_at)
        if request.delay:
            run_at += to_micros(request.delay)
        if reason is not None:
            state = JobState.CANCELLED
        elif waiting:
            state = JobState.BLOCKED
        else:
            state = JobState.SCHEDULED if run_at > tx.now else JobState.QUEUED
        self._rows.append(
            (
                seq,
                tx.ns,
                job_id,
                self._group(request),
                state.value,
                request.priority,
                run_at,
                tx.now,
                request.max_attempts,
                waiting,
                optional_micros(request.expires_at),
                request.unique_key,
                request.workflow_id,
                request.tenant_id,
                None if reason is None else tx.now,
                options_text(request),
                None if reason is None else _reason_text(reason, tx.seconds),
                request.payload_json.decode(),
            )
        )
        return state

    def _group(self, request: EnqueueRequest) -> int:
        key = (request.queue, request.kind, request.required_labels)
        number = self._groups.get(key)
        if number is None:
            number = self._groups[key] = self._tx.groups.number(self._tx.cursor, *key)
        return number

    def _unused(self, job_id: str) -> str:
        if job_id in self._added or self._tx.row(BY_ID, self._tx.ns, job_id) is not None:
            raise InvalidRequest(f"the job id {job_id!r} is taken: leave job_id out, or make one with new_id()")
        return job_id

    def write(self) -> None:
        """Insert the rows."""
        if self._rows:
            self._tx.run_many(INSERT, self._rows)
        if self._dependencies:
            self._tx.run_many(ADD_DEPENDENCY, self._dependencies)

    def _holder(self, unique_key: str) -> str | None:
        holder = self._keys.get(unique_key)
        return holder if holder is not None else self._tx.value(BY_KEY, self._tx.ns, unique_key)

    def _is_cancelled(self, workflow_id: str) -> bool:
        known = self._workflows.get(workflow_id)
        if known is None:
            known = self._tx.row(CANCELLED_WORKFLOW, self._tx.ns, workflow_id) is not None
            self._workflows[workflow_id] = known
        return known

    def _look_at_parents(self, request: EnqueueRequest, child: int) -> tuple[int, str | None]:
        """Return how many parents are unfinished, and why the job is cancelled at once, if it is."""
        waiting = 0
        reason: str | None = None
        for parent_id in dict.fromkeys(self._aliases.get(name, name) for name in request.depends_on):
            found = self._added.get(parent_id) or self._tx.row(BY_ID, self._tx.ns, parent_id)
            if found is None:
                raise InvalidRequest(
                    f"no job {parent_id!r} to depend on: enqueue parents first, or earlier in the same batch"
                )
            parent, state = found[0], JobState(found[1])
            self._dependencies.append((parent, child, int(state.is_final)))
            if not state.is_final:
                waiting += 1
            elif state in _FAILED and request.on_parent_failure == "cancel":
                reason = f"job {parent_id!r}, which it depends on, is {state}"
        return waiting, reason

    def _tell(self, request: EnqueueRequest, job_id: str, reason: str | None) -> None:
        tx = self._tx
        if reason is None:
            tx.ready.add(request.queue)
        else:
            tx.finished = True
        if not tx.listening:
            return
        event: JobEvent
        if reason is not None:
            event = Cancelled(
                job_id=job_id,
                kind=request.kind,
                queue=request.queue,
                workflow_id=request.workflow_id,
                at=tx.seconds,
                reason=reason,
            )
        elif request.depends_on:
            return
        else:
            event = Ready(
                job_id=job_id,
                kind=request.kind,
                queue=request.queue,
                workflow_id=request.workflow_id,
                at=tx.seconds,
            )
        tx.events.append(event)


def _reason_text(reason: str, at: float) -> str:
    return json_text([FailedAttempt(0, at, JobError("cancelled", reason))])
