"""Adding jobs: everything is checked before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workerctx.errors import InvalidRequest
from workerctx.queue import transitions
from workerctx.queue.ids import new_id
from workerctx.queue.model import EnqueueOutcome, JobState, QueuedJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.table import Table
    from workerctx.queue.request import EnqueueRequest


def enqueue(change: Change, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
    """Add jobs, all of them or none.

    Raises:
        InvalidRequest: An id is taken, or a job waits for one that is neither stored nor earlier in the batch.
    """
    table = change.table
    _check(table, requests)
    renamed: dict[str, str] = {}
    outcomes: list[EnqueueOutcome] = []
    for request in requests:
        key = request.unique_key
        holder = None if key is None else table.unique.get(key)
        if holder is not None:
            # Later jobs of the batch may wait for this one under the id that it would have had.
            if request.job_id is not None:
                renamed[request.job_id] = holder
            outcomes.append(EnqueueOutcome(holder, deduped=True))
            continue
        job = _job(request, change.now, renamed)
        _add(change, job)
        outcomes.append(EnqueueOutcome(job.id))
    return outcomes


def _check(table: Table, requests: Sequence[EnqueueRequest]) -> None:
    batch: set[str] = set()
    for request in requests:
        for parent in request.depends_on:
            if parent not in batch and parent not in table.jobs:
                raise InvalidRequest(
                    f"job of kind {request.kind!r} depends on {parent!r}, which is not here: "
                    "enqueue parents first, or in the same batch before it"
                )
        job_id = request.job_id
        if job_id is not None:
            if job_id in batch or job_id in table.jobs:
                raise InvalidRequest(f"the job id {job_id!r} is taken: leave it out, or make one with new_id()")
            batch.add(job_id)


def _job(request: EnqueueRequest, now: float, renamed: dict[str, str]) -> QueuedJob:
    run_at = now + request.delay if request.run_at is None else request.run_at
    depends_on = request.depends_on
    if depends_on:
        depends_on = tuple(dict.fromkeys(renamed.get(parent, parent) for parent in depends_on))
    return QueuedJob(
        id=request.job_id or new_id(),
        kind=request.kind,
        queue=request.queue,
        payload_json=request.payload_json,
        state=JobState.QUEUED if run_at <= now else JobState.SCHEDULED,
        priority=request.priority,
        max_attempts=request.max_attempts,
        retry=request.retry,
        timeout=request.timeout,
        run_at=run_at,
        expires_at=request.expires_at,
        unique_key=request.unique_key,
        workflow_id=request.workflow_id,
        depends_on=depends_on,
        on_parent_failure=request.on_parent_failure,
        upstream_outputs=_NOTHING,
        required_labels=request.required_labels,
        tenant_id=request.tenant_id,
        headers=dict(request.headers) if request.headers else _NOTHING,
        created_at=now,
    )


_NOTHING: dict[str, str] = {}
"""Shared by all records; only copies leave the store."""


def _add(change: Change, job: QueuedJob) -> None:
    if job.workflow_id is not None and job.workflow_id in change.table.cancelled_workflows:
        change.end(transitions.cancel(job, transitions.workflow_cancelled(job.workflow_id), change.now))
        return
    if job.depends_on:
        job = change.graph.attach(job, change.now)
        if job.state is JobState.BLOCKED:
            change.table.put(job)
            return
        if job.state is JobState.CANCELLED:
            change.end(job)
            return
    change.make_ready(job)
