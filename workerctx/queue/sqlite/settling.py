"""Ending runs: finishes of every kind, expired leases, and what they mean for the jobs that wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from workerctx.errors import InvalidRequest, LeaseLost, UnknownScope
from workerctx.queue import transitions
from workerctx.queue.finish import CompleteLease, FailLease, ThrottleLease
from workerctx.queue.model import FINAL_STATES, JobState
from workerctx.queue.sql import errors_text, json_text, optional_micros, row_options, split_lease, to_micros
from workerctx.queue.sqlite.engine import Merging
from workerctx.queue.sqlite.leases import begin_runs
from workerctx.queue.sqlite.limits import drain
from workerctx.queue.sqlite.transaction import chunks

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.events import JobEvent
    from workerctx.queue.finish import Finish
    from workerctx.queue.model import QueuedJob
    from workerctx.queue.sql import JobRow
    from workerctx.queue.sqlite.transaction import Transaction

COMPLETE: Final = (
    "UPDATE workerctx_jobs SET state = 'succeeded', result = json_extract(l.value, '$[2]'), finished_at = ?, "
    "attempt = attempt + 1 - began, began = 1, lease_expires = NULL, cancel = NULL FROM json_each(?) l "
    "WHERE workerctx_jobs.seq = json_extract(l.value, '$[0]') "
    "AND workerctx_jobs.claim_id = json_extract(l.value, '$[1]') "
    "AND workerctx_jobs.state = 'running' AND +workerctx_jobs.ns = ?"
)
HOLDING: Final = (
    "SELECT json_group_array(json_array(j.seq, j.claim_id)) FROM json_each(?) l CROSS JOIN workerctx_jobs j "
    "WHERE j.seq = json_extract(l.value, '$[0]') AND j.claim_id = json_extract(l.value, '$[1]') "
    "AND j.state = 'running' AND +j.ns = ?"
)
WRITE_BACK: Final = (
    "UPDATE workerctx_jobs SET state = ?, attempt = ?, deliveries = ?, run_at = ?, expires_at = ?, worker_id = ?, "
    "claimed_at = ?, finished_at = ?, result = ?, errors = ?, lease_expires = NULL, began = 0, cancel = NULL "
    "WHERE seq = ?"
)
EXPIRED_LEASES: Final = (
    "SELECT json_group_array(seq) FROM (SELECT seq FROM workerctx_jobs "
    "WHERE ns = ? AND state = 'running' AND lease_expires < ? ORDER BY lease_expires LIMIT ?)"
)
EXPIRED_JOBS: Final = (
    "SELECT json_group_array(seq) FROM (SELECT seq FROM workerctx_jobs WHERE ns = ? AND expires_at <= ? "
    "AND expires_at IS NOT NULL AND finished_at IS NULL AND state != 'running' ORDER BY expires_at LIMIT ?)"
)
ANY_OPEN: Final = "SELECT 1 FROM workerctx_dependencies INDEXED BY workerctx_dependencies_open WHERE done = 0 LIMIT 1"
OPEN_CHILDREN: Final = (
    "SELECT json_group_array(json_array(d.parent, d.child)) FROM json_each(?) p "
    "CROSS JOIN workerctx_dependencies d ON d.parent = p.value AND d.done = 0"
)
CLOSE: Final = (
    "UPDATE workerctx_dependencies SET done = 1 WHERE done = 0 AND parent IN (SELECT value FROM json_each(?))"
)
UNBLOCK: Final = "UPDATE workerctx_jobs SET state = ?, waiting = ? WHERE seq = ?"

REAPED_AT_ONCE: Final = 1000
"""How many expired leases, or expired jobs, one transaction deals with."""


class FinishOne(Merging["Finish", None]):
    """Finish one lease; many of them share the statements."""

    rank = 0

    @classmethod
    def together(cls, tx: Transaction, arguments: Sequence[Finish]) -> Sequence[QueueError | None]:
        """Finish each lease, or say why not."""
        return finish_all(tx, arguments, ())


def finish_all(tx: Transaction, finishes: Sequence[Finish], began: Collection[str]) -> list[QueueError | None]:
    """Finish leases, each guarded by its id and failing alone."""
    if began:
        begin_runs(tx, began)
    outcomes: list[QueueError | None] = [None] * len(finishes)
    completed: list[_Ending] = []
    others: list[_Ending] = []
    seen: set[str] = set()
    for index, finish in enumerate(finishes):
        try:
            transitions.check_finish(finish)
            claim_id, seq = split_lease(finish.lease_id)
        except (LeaseLost, InvalidRequest) as exc:
            outcomes[index] = exc
            continue
        if finish.lease_id in seen:
            outcomes[index] = LeaseLost(finish.lease_id, "it was finished earlier in the same batch")
            continue
        seen.add(finish.lease_id)
        ending = _Ending(index, finish, claim_id, seq)
        (completed if isinstance(finish, CompleteLease) else others).append(ending)
    if completed:
        _complete(tx, completed, outcomes)
    if others:
        _end_otherwise(tx, others, outcomes)
    return outcomes


class _Ending(NamedTuple):
    """A finish, its place in the batch, and its lease taken apart."""

    place: int
    finish: Finish
    claim_id: str
    seq: int


def _complete(tx: Transaction, completed: Sequence[_Ending], outcomes: list[QueueError | None]) -> None:
    done: list[int] = []
    for some in chunks(completed):
        leases = json_text(
            [
                (ending.seq, ending.claim_id, ending.finish.outputs_json.decode())
                for ending in some
                if isinstance(ending.finish, CompleteLease)
            ]
        )
        # Asked before the update: afterwards it could not be told which of the leases had held their jobs.
        holding = {(seq, claim_id) for seq, claim_id in tx.array(HOLDING, leases, tx.ns)}
        tx.run(COMPLETE, tx.now, leases, tx.ns)
        for ending in some:
            if (ending.seq, ending.claim_id) in holding:
                done.append(ending.seq)
            else:
                outcomes[ending.place] = LeaseLost(ending.finish.lease_id)
    if not done:
        return
    tx.finished = True
    if tx.listening:
        rows = tx.job_rows(done)
        tx.events.extend(transitions.ending(job, tx.seconds) for job in tx.jobs(rows.values()))
    release_dependants(tx, dict.fromkeys(done, _SUCCEEDED))


def _end_otherwise(tx: Transaction, others: Sequence[_Ending], outcomes: list[QueueError | None]) -> None:
    rows = tx.job_rows([ending.seq for ending in others])
    held: list[tuple[JobRow, Finish]] = []
    for place, finish, claim_id, seq in others:
        row = rows.get(seq)
        if row is None or row.state is not JobState.RUNNING or row.claim_id != claim_id:
            outcomes[place] = LeaseLost(finish.lease_id)
            continue
        if isinstance(finish, ThrottleLease) and finish.scope is not None:
            try:
                drain(tx, finish.scope, finish.retry_after)
            except UnknownScope as exc:
                outcomes[place] = exc
                continue
        held.append((row, finish))
    changed: list[tuple[int, QueuedJob]] = []
    for (row, finish), job in zip(held, tx.jobs([row for row, _ in held]), strict=True):
        after = transitions.finish(job, finish, began=bool(row.began), now=tx.seconds)
        changed.append((row.seq, after))
        if tx.listening:
            ended = after.state in FINAL_STATES or isinstance(finish, FailLease)
            tell = transitions.ending if ended else transitions.given_back
            tx.events.append(tell(after, tx.seconds))
    write_back(tx, changed)


def cancel_expired(tx: Transaction) -> list[tuple[int, QueuedJob]]:
    """Return jobs whose time to run by has passed, as cancelled, with their row numbers."""
    rows = tx.job_rows(tx.array(EXPIRED_JOBS, tx.ns, tx.now, REAPED_AT_ONCE))
    return [
        (row.seq, transitions.cancel(job, transitions.EXPIRED, tx.seconds))
        for row, job in zip(rows.values(), tx.jobs(rows.values()), strict=True)
    ]


def reap(tx: Transaction) -> list[JobEvent]:
    """Take jobs from expired leases, and cancel jobs whose time to run by has passed."""
    events: list[JobEvent] = []
    now = tx.seconds
    rows = tx.job_rows(tx.array(EXPIRED_LEASES, tx.ns, tx.now, REAPED_AT_ONCE))
    changed: list[tuple[int, QueuedJob]] = []
    for row, job in zip(rows.values(), tx.jobs(rows.values()), strict=True):
        after = transitions.expire_lease(job, began=bool(row.began), now=now)
        changed.append((row.seq, after))
        ended = after.state in FINAL_STATES or row.began
        tell = transitions.ending if ended else transitions.ready
        events += (transitions.lease_expired(job, now), tell(after, now))
    late = cancel_expired(tx)
    changed += late
    events.extend(transitions.ending(job, now) for _, job in late)
    told = len(tx.events)
    write_back(tx, changed, listening=True)
    cascade = tx.events[told:]
    tx.events[told:] = [*events, *cascade]
    return [*events, *cascade]


def write_back(tx: Transaction, changed: Sequence[tuple[int, QueuedJob]], *, listening: bool = False) -> None:
    """Store what became of jobs that leave their lease or end, and let those that wait for them know.

    Args:
        tx: The transaction.
        changed: Row numbers and the jobs as they are now; their own events are the caller's business.
        listening: Make the events of dependants even if nobody subscribed.
    """
    if not changed:
        return
    tx.run_many(WRITE_BACK, [(*_changes(job), seq) for seq, job in changed])
    final = {seq: End.of(job) for seq, job in changed if job.state in FINAL_STATES}
    tx.ready.update(job.queue for _, job in changed if job.state not in FINAL_STATES)
    if final:
        tx.finished = True
        release_dependants(tx, final, listening=listening)


@attrs.frozen
class End:
    """How a parent ended.

    Attributes:
        word: What is said of it: its state, or ``deleted``.
        job_id: Its id; not looked at if it succeeded.
    """

    word: str
    job_id: str = ""

    @classmethod
    def of(cls, job: QueuedJob) -> End:
        """Return how a final job ended."""
        return cls(job.state.value, job.id)


_SUCCEEDED: Final = End(JobState.SUCCEEDED.value)


def release_dependants(tx: Transaction, parents: Mapping[int, End], *, listening: bool = False) -> None:
    """Let children of finished jobs become ready, or cancel them, generation after generation."""
    while parents and tx.value(ANY_OPEN) is not None:
        numbers = json_text(list(parents))
        edges = tx.array(OPEN_CHILDREN, numbers)
        if not edges:
            return
        tx.run(CLOSE, numbers)
        done: dict[int, list[End]] = {}
        for parent, child in edges:
            done.setdefault(child, []).append(parents[parent])
        rows = tx.job_rows(list(done))
        cancelled: list[tuple[int, QueuedJob]] = []
        unblocked: list[tuple[str, int, int]] = []
        for row, job in zip(rows.values(), tx.jobs(rows.values()), strict=True):
            if row.state is not JobState.BLOCKED:
                continue
            failed = next((end for end in done[row.seq] if end.word != _SUCCEEDED.word), None)
            if failed is not None and row_options(row).on_parent_failure == "cancel":
                reason = f"job {failed.job_id!r}, which it depends on, is {failed.word}"
                cancelled.append((row.seq, transitions.cancel(job, reason, tx.seconds)))
                continue
            waiting = row.waiting - len(done[row.seq])
            state = JobState.BLOCKED
            if waiting <= 0:
                state = JobState.SCHEDULED if row.run_at > tx.now else JobState.QUEUED
                tx.ready.add(job.queue)
                if tx.listening or listening:
                    tx.events.append(transitions.ready(job, tx.seconds))
            unblocked.append((state.value, waiting, row.seq))
        tx.run_many(UNBLOCK, unblocked)
        tx.run_many(WRITE_BACK, [(*_changes(job), seq) for seq, job in cancelled])
        if tx.listening or listening:
            tx.events.extend(transitions.ending(job, tx.seconds) for _, job in cancelled)
        tx.finished = tx.finished or bool(cancelled)
        parents = {seq: End.of(job) for seq, job in cancelled}


def _changes(job: QueuedJob) -> tuple[object, ...]:
    return (
        job.state.value,
        job.attempt,
        job.deliveries,
        to_micros(job.run_at),
        optional_micros(job.expires_at),
        job.worker_id,
        optional_micros(job.claimed_at),
        optional_micros(job.finished_at),
        None if job.result_json is None else job.result_json.decode(),
        errors_text(job),
    )
