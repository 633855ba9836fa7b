"""What users and operators do to jobs, workflows and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerctx.errors import JobNotFound, UniqueKeyTaken, WrongState
from workerctx.queue import transitions
from workerctx.queue.model import CancelReason, JobState
from workerctx.queue.sql import json_text
from workerctx.queue.sqlite.enqueueing import BY_ID, BY_KEY
from workerctx.queue.sqlite.settling import End, release_dependants, write_back

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from workerctx.queue.model import QueuedJob
    from workerctx.queue.sql import JobRow
    from workerctx.queue.sqlite.transaction import Transaction

# A user's word stands: what was cancelled is not given back because its queue is paused as well.
ASK_TO_STOP: Final = (
    "UPDATE workerctx_jobs SET cancel = ? WHERE seq IN (SELECT value FROM json_each(?)) "
    "AND state = 'running' AND cancel IS NOT 'user'"
)
IN_WORKFLOW: Final = (
    "SELECT json_group_array(seq) FROM workerctx_jobs WHERE ns = ? AND workflow_id = ? "
    "AND workflow_id IS NOT NULL AND finished_at IS NULL"
)
FLAG_WORKFLOW: Final = "INSERT OR IGNORE INTO workerctx_cancelled_workflows (ns, workflow_id) VALUES (?, ?)"
CLEAR_WORKFLOW: Final = "DELETE FROM workerctx_cancelled_workflows WHERE ns = ? AND workflow_id = ?"
PAUSE: Final = (
    "INSERT INTO workerctx_pauses (ns, queue, until) VALUES (?, ?, ?) "
    "ON CONFLICT (ns, queue) DO UPDATE SET until = excluded.until"
)
RESUME: Final = "DELETE FROM workerctx_pauses WHERE ns = ? AND queue = ?"
RUNNING_IN: Final = (
    "SELECT json_group_array(j.seq) FROM workerctx_groups g JOIN workerctx_jobs j ON j.grp = g.grp "
    "WHERE j.ns = ? AND j.state = 'running' AND g.queue = ?"
)
UNFINISHED_PARENTS: Final = (
    "SELECT json_group_array(d.parent) FROM workerctx_dependencies d JOIN workerctx_jobs p ON p.seq = d.parent "
    "WHERE d.child = ? AND p.finished_at IS NULL"
)
REOPEN: Final = (
    "UPDATE workerctx_dependencies SET done = 0 WHERE child = ? AND parent IN (SELECT value FROM json_each(?))"
)
BLOCK: Final = "UPDATE workerctx_jobs SET state = 'blocked', waiting = ? WHERE seq = ?"
REMOVE: Final = "DELETE FROM workerctx_jobs WHERE seq IN (SELECT value FROM json_each(?))"
REMOVE_DEPENDENCIES: Final = (
    "DELETE FROM workerctx_dependencies WHERE child IN (SELECT value FROM json_each(?)) "
    "OR parent IN (SELECT value FROM json_each(?))"
)
# A job whose outputs an unfinished one still waits for is kept.
PRUNABLE: Final = (
    "SELECT json_group_array(seq) FROM (SELECT seq FROM workerctx_jobs j WHERE j.ns = ? AND j.state = ? "
    "AND j.finished_at < ? AND j.finished_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workerctx_dependencies d "
    "JOIN workerctx_jobs c ON c.seq = d.child WHERE d.parent = j.seq AND c.finished_at IS NULL) "
    "ORDER BY j.finished_at LIMIT ?)"
)


def find(tx: Transaction, job_id: str) -> JobRow:
    """Return the row of a job.

    Raises:
        JobNotFound: There is none.
    """
    found = tx.row(BY_ID, tx.ns, job_id)
    if found is None:
        raise JobNotFound(job_id)
    return tx.job_rows([found[0]])[found[0]]


def cancel(tx: Transaction, job_id: str) -> bool:
    """Cancel a job, or ask its worker to stop it; False if it had ended.

    Raises:
        JobNotFound: There is none.
    """
    row = find(tx, job_id)
    if row.state.is_final:
        return False
    if row.state is JobState.RUNNING:
        _ask_to_stop(tx, [row.seq], CancelReason.USER)
    else:
        (job,) = tx.jobs([row])
        _end(tx, [(row.seq, transitions.cancel(job, transitions.BY_USER, tx.seconds))])
    return True


def cancel_workflow(tx: Transaction, workflow_id: str) -> int:
    """Cancel the jobs of a workflow and those added to it from now on; return how many were alive."""
    tx.run(FLAG_WORKFLOW, tx.ns, workflow_id)
    alive = tx.job_rows(tx.array(IN_WORKFLOW, tx.ns, workflow_id))
    running = [row.seq for row in alive.values() if row.state is JobState.RUNNING]
    waiting = [row for row in alive.values() if row.state is not JobState.RUNNING]
    _ask_to_stop(tx, running, CancelReason.USER)
    reason = transitions.workflow_cancelled(workflow_id)
    _end(
        tx,
        [
            (row.seq, transitions.cancel(job, reason, tx.seconds))
            for row, job in zip(waiting, tx.jobs(waiting), strict=True)
        ],
    )
    return len(alive)


def clear_workflow(tx: Transaction, workflow_id: str) -> None:
    """Let a workflow accept jobs again."""
    tx.run(CLEAR_WORKFLOW, tx.ns, workflow_id)


def pause(tx: Transaction, queue: str, until: int | None, *, cancel_running: bool) -> None:
    """Let nobody claim from a queue, and perhaps have its running jobs given back."""
    tx.run(PAUSE, tx.ns, queue, until)
    tx.ready.add(queue)
    if cancel_running:
        _ask_to_stop(tx, tx.array(RUNNING_IN, tx.ns, queue), CancelReason.QUEUE_PAUSED)


def resume(tx: Transaction, queue: str) -> None:
    """Let a queue be claimed from again."""
    tx.run(RESUME, tx.ns, queue)
    tx.ready.add(queue)


def retry(tx: Transaction, job_id: str) -> None:
    """Put a dead or cancelled job back.

    Raises:
        JobNotFound: There is none.
        WrongState: It is neither.
        UniqueKeyTaken: Another active job has its key.
    """
    row = find(tx, job_id)
    if row.state not in (JobState.DEAD, JobState.CANCELLED):
        raise WrongState(job_id, row.state, "retry", "only dead and cancelled jobs can be put back")
    if row.unique_key is not None:
        holder = tx.value(BY_KEY, tx.ns, row.unique_key)
        if holder is not None:
            raise UniqueKeyTaken(job_id, row.unique_key, holder)
    (job,) = tx.jobs([row])
    back = transitions.retry(job, tx.seconds)
    write_back(tx, [(row.seq, back)])
    parents = tx.array(UNFINISHED_PARENTS, row.seq)
    if parents:
        tx.run(REOPEN, row.seq, json_text(parents))
        tx.run(BLOCK, len(parents), row.seq)
    elif tx.listening:
        tx.events.append(transitions.ready(back, tx.seconds))


def delete(tx: Transaction, job_id: str) -> None:
    """Remove a job that is not running.

    Raises:
        JobNotFound: There is none.
        WrongState: It is running.
    """
    row = find(tx, job_id)
    if row.state is JobState.RUNNING:
        raise WrongState(job_id, row.state, "delete", "cancel it and wait until it has stopped")
    release_dependants(tx, {row.seq: End("deleted", job_id)})
    remove(tx, [row.seq])
    tx.finished = True


def remove(tx: Transaction, seqs: Sequence[int]) -> None:
    """Remove rows and what refers to them."""
    numbers = json_text(seqs)
    tx.run(REMOVE_DEPENDENCIES, numbers, numbers)
    tx.run(REMOVE, numbers)


def prune(tx: Transaction, states: Collection[JobState], retention: int, limit: int) -> int:
    """Remove up to ``limit`` of the jobs that finished more than ``retention`` microseconds ago; return how many."""
    seqs: list[int] = []
    for state in sorted(states):
        if len(seqs) < limit:
            seqs += tx.array(PRUNABLE, tx.ns, state.value, tx.now - retention, limit - len(seqs))
    if seqs:
        remove(tx, seqs)
    return len(seqs)


def _ask_to_stop(tx: Transaction, seqs: Sequence[int], reason: CancelReason) -> None:
    if seqs:
        tx.run(ASK_TO_STOP, reason.value, json_text(seqs))


def _end(tx: Transaction, ended: Sequence[tuple[int, QueuedJob]]) -> None:
    if tx.listening:
        tx.events.extend(transitions.ending(job, tx.seconds) for _, job in ended)
    write_back(tx, ended)
