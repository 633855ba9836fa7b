"""Adding what comes from another store as it is, as far as it can be alive here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workerctx.queue import transitions
from workerctx.queue.cargo import Arrived, check_absent, key_held
from workerctx.queue.model import JobState
from workerctx.queue.sql.rows import Group, errors_text, json_text, optional_micros, options_text, to_micros
from workerctx.queue.sql.schedules import read_schedule, store_schedule
from workerctx.queue.sql.settling import End, changes, release_dependants

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from workerctx.queue.cargo import Batch
    from workerctx.queue.model import QueuedJob
    from workerctx.queue.sql.transaction import Transaction


def put_in(tx: Transaction, batch: Batch, definitions: Sequence[str]) -> Arrived:
    """Add the records of a batch unless they came before.

    Args:
        tx: The transaction.
        batch: The batch.
        definitions: The stored forms of its schedules.

    Raises:
        MoveRefused: One of its jobs is here.
    """
    tx.shut_out(["moving"])
    if tx.value(tx.sql.was_received, tx.ns, batch.id) is not None:
        return Arrived(again=True)
    tx.run(tx.sql.receive, tx.ns, batch.id)
    arrival = _Arrival(tx, batch.jobs)
    cancelled = arrival.write()
    for schedule, definition in zip(batch.schedules, definitions, strict=True):
        row = tx.row(tx.sql.hold_schedule, tx.ns, schedule.name)
        if row is None:
            store_schedule(tx, schedule, definition)
        else:
            joined = read_schedule(row).joined(schedule)
            store_schedule(tx, joined, row[2])
    return Arrived(jobs=len(batch.jobs), schedules=len(batch.schedules), cancelled=cancelled)


class _Arrival:
    """Jobs of another store on their way into the table, with what must be known of those that are there."""

    def __init__(self, tx: Transaction, jobs: Sequence[QueuedJob]) -> None:
        self._tx = tx
        self._jobs = sorted(jobs, key=lambda job: job.id)
        self._states = {job.id: job.state for job in jobs}
        workflows = {job.workflow_id for job in jobs if job.workflow_id is not None}
        # Nobody cancels the workflows meanwhile.
        tx.shut_out([f"workflow {workflow}" for workflow in workflows], shared=True)
        self._stopped = set(self._look_up(tx.sql.cancelled_workflows, workflows))
        named = self._states.keys() | {parent for job in jobs for parent in job.depends_on}
        self._seqs: dict[str, int] = {}
        for job_id, seq, state in self._look_up(tx.sql.known_jobs, named):
            self._seqs[job_id] = seq
            self._states.setdefault(job_id, JobState(state))
        check_absent(self._seqs.keys() & {job.id for job in jobs})
        self._seqs.update(zip((job.id for job in self._jobs), tx.fresh_numbers(), strict=False))
        keys = {job.unique_key for job in jobs if job.unique_key is not None and not job.state.is_final}
        self._holders: dict[str, str] = dict(self._look_up(tx.sql.holders, keys))

    def write(self) -> dict[str, str]:
        """Add the jobs and return those that had to be cancelled, with the reason."""
        tx = self._tx
        arrived: list[QueuedJob] = []
        rows: list[tuple[object, ...]] = []
        edges: list[tuple[int, int, int]] = []
        reasons: dict[str, str] = {}
        for job in self._jobs:
            reason = None if job.state.is_final else self._reason(job)
            if reason is not None:
                reasons[job.id] = reason
            ties = list(self._edges(job))
            waiting = sum(not done for _, _, done in ties)
            after = transitions.arrive(job, tx.seconds, waiting=waiting > 0, reason=reason)
            arrived.append(after)
            rows.append(self._row(after, waiting))
            edges += ties
        if rows:
            tx.insert(rows)
        tx.run_rows(tx.sql.add_dependencies, edges)
        tx.run_rows(tx.sql.write_back, [(self._seqs[job.id], *changes(job)) for job in arrived if _has_run(job)])
        progress = [(self._seqs[job.id], json_text(job.progress)) for job in arrived if job.progress is not None]
        tx.run_rows(tx.sql.put_progress, progress)
        self._tell(arrived, reasons)
        refused = {self._seqs[job.id]: End.of(job) for job in arrived if job.id in reasons}
        reasons.update((job.id, transitions.reason_of(job)) for job in release_dependants(tx, refused))
        return reasons

    def _look_up(self, statement: str, names: Iterable[str]) -> list[Any]:
        wanted = [(name,) for name in names]
        return self._tx.array(statement, json_text(wanted), self._tx.ns) if wanted else []

    def _reason(self, job: QueuedJob) -> str | None:
        if job.workflow_id is not None and job.workflow_id in self._stopped:
            return transitions.workflow_cancelled(job.workflow_id)
        holder = None if job.unique_key is None else self._holders.get(job.unique_key)
        return None if job.unique_key is None or holder is None else key_held(job.unique_key, holder)

    def _edges(self, job: QueuedJob) -> Iterator[tuple[int, int, int]]:
        for parent in dict.fromkeys(job.depends_on):
            if parent in self._seqs:
                done = job.state.is_final or self._states[parent].is_final
                yield self._seqs[parent], self._seqs[job.id], int(done)

    def _row(self, job: QueuedJob, waiting: int) -> tuple[object, ...]:
        tx = self._tx
        group = Group(job.queue, job.kind, frozenset(job.required_labels))
        return (
            self._seqs[job.id],
            tx.ns,
            job.id,
            tx.groups.number(tx, group),
            job.state.value,
            job.priority,
            to_micros(job.run_at),
            to_micros(job.created_at),
            job.max_attempts,
            waiting,
            optional_micros(job.expires_at),
            job.unique_key,
            job.workflow_id,
            job.tenant_id,
            optional_micros(job.finished_at),
            options_text(job),
            errors_text(job),
            job.payload_json.decode(),
        )

    def _tell(self, arrived: Sequence[QueuedJob], reasons: Collection[str]) -> None:
        tx = self._tx
        for job in arrived:
            if job.state.is_final:
                tx.finished = True
            elif job.state is not JobState.BLOCKED:
                tx.ready.add(job.queue)
            if not tx.listening:
                continue
            if job.id in reasons:
                tx.events.append(transitions.ending(job, tx.seconds))
            elif job.state in (JobState.QUEUED, JobState.SCHEDULED):
                tx.events.append(transitions.ready(job, tx.seconds))


def _has_run(job: QueuedJob) -> bool:
    return bool(job.deliveries or job.attempt or job.state.is_final or job.claimed_at is not None)
