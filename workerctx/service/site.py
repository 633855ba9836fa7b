"""Where jobs run: what a worker, or a test, lends to each of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Factory, field, frozen

from workerctx.lifecycle import WorkerContext
from workerctx.queue import Storage
from workerctx.service.request import DataMap
from workerctx.service.router import DefaultRouter, Router

if TYPE_CHECKING:
    from collections.abc import Callable

    import anyio

    from workerctx.service.jobctx import JobCtx
    from workerctx.service.process import Processes
    from workerctx.service.sending import EnqueueHook


@frozen(eq=False)
class Site:
    """Where jobs run: what all runs of one worker share.

    Attributes:
        storage: The worker's store.
        worker: Its context; None where there is none, as in a test that calls a handler by hand.
        router: Chooses queues for the jobs that handlers enqueue.
        host_id: Time-ordered id of this boot of the process.
        limiter: How many sync handlers may run in threads at once; None shares anyio's own limit.
        data: What else can be injected, by type.
        report: Stores the progress of a run, soon; called from any thread with the context and a JSON value.
        on_enqueue: Stands around each enqueueing of a handler.
        processes: Those of handlers with ``executor="process"``; None starts one for each run.
    """

    storage: Storage
    worker: WorkerContext | None = None
    router: Router = Factory(DefaultRouter)
    host_id: str = ""
    limiter: anyio.CapacityLimiter | None = None
    data: DataMap = Factory(DataMap)
    report: Callable[[JobCtx, Any], None] | None = None
    on_enqueue: EnqueueHook | None = None
    processes: Processes | None = None
    common: DataMap = field(default=Factory(lambda self: self.gather(), takes_self=True), init=False, repr=False)
    """`data` with the store and the worker's context: what every request starts with."""

    def gather(self) -> DataMap:
        """Return what every request starts with."""
        own: dict[type[Any], object] = {Storage: self.storage}
        if self.worker is not None:
            own[WorkerContext] = self.worker
        return self.data.extended(own)
