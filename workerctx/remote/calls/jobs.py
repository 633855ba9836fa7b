"""Calls to a `JobQueue`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from workerctx.errors import InvalidRequest, JobCancelled, JobFailed, JobNotFound
from workerctx.queue import EnqueueOutcome, JobPage, JobState, QueueInfo
from workerctx.remote.calls.base import Call
from workerctx.remote.records import JobRecord, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue import EnqueueRequest, Storage

LONGEST_WAIT: Final = 20.0
"""Seconds after which a call that waits for a job is answered anyway."""


class Page(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `JobPage`."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None = None

    @classmethod
    def of(cls, page: JobPage) -> Page:
        """Pack a page."""
        return cls(tuple(map(JobRecord.of, page.jobs)), page.next_cursor)

    def page(self) -> JobPage:
        """Unpack it."""
        return JobPage(tuple(record.job() for record in self.jobs), self.next_cursor)


class Enqueue(Call["Sequence[EnqueueOutcome]"], tag="enqueue", frozen=True):
    """`JobQueue.enqueue`, or `JobQueue.enqueue_bulk` with any other number of requests."""

    returns: ClassVar[Any] = tuple[EnqueueOutcome, ...]
    requests: tuple[RequestRecord, ...]

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[EnqueueOutcome]:
        """Add the jobs, all or none, unless that was done."""
        requests = [record.request() for record in self.requests]
        if again and (known := await _find_all(storage, requests)):
            return known
        try:
            return await storage.jobs.enqueue_bulk(requests)
        except InvalidRequest:  # perhaps as the first telling, at another gateway, was done only now
            if again and (known := await _find_all(storage, requests)):
                return known
            raise


async def _find_all(storage: Storage, requests: Sequence[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
    """Return where an earlier telling of requests ended up; nothing if there is no trace of it."""
    found = [await _find(storage, request) for request in requests]
    if not any(found):
        return ()
    # They were added together, so all of them were.
    return [each or EnqueueOutcome(str(request.job_id)) for each, request in zip(found, requests, strict=True)]


async def _find(storage: Storage, request: EnqueueRequest) -> EnqueueOutcome | None:
    """Return where an earlier telling of a request ended up, if there is any trace of it."""
    assert request.job_id is not None
    try:
        return EnqueueOutcome((await storage.jobs.get(request.job_id)).id)
    except JobNotFound:
        pass
    if request.unique_key is None:
        return None
    page = await storage.jobs.list(unique_key=request.unique_key)
    return next((EnqueueOutcome(job.id, deduped=True) for job in page.jobs if not job.state.is_final), None)


class GetJob(Call[JobRecord], tag="get", frozen=True):
    """`JobQueue.get`."""

    returns: ClassVar[Any] = JobRecord
    is_large: ClassVar[bool] = True
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> JobRecord:  # noqa: ARG002 - it changes nothing
        """Look it up."""
        return JobRecord.of(await storage.jobs.get(self.job_id))


class AwaitEnd(Call[JobRecord], tag="await", frozen=True):
    """Wait until a job has finished, but not for too long, and return it: a part of `JobQueue.result`."""

    returns: ClassVar[Any] = JobRecord
    waits: ClassVar[bool] = True
    job_id: str
    seconds: float

    async def perform(self, storage: Storage, *, again: bool) -> JobRecord:  # noqa: ARG002 - it changes nothing
        """Wait for it."""
        with suppress(TimeoutError, JobFailed, JobCancelled):
            await storage.jobs.result(self.job_id, timeout=min(self.seconds, LONGEST_WAIT))
        return JobRecord.of(await storage.jobs.get(self.job_id))


class CancelJob(Call[bool], tag="cancel", frozen=True):
    """`JobQueue.cancel`."""

    returns: ClassVar[Any] = bool
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> bool:
        """Cancel it."""
        cancelled = await storage.jobs.cancel(self.job_id)
        return cancelled or (again and (await storage.jobs.get(self.job_id)).state is JobState.CANCELLED)


class IsCancelled(Call[bool], tag="is_cancelled", frozen=True):
    """`JobQueue.is_cancelled`."""

    returns: ClassVar[Any] = bool
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> bool:  # noqa: ARG002
        """Look."""
        return await storage.jobs.is_cancelled(self.job_id)


class CancelWorkflow(Call[int], tag="cancel_workflow", frozen=True):
    """`JobQueue.cancel_workflow`."""

    returns: ClassVar[Any] = int
    workflow_id: str

    async def perform(self, storage: Storage, *, again: bool) -> int:  # noqa: ARG002 - twice is harmless
        """Cancel it."""
        return await storage.jobs.cancel_workflow(self.workflow_id)


class ClearWorkflow(Call[None], tag="clear_workflow", frozen=True):
    """`JobQueue.clear_workflow`."""

    workflow_id: str

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Clear it."""
        await storage.jobs.clear_workflow(self.workflow_id)


class ListJobs(Call[Page], tag="list", frozen=True, kw_only=True):
    """`JobQueue.list`."""

    returns: ClassVar[Any] = Page
    is_large: ClassVar[bool] = True
    state: JobState | None = None
    kind: str | None = None
    queue: str | None = None
    tenant_id: str | None = None
    workflow_id: str | None = None
    unique_key: str | None = None
    limit: int = 100
    cursor: str | None = None

    async def perform(self, storage: Storage, *, again: bool) -> Page:  # noqa: ARG002
        """List them."""
        return Page.of(await storage.jobs.list(**msgspec.structs.asdict(self)))


class CountJobs(Call[dict[JobState, int]], tag="counts", frozen=True):
    """`JobQueue.counts`."""

    returns: ClassVar[Any] = dict[JobState, int]
    queue: str | None = None

    async def perform(self, storage: Storage, *, again: bool) -> dict[JobState, int]:  # noqa: ARG002
        """Count them."""
        return await storage.jobs.counts(queue=self.queue)


class ListQueues(Call["Sequence[QueueInfo]"], tag="queues", frozen=True):
    """`JobQueue.queues`."""

    returns: ClassVar[Any] = tuple[QueueInfo, ...]
    is_large: ClassVar[bool] = True

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[QueueInfo]:  # noqa: ARG002
        """List them."""
        return await storage.jobs.queues()


class PauseQueue(Call[None], tag="pause_queue", frozen=True):
    """`JobQueue.pause_queue`."""

    steers: ClassVar[bool] = True
    queue: str
    until: float | None = None
    cancel_running: bool = False

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Pause it."""
        await storage.jobs.pause_queue(self.queue, until=self.until, cancel_running=self.cancel_running)


class ResumeQueue(Call[None], tag="resume_queue", frozen=True):
    """`JobQueue.resume_queue`."""

    steers: ClassVar[bool] = True
    queue: str

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Resume it."""
        await storage.jobs.resume_queue(self.queue)


class RetryJob(Call[None], tag="retry", frozen=True):
    """`JobQueue.retry`."""

    steers: ClassVar[bool] = True
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> None:
        """Retry it, unless that was done."""
        if again and not (await storage.jobs.get(self.job_id)).state.is_final:
            return
        await storage.jobs.retry(self.job_id)


class DeleteJob(Call[None], tag="delete", frozen=True):
    """`JobQueue.delete`."""

    steers: ClassVar[bool] = True
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> None:
        """Delete it, unless that was done."""
        try:
            await storage.jobs.delete(self.job_id)
        except JobNotFound:
            if not again:
                raise


class Wake(Call[None], tag="wake", frozen=True):
    """`JobQueue.wake`."""

    queue: str | None = None

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Wake who waits."""
        await storage.jobs.wake(self.queue)


class PruneJobs(Call[int], tag="prune", frozen=True):
    """`JobQueue.prune`."""

    returns: ClassVar[Any] = int
    steers: ClassVar[bool] = True
    retention: float
    states: tuple[JobState, ...] | None = None

    async def perform(self, storage: Storage, *, again: bool) -> int:  # noqa: ARG002 - twice is harmless
        """Prune them."""
        return await storage.jobs.prune(self.retention, states=self.states)
