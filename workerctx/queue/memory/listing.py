"""Looking at many jobs."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

from workerctx.queue.model import JobPage, QueueInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workerctx.queue.memory.change import Change
    from workerctx.queue.model import QueuedJob
    from workerctx.queue.skeleton import JobFilter


def matches(wanted: JobFilter, job: QueuedJob) -> bool:
    """Whether a job fits every filter."""
    return (
        (wanted.state is None or job.state is wanted.state)
        and (wanted.kind is None or job.kind == wanted.kind)
        and (wanted.queue is None or job.queue == wanted.queue)
        and (wanted.tenant_id is None or job.tenant_id == wanted.tenant_id)
        and (wanted.workflow_id is None or job.workflow_id == wanted.workflow_id)
        and (wanted.unique_key is None or job.unique_key == wanted.unique_key)
    )


def page(change: Change, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
    """Return up to ``limit`` matching jobs with larger ids than ``cursor``, in order of their ids."""
    table = change.table
    table.promote_all(change.now)
    candidates: Iterable[QueuedJob] = table.jobs.values()
    if wanted.workflow_id is not None:
        candidates = map(table.jobs.__getitem__, table.workflows.get(wanted.workflow_id, ()))
    found = nsmallest(
        limit + 1,
        (job.id for job in candidates if (cursor is None or job.id > cursor) and matches(wanted, job)),
    )
    jobs = tuple(table.snapshot(table.jobs[job_id]) for job_id in found[:limit])
    return JobPage(jobs, jobs[-1].id if len(found) > limit else None)


def queues(change: Change) -> list[QueueInfo]:
    """Return every queue that holds jobs or is paused, by name."""
    table = change.table
    table.promote_all(change.now)
    infos: list[QueueInfo] = []
    for name in sorted(table.queue_names()):
        paused = table.is_paused(name, change.now)
        infos.append(
            QueueInfo(
                name=name,
                paused=paused,
                paused_until=table.paused[name] if paused else None,
                counts={state: count for state, count in table.counts(name).items() if count},
            )
        )
    return infos
