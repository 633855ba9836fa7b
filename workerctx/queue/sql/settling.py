"""Ending runs: finishes of every kind, expired leases, and what they mean for the jobs that wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from workerctx.errors import InvalidRequest, LeaseLost, UnknownScope
from workerctx.queue import transitions
from workerctx.queue.finish import CompleteLease, FailLease, ThrottleLease
from workerctx.queue.model import FINAL_STATES, JobState
from workerctx.queue.sql.leases import begin_runs
from workerctx.queue.sql.limits import drain
from workerctx.queue.sql.merging import Merging
from workerctx.queue.sql.rows import errors_text, optional_micros, row_options, split_lease, to_micros
from workerctx.queue.sql.transaction import json_texts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.events import JobEvent
    from workerctx.queue.finish import Finish
    from workerctx.queue.model import QueuedJob
    from workerctx.queue.sql.rows import JobRow
    from workerctx.queue.sql.transaction import Transaction


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


def _row_number(ending: _Ending) -> int:
    return ending.seq


def _complete(tx: Transaction, completed: Sequence[_Ending], outcomes: list[QueueError | None]) -> None:
    # Rows are always taken in this order, so that nobody waits for somebody who waits for him.
    leases = [
        (ending.seq, ending.claim_id, ending.finish.outputs_json.decode())
        for ending in sorted(completed, key=_row_number)
        if isinstance(ending.finish, CompleteLease)
    ]
    holding = set[tuple[int, str]]().union(*map(tx.complete, json_texts(leases)))
    for ending in completed:
        if (ending.seq, ending.claim_id) not in holding:
            outcomes[ending.place] = LeaseLost(ending.finish.lease_id)
    done = [seq for seq, claim_id, _ in leases if (seq, claim_id) in holding]
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
    rows = tx.job_rows(tx.array(tx.sql.expired_jobs, tx.ns, tx.now, REAPED_AT_ONCE))
    return [
        (row.seq, transitions.cancel(job, transitions.EXPIRED, tx.seconds))
        for row, job in zip(rows.values(), tx.jobs(rows.values()), strict=True)
    ]


def reap(tx: Transaction) -> list[JobEvent]:
    """Take jobs from expired leases, and cancel jobs whose time to run by has passed."""
    events: list[JobEvent] = []
    now = tx.seconds
    rows = tx.job_rows(tx.array(tx.sql.expired_leases, tx.ns, tx.now, REAPED_AT_ONCE))
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
    tx.run_rows(tx.sql.write_back, [(seq, *changes(job)) for seq, job in changed])
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


def release_dependants(tx: Transaction, parents: Mapping[int, End], *, listening: bool = False) -> Sequence[QueuedJob]:
    """Let children of finished jobs become ready, or cancel and return them, generation after generation."""
    gone: list[QueuedJob] = []
    while parents and tx.value(tx.sql.any_open) is not None:
        numbers = tx.numbers(parents)
        edges = tx.array(tx.sql.open_children, numbers)
        if not edges:
            break
        tx.run(tx.sql.close, numbers)
        done: dict[int, list[End]] = {}
        for parent, child in edges:
            done.setdefault(child, []).append(parents[parent])
        rows = tx.job_rows(list(done))
        cancelled: list[tuple[int, QueuedJob]] = []
        unblocked: list[tuple[int, str, int]] = []
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
            unblocked.append((row.seq, state.value, waiting))
        tx.run_rows(tx.sql.unblock, unblocked)
        tx.run_rows(tx.sql.write_back, [(seq, *changes(job)) for seq, job in cancelled])
        if tx.listening or listening:
            tx.events.extend(transitions.ending(job, tx.seconds) for _, job in cancelled)
        tx.finished = tx.finished or bool(cancelled)
        gone += (job for _, job in cancelled)
        parents = {seq: End.of(job) for seq, job in cancelled}
    return gone


def changes(job: QueuedJob) -> tuple[object, ...]:
    """Return what `Statements.write_back` wants to know of a job beside its row."""
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
