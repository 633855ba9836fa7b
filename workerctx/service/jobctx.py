"""What a handler knows about its run: data over the Storage protocol, the same wherever the job runs."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import anyio
import anyio.from_thread
from attrs import define, field, frozen

from workerctx.errors import MissingData, Snooze, StoreBusy
from workerctx.service.cancel import JobCancel
from workerctx.service.sending import send_many, send_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence

    from workerctx.errors import Throttled
    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import EnqueueOutcome, EnqueueRequest, Granted, QueuedJob, RateLimits, Storage
    from workerctx.service.router import Router
    from workerctx.service.site import Site

T = TypeVar("T")

TRACE_HEADERS: Final = ("traceparent", "tracestate", "baggage")
"""Headers that a job hands on to the jobs it enqueues."""

_BUSY_WAITS: Final = (0.1, 0.3, 1.0)
# One for all reports, so that the newest is handed on last; re-entrant for the sake of signal handlers.
_lock: Final = threading.RLock()
_log: Final = logging.getLogger("workerctx")


@define(eq=False)
class JobCtx:
    """One run of a job.

    A handler gets it as its first parameter, ``async def resize(ctx: JobCtx, path: str)``, or injected.

    Attributes:
        job: The job as it was claimed.
        site: Where it runs.
        process_id: Slot, queue and process in one word: ``{queue}-{slot}-{host_id}``.
        deadline: When its timeout is over, on the event loop's clock; infinite without one.
        cancel: Tells that and why the run should stop.
        thread_id: The thread that a sync handler is in at the moment, as `threading.get_ident` names it.
    """

    job: QueuedJob
    site: Site = field(repr=False)
    process_id: str = ""
    deadline: float = math.inf
    cancel: JobCancel = field(factory=JobCancel, repr=False)
    thread_id: int | None = field(default=None, init=False, repr=False)
    _told: dict[str, Any] = field(factory=dict[str, Any], init=False, repr=False)

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def attempt(self) -> int:
        """Which run this is; 1 is the first."""
        return self.job.attempt

    @property
    def kind(self) -> str:
        """The kind under which the job was enqueued; perhaps an alias of its handler."""
        return self.job.kind

    @property
    def queue(self) -> str:
        """The queue that the job was claimed from."""
        return self.job.queue

    @property
    def upstream_outputs(self) -> dict[str, Any]:
        """Results of the jobs it depends on, by id."""
        return self.job.upstream_outputs

    @property
    def storage(self) -> Storage:
        """The worker's store."""
        return self.site.storage

    @property
    def rate_limit(self) -> RateLimits:
        """Limits that hold across the cluster: ``await ctx.rate_limit.acquire("github")``."""
        return self.site.storage.rate_limits

    @property
    def router(self) -> Router:
        """Chooses queues for the jobs that this one enqueues."""
        return self.site.router

    @property
    def host_id(self) -> str:
        """Time-ordered id of this boot of the process."""
        return self.site.host_id

    @property
    def worker(self) -> WorkerContext:
        """The context of the worker that runs the job.

        Raises:
            MissingData: The job runs without one.
        """
        if self.site.worker is None:
            raise MissingData("this job runs without a WorkerContext: run it in a worker, or give its Site one")
        return self.site.worker

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down."""
        return self.site.worker is not None and self.site.worker.is_shutting_down

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """The library's logger, bound to this run: messages begin with kind, id and attempt."""
        return _JobLogger(_log, {"kind": self.kind, "job_id": self.job_id, "attempt": self.attempt})

    @property
    def sync(self) -> SyncJobCtx:
        """The async methods for a handler that runs in a thread."""
        return SyncJobCtx(self)

    async def enqueue(self, request: EnqueueRequest) -> EnqueueOutcome:
        """Add a follow-up job.

        A request that names no queue is routed; tenant, workflow and trace headers are inherited where the
        request has none. A store that is busy is asked three times more, 0.1 to 1 s apart.

        Raises:
            InvalidRequest: It cannot be stored.
            StoreBusy: The store was busy every time; nothing was added.

        Cancellation: the job was added or not, never half.
        """
        prepared, jobs = self._prepare(request), self.storage.jobs
        return await send_one(prepared, self.site.on_enqueue, lambda ready: _patiently(lambda: jobs.enqueue(ready)))

    async def enqueue_bulk(self, requests: Iterable[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
        """Add follow-up jobs in one transaction, as `enqueue` does with one.

        Raises:
            InvalidRequest: One of them cannot be stored; none was added.
            StoreBusy: The store was busy every time; none was added.

        Cancellation: all of them were added or none.
        """
        prepared, jobs = map(self._prepare, requests), self.storage.jobs
        return await send_many(
            prepared, self.site.on_enqueue, lambda ready: _patiently(lambda: jobs.enqueue_bulk(ready))
        )

    async def sleep(self, seconds: float) -> bool:
        """Sleep, but no longer than until the run is being cancelled or the worker shuts down.

        Args:
            seconds: How long.

        Returns:
            Whether it slept in full.
        """
        with anyio.CancelScope() as scope, self.cancel.cancelling(scope):
            if self.site.worker is not None:
                return await self.site.worker.sleep(seconds)
            await anyio.sleep(seconds)
            return True
        return False

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the run is; the newest value is stored soon.

        Args:
            done: How much is done, in any unit.
            total: How much there is, in the same unit.

        Raises:
            MissingData: Who runs the job stores no progress.

        Threads: any.
        """
        self._report({"done": done, "total": total})

    def heartbeat(self, detail: Any = None) -> None:
        """Say that the run goes on, and what it does at the moment; stored soon, beside its progress.

        Args:
            detail: Any JSON value; None takes back an earlier one.

        Raises:
            MissingData: Who runs the job stores no progress.

        Threads: any.
        """
        self._report({"detail": detail})

    def snooze(self, seconds: float) -> NoReturn:
        """End the run here and have the job run again later, without using up an attempt.

        Args:
            seconds: How long to wait.
        """
        raise Snooze(seconds)

    def _report(self, news: dict[str, Any]) -> None:
        report = self.site.report
        if report is None:
            raise MissingData("who runs this job stores no progress: give its Site a report function")
        with _lock:
            self._told = {name: value for name, value in (self._told | news).items() if value is not None}
            report(self, self._told)

    def _prepare(self, request: EnqueueRequest) -> EnqueueRequest:
        job = self.job
        queue = request.pinned_queue or self.router.route(request.kind)
        trace = {name: job.headers[name] for name in TRACE_HEADERS if name in job.headers}
        inherits = (
            (job.tenant_id is not None and request.tenant_id is None)
            or (job.workflow_id is not None and request.workflow_id is None)
            or not trace.keys() <= request.headers.keys()
        )
        if not inherits and queue == request.queue:
            return request
        return request.with_options(
            queue=queue,
            tenant_id=request.tenant_id if request.tenant_id is not None else job.tenant_id,
            workflow_id=request.workflow_id if request.workflow_id is not None else job.workflow_id,
            headers=trace | request.headers,
        )


@frozen(eq=False)
class SyncJobCtx:
    """The async methods of a `JobCtx`, for the thread that runs a sync handler; each blocks that thread."""

    _ctx: JobCtx

    def enqueue(self, request: EnqueueRequest) -> EnqueueOutcome:
        """Do `JobCtx.enqueue`."""
        return anyio.from_thread.run(self._ctx.enqueue, request)

    def enqueue_bulk(self, requests: Iterable[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
        """Do `JobCtx.enqueue_bulk`."""
        return anyio.from_thread.run(self._ctx.enqueue_bulk, requests)

    def sleep(self, seconds: float) -> bool:
        """Do `JobCtx.sleep`."""
        return anyio.from_thread.run(self._ctx.sleep, seconds)

    def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Take calls from a rate limit.

        Raises:
            UnknownScope: Nobody configured it.
            InvalidRequest: The amount is below 1 or above the capacity.
        """
        return anyio.from_thread.run(lambda: self._ctx.rate_limit.acquire(scope, amount=amount))

    def drain(self, scope: str, *, retry_after: float) -> None:
        """Let nobody in the cluster take from a rate limit for some seconds.

        Raises:
            UnknownScope: Nobody configured it.
        """
        anyio.from_thread.run(lambda: self._ctx.rate_limit.drain(scope, retry_after=retry_after))


class _JobLogger(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        known = dict(self.extra or {})
        kwargs["extra"] = known | dict(kwargs.get("extra") or {})
        return f"{known['kind']} {known['job_id']} (run {known['attempt']}): {msg}", kwargs


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    for seconds in _BUSY_WAITS:
        try:
            return await call()
        except StoreBusy:
            await anyio.sleep(seconds)
    return await call()
