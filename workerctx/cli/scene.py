"""What a job finds around it: everything that `explain` has to know, gathered from the store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from attrs import Factory, frozen

from workerctx.cli.fleet import could_take, is_live
from workerctx.errors import JobNotFound
from workerctx.queue import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workerctx.queue import QueuedJob, QueueInfo, Storage, WorkerInfo

_PARENTS: Final = 100
"""How many of the jobs that one waits for are looked at."""

_AHEAD: Final = 2000
"""How many waiting jobs of the same queue are compared with it."""

_PAGE: Final = 500

_RUNNING: Final = 2000
"""How many running jobs of its kind are counted."""


@frozen(eq=False, kw_only=True)
class Scene:
    """The store around a job at one moment.

    Attributes:
        now: Store time.
        workers: All that are registered.
        queue: The job's queue, if it holds jobs or is paused.
        parents: Unfinished jobs that it waits for, the first of them.
        ahead: How many waiting jobs go before it, at least, that its workers could take as well.
        of_its_kind: How many jobs of its kind each worker runs, if any worker limits that kind.
    """

    now: float
    workers: Sequence[WorkerInfo] = ()
    queue: QueueInfo | None = None
    parents: Sequence[QueuedJob] = Factory(tuple)
    ahead: int = 0
    of_its_kind: Mapping[str, int] = Factory(dict[str, int])

    @property
    def live(self) -> list[WorkerInfo]:
        """The workers that were heard of lately."""
        return [worker for worker in self.workers if is_live(worker, self.now)]


async def look_around(storage: Storage, job: QueuedJob) -> Scene:
    """Return what there is to know about the surroundings of a job that was just read."""
    now = await storage.now()
    workers = await storage.workers.list()
    queue: QueueInfo | None = None
    parents: list[QueuedJob] = []
    ahead = 0
    of_its_kind: Counter[str] = Counter()
    if not job.state.is_final:
        queue = next((each for each in await storage.jobs.queues() if each.name == job.queue), None)
    if job.state is JobState.BLOCKED:
        parents = await _unfinished(storage, job.depends_on)
    if job.state is JobState.QUEUED:
        ahead = await _count_ahead(storage, job, [each for each in workers if is_live(each, now)])
        if any(job.kind in each.kind_limits or job.kind in each.key_limits for each in workers):
            page = await storage.jobs.list(state=JobState.RUNNING, kind=job.kind, limit=_RUNNING)
            of_its_kind.update(each.worker_id for each in page.jobs if each.worker_id is not None)
    return Scene(now=now, workers=workers, queue=queue, parents=parents, ahead=ahead, of_its_kind=of_its_kind)


async def _unfinished(storage: Storage, ids: Sequence[str]) -> list[QueuedJob]:
    found: list[QueuedJob] = []
    for job_id in ids[:_PARENTS]:
        try:
            parent = await storage.jobs.get(job_id)
        except JobNotFound:
            continue
        if not parent.state.is_final:
            found.append(parent)
    return found


async def _count_ahead(storage: Storage, job: QueuedJob, live: Sequence[WorkerInfo]) -> int:
    takers = [worker for worker in live if could_take(worker, job)]
    if not takers:
        return 0
    count = seen = 0
    cursor: str | None = None
    while seen < _AHEAD:
        page = await storage.jobs.list(state=JobState.QUEUED, queue=job.queue, limit=_PAGE, cursor=cursor)
        seen += len(page.jobs)
        count += sum(
            _turn(each) < _turn(job) and any(could_take(worker, each) for worker in takers) for each in page.jobs
        )
        cursor = page.next_cursor
        if cursor is None:
            break
    return count


def _turn(job: QueuedJob) -> tuple[float, float, str]:
    return -job.priority, job.run_at, job.id
