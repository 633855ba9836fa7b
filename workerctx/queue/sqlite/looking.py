"""Looking at jobs, on the connection that reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerctx.queue.model import JobPage, JobState, QueueInfo
from workerctx.queue.sql import MICROSECONDS, json_text, optional_seconds
from workerctx.queue.sqlite.steering import find

if TYPE_CHECKING:
    from collections.abc import Collection

    from workerctx.queue.model import QueuedJob
    from workerctx.queue.skeleton import JobFilter
    from workerctx.queue.sql import JobRow
    from workerctx.queue.sqlite.transaction import Transaction

# One covering index for each state, so that counting a million jobs does not read them.
COUNT_WAITING: Final = (
    (
        "SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_ready "
        "WHERE state = 'queued' AND grp IN (SELECT value FROM json_each(?)) GROUP BY grp"
    ),
    (
        "SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_due "
        "WHERE state = 'scheduled' AND grp IN (SELECT value FROM json_each(?)) GROUP BY grp"
    ),
    (
        "SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_blocked "
        "WHERE state = 'blocked' AND grp IN (SELECT value FROM json_each(?)) GROUP BY grp"
    ),
)
COUNT_OTHERS: Final = (
    (
        "SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_leased "
        "WHERE state = 'running' AND ns = ? GROUP BY grp"
    ),
    (
        "SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_finished "
        "WHERE finished_at IS NOT NULL AND ns = ? GROUP BY state, grp"
    ),
)
DUE: Final = (
    "SELECT grp, count(*) FROM workerctx_jobs WHERE state = 'scheduled' AND run_at <= ? "
    "AND grp IN (SELECT value FROM json_each(?)) GROUP BY grp"
)
NEXT_DUE: Final = (
    "SELECT min((SELECT min(run_at) FROM workerctx_jobs WHERE grp = g.value AND state = 'scheduled' AND run_at > ?)) "
    "FROM json_each(?) g"
)
PAUSES: Final = "SELECT queue, until FROM workerctx_pauses WHERE ns = ?"
ANY_EXPIRED: Final = (
    "SELECT EXISTS (SELECT 1 FROM workerctx_jobs WHERE ns = ? AND state = 'running' AND lease_expires < ?) "
    "OR EXISTS (SELECT 1 FROM workerctx_jobs WHERE ns = ? AND expires_at <= ? AND expires_at IS NOT NULL "
    "AND finished_at IS NULL AND state != 'running')"
)


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
        tx.groups.refresh(tx.cursor)
        groups = [
            number
            for number, group in tx.groups.by_number.items()
            if (wanted.kind is None or group.kind == wanted.kind)
            and (wanted.queue is None or group.queue == wanted.queue)
        ]
        conditions.append("+grp IN (SELECT value FROM json_each(?))")
        parameters.append(json_text(groups))
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
    statement = (
        "SELECT json_group_array(seq) FROM (SELECT seq FROM workerctx_jobs "  # noqa: S608 - conditions are constants
        f"WHERE {' AND '.join(conditions)} ORDER BY ns, id LIMIT ?)"
    )
    seqs = tx.array(statement, *parameters, cursor or "", limit + 1)
    by_number = tx.job_rows(seqs)
    rows = [by_number[seq] for seq in seqs]
    more = len(rows) > limit
    del rows[limit:]
    for row in rows:
        _as_of_now(tx, row)
    return JobPage(tuple(tx.jobs(rows)), rows[-1].id if more else None)


def counts_by_queue(tx: Transaction) -> dict[str, dict[JobState, int]]:
    """Return how many jobs each queue has in each state that occurs."""
    tx.groups.refresh(tx.cursor)
    groups = tx.groups.by_number
    found: dict[str, dict[JobState, int]] = {}

    def add(number: int, state: JobState, count: int) -> None:
        group = groups.get(number)
        if group is not None and count:
            states = found.setdefault(group.queue, {})
            states[state] = states.get(state, 0) + count

    numbers = json_text(list(groups))
    found_rows = [row for statement in COUNT_WAITING for row in tx.rows(statement, numbers)]
    found_rows += [row for statement in COUNT_OTHERS for row in tx.rows(statement, tx.ns)]
    for number, state, count in found_rows:
        add(number, JobState(state), count)
    for number, count in tx.rows(DUE, tx.now, numbers):
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
    paused = {queue: until for queue, until in tx.rows(PAUSES, tx.ns) if until is None or until > tx.now}
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
    tx.groups.refresh(tx.cursor)
    numbers = [number for number, group in tx.groups.by_number.items() if queues is None or group.queue in queues]
    moments: list[int] = [
        until
        for queue, until in tx.rows(PAUSES, tx.ns)
        if until is not None and until > tx.now and (queues is None or queue in queues)
    ]
    due = tx.value(NEXT_DUE, tx.now, json_text(numbers))
    if due is not None:
        moments.append(due)
    return (min(moments) - tx.now) / MICROSECONDS if moments else None


def any_expired(tx: Transaction) -> bool:
    """Return whether there is anything to reap."""
    return bool(tx.value(ANY_EXPIRED, tx.ns, tx.now, tx.ns, tx.now))


def _as_of_now(tx: Transaction, row: JobRow) -> None:
    if row.state is JobState.SCHEDULED and row.run_at <= tx.now:
        row.state = JobState.QUEUED
