"""What a handler may ask of the store from afar: each call is data, and knows how to perform itself on a real store.

Calls are safe to repeat: one whose session broke is sent again in the next, and done once. What adds a job carries the
job's id, by which the second telling finds what the first has done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import msgspec

from workerctx.errors import JobNotFound, Throttled
from workerctx.queue import EnqueueOutcome, JobState, QueueInfo, RateLimit
from workerctx.remote.records import JobRecord, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue import EnqueueRequest, JobPage, Storage


class Call(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="call"):
    """Base of all calls.

    Attributes:
        returns: The type of what `perform` returns.
        steers: Whether it is the business of operators rather than of handlers.
    """

    returns: ClassVar[Any] = None
    steers: ClassVar[bool] = False

    async def perform(self, storage: Storage, *, again: bool) -> Any:
        """Do it.

        Args:
            storage: The real store.
            again: Whether it may have been done already.
        """
        raise NotImplementedError


class Page(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `JobPage`."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None = None

    @classmethod
    def of(cls, page: JobPage) -> Page:
        """Pack a page."""
        return cls(tuple(map(JobRecord.of, page.jobs)), page.next_cursor)


# Jobs -------------------------------------------------------------------------


class Enqueue(Call, tag="enqueue", frozen=True):
    """`JobQueue.enqueue`, or `JobQueue.enqueue_bulk` with any other number of requests."""

    returns: ClassVar[Any] = tuple[EnqueueOutcome, ...]
    requests: tuple[RequestRecord, ...]

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[EnqueueOutcome]:
        """Add the jobs, all or none, unless that was done."""
        requests = [record.request() for record in self.requests]
        if again:
            found = [await _find(storage, request) for request in requests]
            if any(found):  # they were added together, so all of them were
                return [
                    each or EnqueueOutcome(str(request.job_id)) for each, request in zip(found, requests, strict=True)
                ]
        return await storage.jobs.enqueue_bulk(requests)


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


class GetJob(Call, tag="get", frozen=True):
    """`JobQueue.get`."""

    returns: ClassVar[Any] = JobRecord
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> JobRecord:  # noqa: ARG002 - it changes nothing
        """Look it up."""
        return JobRecord.of(await storage.jobs.get(self.job_id))


class AwaitResult(Call, tag="result", frozen=True):
    """`JobQueue.result`; the value is JSON."""

    returns: ClassVar[Any] = bytes
    job_id: str
    timeout: float | None = None

    async def perform(self, storage: Storage, *, again: bool) -> bytes:  # noqa: ARG002
        """Wait for it."""
        return msgspec.json.encode(await storage.jobs.result(self.job_id, timeout=self.timeout))


class CancelJob(Call, tag="cancel", frozen=True):
    """`JobQueue.cancel`."""

    returns: ClassVar[Any] = bool
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> bool:
        """Cancel it."""
        cancelled = await storage.jobs.cancel(self.job_id)
        return cancelled or (again and (await storage.jobs.get(self.job_id)).state is JobState.CANCELLED)


class IsCancelled(Call, tag="is_cancelled", frozen=True):
    """`JobQueue.is_cancelled`."""

    returns: ClassVar[Any] = bool
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> bool:  # noqa: ARG002
        """Look."""
        return await storage.jobs.is_cancelled(self.job_id)


class CancelWorkflow(Call, tag="cancel_workflow", frozen=True):
    """`JobQueue.cancel_workflow`."""

    returns: ClassVar[Any] = int
    workflow_id: str

    async def perform(self, storage: Storage, *, again: bool) -> int:  # noqa: ARG002 - twice is harmless
        """Cancel it."""
        return await storage.jobs.cancel_workflow(self.workflow_id)


class ClearWorkflow(Call, tag="clear_workflow", frozen=True):
    """`JobQueue.clear_workflow`."""

    workflow_id: str

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Clear it."""
        await storage.jobs.clear_workflow(self.workflow_id)


class ListJobs(Call, tag="list", frozen=True, kw_only=True):
    """`JobQueue.list`."""

    returns: ClassVar[Any] = Page
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


class CountJobs(Call, tag="counts", frozen=True):
    """`JobQueue.counts`."""

    returns: ClassVar[Any] = dict[JobState, int]
    queue: str | None = None

    async def perform(self, storage: Storage, *, again: bool) -> dict[JobState, int]:  # noqa: ARG002
        """Count them."""
        return await storage.jobs.counts(queue=self.queue)


class ListQueues(Call, tag="queues", frozen=True):
    """`JobQueue.queues`."""

    returns: ClassVar[Any] = tuple[QueueInfo, ...]

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[QueueInfo]:  # noqa: ARG002
        """List them."""
        return await storage.jobs.queues()


class PauseQueue(Call, tag="pause_queue", frozen=True):
    """`JobQueue.pause_queue`."""

    steers: ClassVar[bool] = True
    queue: str
    until: float | None = None
    cancel_running: bool = False

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Pause it."""
        await storage.jobs.pause_queue(self.queue, until=self.until, cancel_running=self.cancel_running)


class ResumeQueue(Call, tag="resume_queue", frozen=True):
    """`JobQueue.resume_queue`."""

    steers: ClassVar[bool] = True
    queue: str

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Resume it."""
        await storage.jobs.resume_queue(self.queue)


class RetryJob(Call, tag="retry", frozen=True):
    """`JobQueue.retry`."""

    steers: ClassVar[bool] = True
    job_id: str

    async def perform(self, storage: Storage, *, again: bool) -> None:
        """Retry it, unless that was done."""
        if again and not (await storage.jobs.get(self.job_id)).state.is_final:
            return
        await storage.jobs.retry(self.job_id)


class DeleteJob(Call, tag="delete", frozen=True):
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


class Wake(Call, tag="wake", frozen=True):
    """`JobQueue.wake`."""

    queue: str | None = None

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Wake who waits."""
        await storage.jobs.wake(self.queue)


# Companions -------------------------------------------------------------------


class Acquire(Call, tag="acquire", frozen=True):
    """`RateLimits.acquire`; returns the seconds to wait, or None if it was granted."""

    returns: ClassVar[Any] = float | None
    scope: str
    amount: int = 1

    async def perform(self, storage: Storage, *, again: bool) -> float | None:  # noqa: ARG002 - it never over-grants
        """Acquire."""
        answer = await storage.rate_limits.acquire(self.scope, amount=self.amount)
        return answer.retry_after if isinstance(answer, Throttled) else None


class DrainLimit(Call, tag="drain_limit", frozen=True):
    """`RateLimits.drain`."""

    scope: str
    retry_after: float

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Drain it."""
        await storage.rate_limits.drain(self.scope, retry_after=self.retry_after)


class ConfigureLimit(Call, tag="configure_limit", frozen=True):
    """`RateLimits.configure`."""

    steers: ClassVar[bool] = True
    scope: str
    capacity: int
    per: float

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Configure it."""
        await storage.rate_limits.configure(self.scope, capacity=self.capacity, per=self.per)


class ListLimits(Call, tag="limits", frozen=True):
    """`RateLimits.list`."""

    returns: ClassVar[Any] = tuple[RateLimit, ...]

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[RateLimit]:  # noqa: ARG002
        """List them."""
        return await storage.rate_limits.list()


class Now(Call, tag="now", frozen=True):
    """`Storage.now`."""

    returns: ClassVar[Any] = float

    async def perform(self, storage: Storage, *, again: bool) -> float:  # noqa: ARG002
        """Look at the store's clock."""
        return await storage.now()


AnyCall: TypeAlias = (
    Enqueue
    | GetJob
    | AwaitResult
    | CancelJob
    | IsCancelled
    | CancelWorkflow
    | ClearWorkflow
    | ListJobs
    | CountJobs
    | ListQueues
    | PauseQueue
    | ResumeQueue
    | RetryJob
    | DeleteJob
    | Wake
    | Acquire
    | DrainLimit
    | ConfigureLimit
    | ListLimits
    | Now
)
