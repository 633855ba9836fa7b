"""Looking at many jobs."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

import attrs

from workerctx.errors import InvalidRequest
from workerctx.queue.model import JobPage, QueueInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workerctx.queue.memory.change import Change
    from workerctx.queue.model import JobState, QueuedJob


@attrs.frozen(kw_only=True)
class Filter:
    """Which jobs are wanted; None matches all."""

    state: JobState | None
    kind: str | None
    queue: str | None
    tenant_id: str | None
    workflow_id: str | None
    unique_key: str | None

    def matches(self, job: QueuedJob) -> bool:
        """Whether a job fits every filter."""
        return (
            (self.state is None or job.state is self.state)
            and (self.kind is None or job.kind == self.kind)
            and (self.queue is None or job.queue == self.queue)
            and (self.tenant_id is None or job.tenant_id == self.tenant_id)
            and (self.workflow_id is None or job.workflow_id == self.workflow_id)
            and (self.unique_key is None or job.unique_key == self.unique_key)
        )


def page(change: Change, wanted: Filter, limit: int, cursor: str | None) -> JobPage:
    """Return up to ``limit`` matching jobs with larger ids than ``cursor``, in order of their ids.

    Raises:
        InvalidRequest: The limit is below 1.
    """
    if limit < 1:
        raise InvalidRequest(f"a page holds at least 1 job, got limit={limit}")
    table = change.table
    table.promote_all(change.now)
    candidates: Iterable[QueuedJob] = table.jobs.values()
    if wanted.workflow_id is not None:
        candidates = map(table.jobs.__getitem__, table.workflows.get(wanted.workflow_id, ()))
    found = nsmallest(
        limit + 1,
        (job.id for job in candidates if (cursor is None or job.id > cursor) and wanted.matches(job)),
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
