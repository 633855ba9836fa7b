"""Adding jobs: one INSERT for many, with unique keys, parents and cancelled workflows looked up before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workerctx.errors import InvalidRequest
from workerctx.queue.events import Cancelled, JobEvent, Ready
from workerctx.queue.ids import new_id
from workerctx.queue.model import EnqueueOutcome, FailedAttempt, JobError, JobState
from workerctx.queue.sql.merging import Merging
from workerctx.queue.sql.rows import Group, json_text, optional_micros, options_text, to_micros
from workerctx.queue.transitions import workflow_cancelled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.request import EnqueueRequest
    from workerctx.queue.sql.transaction import Transaction

_FAILED: Final = (JobState.DEAD, JobState.CANCELLED)


class Enqueue(Merging["EnqueueRequest", EnqueueOutcome]):
    """Add one job; many of them share the statements."""

    rank = 1

    @classmethod
    def together(cls, tx: Transaction, arguments: Sequence[EnqueueRequest]) -> Sequence[EnqueueOutcome | QueueError]:
        """Add each job, or say why not."""
        batch = _Batch(tx, arguments)
        outcomes: list[EnqueueOutcome | QueueError] = []
        for request in arguments:
            try:
                outcomes.append(batch.add(request))
            except InvalidRequest as exc:
                outcomes.append(exc)
            batch.aliases.clear()  # the requests know nothing of each other
        batch.write()
        return outcomes


def enqueue_all(tx: Transaction, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
    """Add all the jobs or none.

    Raises:
        InvalidRequest: A parent does not exist, or an id is taken.
    """
    batch = _Batch(tx, requests)
    outcomes = [batch.add(request) for request in requests]
    batch.write()
    return outcomes


class _Batch:
    """Rows that are on their way into the table, with what must be known of those that are there.

    Attributes:
        aliases: Ids of requests that were not added, and the jobs that later ones in the same batch mean by them.
    """

    def __init__(self, tx: Transaction, requests: Sequence[EnqueueRequest]) -> None:
        self._tx = tx
        self._numbers = tx.fresh_numbers()
        self._rows: list[tuple[object, ...]] = []
        self._dependencies: list[tuple[int, int, int]] = []
        self.aliases: dict[str, str] = {}
        self._groups: dict[tuple[str, str, tuple[str, ...]], int] = {}
        workflows = {request.workflow_id for request in requests if request.workflow_id is not None}
        # Nobody cancels the workflows meanwhile.
        tx.shut_out([f"workflow {workflow}" for workflow in workflows], shared=True)
        self._cancelled = frozenset[str](self._look_up(tx.sql.cancelled_workflows, workflows))
        named = {request.job_id for request in requests if request.job_id is not None}
        named.update(parent for request in requests if request.depends_on for parent in request.depends_on)
        self._known = {job_id: (seq, JobState(state)) for job_id, seq, state in self._look_up(tx.sql.known_jobs, named)}
        keys = {request.unique_key for request in requests if request.unique_key is not None}
        self._holders: dict[str, str] = dict(self._look_up(tx.sql.holders, keys))

    def add(self, request: EnqueueRequest) -> EnqueueOutcome:
        """Prepare a row, unless an active job has its unique key."""
        if request.job_id in self._known or request.job_id in self.aliases:
            raise InvalidRequest(f"the job id {request.job_id!r} is taken: leave job_id out, or make one with new_id()")
        if request.unique_key is not None:
            holder = self._holders.get(request.unique_key)
            if holder is not None:
                if request.job_id is not None:
                    self.aliases[request.job_id] = holder
                return EnqueueOutcome(holder, deduped=True)
        if self.aliases and request.depends_on:
            request = request.with_options(depends_on=[self.aliases.get(name, name) for name in request.depends_on])
        job_id = new_id() if request.job_id is None else request.job_id
        seq = next(self._numbers)
        waiting, reason = self._look_at_parents(request, seq) if request.depends_on else (0, None)
        if request.workflow_id in self._cancelled:
            assert request.workflow_id is not None
            reason = workflow_cancelled(request.workflow_id)
        state = self._append(request, seq, job_id, waiting, reason)
        # Only a request with an id of its own, or one of the same key, can be named by a later one.
        if request.job_id is not None or request.unique_key is not None:
            self._known[job_id] = (seq, state)
        if request.unique_key is not None and reason is None:
            self._holders[request.unique_key] = job_id
        self._tell(request, job_id, reason)
        return EnqueueOutcome(job_id)

    def write(self) -> None:
        """Insert the rows."""
        if self._rows:
            self._tx.insert(self._rows)
        if self._dependencies:
            self._tx.run_rows(self._tx.sql.add_dependencies, self._dependencies)

    def _look_up(self, statement: str, names: Iterable[str]) -> list[Any]:
        wanted = [(name,) for name in names]
        return self._tx.array(statement, json_text(wanted), self._tx.ns) if wanted else []

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
            group = Group(request.queue, request.kind, frozenset(request.required_labels))
            number = self._groups[key] = self._tx.groups.number(self._tx, group)
        return number

    def _look_at_parents(self, request: EnqueueRequest, child: int) -> tuple[int, str | None]:
        """Return how many parents are unfinished, and why the job is cancelled at once, if it is."""
        waiting = 0
        reason: str | None = None
        edges: list[tuple[int, int, int]] = []
        for parent_id in request.depends_on:
            found = self._known.get(parent_id) or self._look_at(parent_id)
            if found is None:
                raise InvalidRequest(
                    f"no job {parent_id!r} to depend on: enqueue parents first, or earlier in the same batch"
                )
            parent, state = found
            edges.append((parent, child, int(state.is_final)))
            if not state.is_final:
                waiting += 1
            elif state in _FAILED and request.on_parent_failure == "cancel":
                reason = f"job {parent_id!r}, which it depends on, is {state}"
        self._dependencies += edges
        return waiting, reason

    def _look_at(self, job_id: str) -> tuple[int, JobState] | None:
        """Return a job that nobody named: it holds the unique key of one that was named."""
        if job_id not in self.aliases.values():
            return None
        found = [(seq, JobState(state)) for _, seq, state in self._look_up(self._tx.sql.known_jobs, [job_id])]
        return found[0] if found else None

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
