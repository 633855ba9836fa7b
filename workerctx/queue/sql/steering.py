"""What users and operators do to jobs, workflows and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workerctx.errors import JobNotFound, UniqueKeyTaken, WrongState
from workerctx.queue import transitions
from workerctx.queue.model import CancelReason, JobState
from workerctx.queue.sql.settling import End, release_dependants, write_back

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from workerctx.queue.model import QueuedJob
    from workerctx.queue.sql.rows import JobRow
    from workerctx.queue.sql.transaction import Transaction


def find(tx: Transaction, job_id: str) -> JobRow:
    """Return the row of a job.

    Raises:
        JobNotFound: There is none.
    """
    seq = tx.value(tx.sql.by_id, tx.ns, job_id)
    row = None if seq is None else tx.job_rows([seq]).get(seq)
    if row is None:
        raise JobNotFound(job_id)
    return row


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
    tx.shut_out([f"workflow {workflow_id}"])
    tx.run(tx.sql.flag_workflow, tx.ns, workflow_id)
    rows = tx.job_rows(tx.array(tx.sql.in_workflow, tx.ns, workflow_id))
    alive = [row for row in rows.values() if not row.state.is_final]
    running = [row.seq for row in alive if row.state is JobState.RUNNING]
    waiting = [row for row in alive if row.state is not JobState.RUNNING]
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
    tx.run(tx.sql.clear_workflow, tx.ns, workflow_id)


def pause(tx: Transaction, queue: str, until: int | None, *, cancel_running: bool) -> None:
    """Let nobody claim from a queue, and perhaps have its running jobs given back."""
    tx.run(tx.sql.pause, tx.ns, queue, until)
    tx.ready.add(queue)
    if cancel_running:
        _ask_to_stop(tx, tx.array(tx.sql.running_in, tx.ns, queue), CancelReason.QUEUE_PAUSED)


def resume(tx: Transaction, queue: str) -> None:
    """Let a queue be claimed from again."""
    tx.run(tx.sql.resume, tx.ns, queue)
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
        holder = tx.value(tx.sql.holder, tx.ns, row.unique_key)
        if holder is not None:
            raise UniqueKeyTaken(job_id, row.unique_key, holder)
    (job,) = tx.jobs([row])
    back = transitions.retry(job, tx.seconds)
    write_back(tx, [(row.seq, back)])
    parents = tx.array(tx.sql.unfinished_parents, row.seq)
    if parents:
        tx.run(tx.sql.reopen, row.seq, tx.numbers(parents))
        tx.run(tx.sql.block, len(parents), row.seq)
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
    numbers = tx.numbers(seqs)
    tx.run(tx.sql.remove_dependencies, numbers, numbers)
    tx.run(tx.sql.remove, numbers)


def prune(tx: Transaction, states: Collection[JobState], retention: int, limit: int) -> int:
    """Remove up to ``limit`` of the jobs that finished more than ``retention`` microseconds ago; return how many."""
    seqs: list[int] = []
    for state in sorted(states):
        if len(seqs) < limit:
            seqs += tx.array(tx.sql.prunable, tx.ns, state.value, tx.now - retention, limit - len(seqs))
    if seqs:
        # Children that came until we held the rows are seen only now, and none comes any more.
        needed = {parent for parent, _ in tx.array(tx.sql.live_children, tx.numbers(seqs))}
        seqs = [seq for seq in seqs if seq not in needed]
        remove(tx, seqs)
    return len(seqs)


def _ask_to_stop(tx: Transaction, seqs: Sequence[int], reason: CancelReason) -> None:
    if seqs:
        tx.run(tx.sql.ask_to_stop, reason.value, tx.numbers(seqs))


def _end(tx: Transaction, ended: Sequence[tuple[int, QueuedJob]]) -> None:
    if tx.listening:
        tx.events.extend(transitions.ending(job, tx.seconds) for _, job in ended)
    write_back(tx, ended)
