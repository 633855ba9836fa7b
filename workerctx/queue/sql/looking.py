"""Looking at jobs, on the connection that reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workerctx.queue.model import JobPage, JobState, QueueInfo
from workerctx.queue.sql.rows import MICROSECONDS, optional_seconds
from workerctx.queue.sql.steering import find

if TYPE_CHECKING:
    from collections.abc import Collection

    from workerctx.queue.model import QueuedJob
    from workerctx.queue.skeleton import JobFilter
    from workerctx.queue.sql.rows import JobRow
    from workerctx.queue.sql.transaction import Transaction

# One covering index for each state, so that counting a million jobs does not read them.


def get(tx: Transaction, job_id: str) -> QueuedJob:
    """Return a job as it is now.

    Raises:
        JobNotFound: There is none.
    """
    row = find(tx, job_id)
    _as_of_now(tx, row)
    return tx.jobs([row])[0]


def is_cancelled(tx: Transaction, job_id: str) -> bool:
    """Return whether a job is cancelled or should stop for a user.

    Raises:
        JobNotFound: There is none.
    """
    row = find(tx, job_id)
    return row.state is JobState.CANCELLED or (row.state is JobState.RUNNING and row.cancel == "user")


def _conditions(tx: Transaction, wanted: JobFilter) -> tuple[list[str], list[object]]:
    """Return conditions for a statement and their parameters."""
    conditions = ["ns = ?"]
    parameters: list[object] = [tx.ns]
    for column, value in (
        ("tenant_id", wanted.tenant_id),
        ("workflow_id", wanted.workflow_id),
        ("unique_key", wanted.unique_key),
    ):
        if value is not None:
            # The second condition lets the partial index be used.
            conditions.append(f"{column} = ? AND {column} IS NOT NULL")
            parameters.append(value)
    if wanted.kind is not None or wanted.queue is not None:
        tx.groups.refresh(tx)
        groups = [
            number
            for number, group in tx.groups.by_number.items()
            if (wanted.kind is None or group.kind == wanted.kind)
            and (wanted.queue is None or group.queue == wanted.queue)
        ]
        conditions.append(f"+grp {tx.sql.among}")
        parameters.append(tx.numbers(groups))
    # A job that has become due is queued, even if no claim has come by to write it down.
    if wanted.state is JobState.QUEUED:
        conditions.append("(state = 'queued' OR (state = 'scheduled' AND run_at <= ?))")
        parameters.append(tx.now)
    elif wanted.state is JobState.SCHEDULED:
        conditions.append("state = 'scheduled' AND run_at > ?")
        parameters.append(tx.now)
    elif wanted.state is not None:
        conditions.append("state = ?")
        parameters.append(wanted.state.value)
    return conditions, parameters


def page(tx: Transaction, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
    """Return up to ``limit`` matching jobs with larger ids than ``cursor``, in order of their ids."""
    conditions, parameters = _conditions(tx, wanted)
    conditions.append("id > ?")
    seqs = tx.array(tx.sql.page(conditions), *parameters, cursor or "", limit + 1)
    by_number = tx.job_rows(seqs)
    rows = [by_number[seq] for seq in seqs]
    more = len(rows) > limit
    del rows[limit:]
    for row in rows:
        _as_of_now(tx, row)
    return JobPage(tuple(tx.jobs(rows)), rows[-1].id if more else None)


def counts_by_queue(tx: Transaction) -> dict[str, dict[JobState, int]]:
    """Return how many jobs each queue has in each state that occurs."""
    tx.groups.refresh(tx)
    groups = tx.groups.by_number
    found: dict[str, dict[JobState, int]] = {}

    def add(number: int, state: JobState, count: int) -> None:
        group = groups.get(number)
        if group is not None and count:
            states = found.setdefault(group.queue, {})
            states[state] = states.get(state, 0) + count

    numbers = tx.numbers(groups)
    found_rows = [row for statement in tx.sql.count_waiting for row in tx.rows(statement, numbers)]
    found_rows += [row for statement in tx.sql.count_others for row in tx.rows(statement, tx.ns)]
    for number, state, count in found_rows:
        add(number, JobState(state), count)
    for number, count in tx.rows(tx.sql.due, tx.now, numbers):
        add(number, JobState.QUEUED, count)
        add(number, JobState.SCHEDULED, -count)
    return found


def counts(tx: Transaction, queue: str | None) -> dict[JobState, int]:
    """Return how many jobs are in each state."""
    totals = dict.fromkeys(JobState, 0)
    for name, states in counts_by_queue(tx).items():
        if queue is None or name == queue:
            for state, count in states.items():
                totals[state] += count
    return totals


def queues(tx: Transaction) -> list[QueueInfo]:
    """Return every queue that holds jobs or is paused, by name."""
    by_queue = counts_by_queue(tx)
    paused = {queue: until for queue, until in tx.rows(tx.sql.pauses, tx.ns) if until is None or until > tx.now}
    return [
        QueueInfo(
            name=name,
            paused=name in paused,
            paused_until=optional_seconds(paused.get(name)),
            counts={state: count for state, count in by_queue.get(name, {}).items() if count},
        )
        for name in sorted(by_queue.keys() | paused.keys())
    ]


def next_due(tx: Transaction, queues: Collection[str] | None) -> float | None:
    """Return the seconds until the next scheduled job of some queues is due, or a pause of one ends."""
    tx.groups.refresh(tx)
    numbers = (
        list(tx.groups.by_number) if queues is None else [number for queue in queues for number in tx.groups.of(queue)]
    )
    moments: list[int] = [
        until
        for queue, until in tx.rows(tx.sql.pauses, tx.ns)
        if until is not None and until > tx.now and (queues is None or queue in queues)
    ]
    due = tx.value(tx.sql.next_due, tx.now, tx.numbers(numbers))
    if due is not None:
        moments.append(due)
    return (min(moments) - tx.now) / MICROSECONDS if moments else None


def any_expired(tx: Transaction) -> bool:
    """Return whether there is anything to reap."""
    return bool(tx.value(tx.sql.any_expired, tx.ns, tx.now, tx.ns, tx.now))


def _as_of_now(tx: Transaction, row: JobRow) -> None:
    if row.state is JobState.SCHEDULED and row.run_at <= tx.now:
        row.state = JobState.QUEUED
