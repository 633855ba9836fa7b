"""What users and operators do to jobs, workflows and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from workerctx.errors import JobNotFound, UniqueKeyTaken, WrongState
from workerctx.queue import transitions
from workerctx.queue.model import CancelReason, JobState

if TYPE_CHECKING:
    from collections.abc import Collection

    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.table import Table
    from workerctx.queue.model import QueuedJob


def find(table: Table, job_id: str) -> QueuedJob:
    """Return a job.

    Raises:
        JobNotFound: There is none.
    """
    job = table.jobs.get(job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job


def look(change: Change, job_id: str) -> QueuedJob:
    """Return a job as it is now, for a caller to keep.

    Raises:
        JobNotFound: There is none.
    """
    job = find(change.table, job_id)
    if job.state is JobState.SCHEDULED and job.run_at <= change.now:
        # It has become due, and no claim has come by yet.
        job = replace(job, state=JobState.QUEUED)
    return change.table.snapshot(job)


def is_cancelled(job: QueuedJob) -> bool:
    """Return whether a job is cancelled or should stop for a user."""
    return job.state is JobState.CANCELLED or job.cancel_requested is CancelReason.USER


def cancel(change: Change, job_id: str) -> bool:
    """Cancel a job, or ask its worker to stop it; False if it had ended.

    Raises:
        JobNotFound: There is none.
    """
    job = find(change.table, job_id)
    if job.state.is_final:
        return False
    if job.state is JobState.RUNNING:
        _ask_to_stop(change, job, CancelReason.USER)
    else:
        change.close(transitions.cancel(job, transitions.BY_USER, change.now))
    return True


def cancel_workflow(change: Change, workflow_id: str) -> int:
    """Cancel the jobs of a workflow and those added to it from now on; return how many were alive."""
    table = change.table
    table.cancelled_workflows.add(workflow_id)
    alive = [table.jobs[job_id] for job_id in table.workflows.get(workflow_id, ())]
    alive = [job for job in alive if not job.state.is_final]
    # All of them before their dependants, so that none of the workflow is let go on by another's end.
    cancelled: list[QueuedJob] = []
    for job in alive:
        if job.state is JobState.RUNNING:
            _ask_to_stop(change, job, CancelReason.USER)
        else:
            change.graph.forget(job.id)
            cancelled.append(transitions.cancel(job, transitions.workflow_cancelled(workflow_id), change.now))
            change.end(cancelled[-1])
    for job in cancelled:
        change.settle(job)
    return len(alive)


def pause(change: Change, queue: str, until: float | None, *, cancel_running: bool) -> None:
    """Let nobody claim from a queue, and perhaps have its running jobs given back."""
    table = change.table
    table.paused[queue] = until
    change.wake(queue)
    if cancel_running:
        for held in table.held.values():
            job = table.jobs[held.job_id]
            if job.queue == queue:
                _ask_to_stop(change, job, CancelReason.QUEUE_PAUSED)


def resume(change: Change, queue: str) -> None:
    """Let a queue be claimed from again."""
    change.table.paused.pop(queue, None)
    change.wake(queue)


def retry(change: Change, job_id: str) -> None:
    """Put a dead or cancelled job back.

    Raises:
        JobNotFound: There is none.
        WrongState: It is neither.
        UniqueKeyTaken: Another active job has its key.
    """
    table = change.table
    job = find(table, job_id)
    if job.state not in (JobState.DEAD, JobState.CANCELLED):
        raise WrongState(job_id, job.state, "retry", "only dead and cancelled jobs can be put back")
    if job.unique_key is not None:
        holder = table.unique.get(job.unique_key)
        if holder is not None:
            raise UniqueKeyTaken(job_id, job.unique_key, holder)
    back = transitions.retry(job, change.now)
    waits_for = change.graph.unfinished_parents(job)
    if waits_for:
        change.graph.wait_for(back, waits_for)
        table.put(replace(back, state=JobState.BLOCKED))
    else:
        change.make_ready(back)


def delete(change: Change, job_id: str) -> None:
    """Remove a job that is not running.

    Raises:
        JobNotFound: There is none.
        WrongState: It is running.
    """
    job = find(change.table, job_id)
    if job.state is JobState.RUNNING:
        raise WrongState(job_id, job.state, "delete", "cancel it and wait until it has stopped")
    change.graph.forget(job_id)
    change.table.drop(job)
    change.settle(job, word="deleted")


def prune(change: Change, states: Collection[JobState], before: float, limit: int) -> int:
    """Remove up to ``limit`` jobs that finished before a moment; return how many."""
    removed = 0
    for state in states:
        for job in change.table.oldest_finished(state, before, limit - removed):
            change.table.drop(job)
            removed += 1
    return removed


def _ask_to_stop(change: Change, job: QueuedJob, reason: CancelReason) -> None:
    # A user's word stands: what was cancelled is not given back because its queue is paused as well.
    if job.cancel_requested is not CancelReason.USER:
        change.table.amend(replace(job, cancel_requested=reason))
