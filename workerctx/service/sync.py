"""Enqueueing from plain sync code: scripts, WSGI views, threads."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import anyio.from_thread
import anyio.lowlevel
from anyio import NoEventLoopError
from attrs import define, field, frozen

from workerctx.errors import RegistryNotOpen
from workerctx.queue import JobHandle
from workerctx.service.sending import send_many, send_one

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from types import TracebackType

    from anyio.from_thread import BlockingPortal

    from workerctx.queue import EnqueueOutcome, EnqueueRequest, JobState, QueuedJob
    from workerctx.service.sending import EnqueueHook
    from workerctx.service.store import RegistryStore

R = TypeVar("R")
T = TypeVar("T")


@define(eq=False)
class SyncJobs:
    """The blocking side of a registry.

    ``with jobs.sync:`` opens the store on an event loop in a thread of its own; nested blocks and other threads share
    it. A thread that anyio started for a running event loop (a sync handler) needs no block: it uses that loop.

    Threads: any, but not one in which an event loop runs.
    """

    store: RegistryStore
    _hook: EnqueueHook | None = None
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _stack: ExitStack = field(factory=ExitStack, init=False)
    _users: int = field(default=0, init=False)
    _portal: BlockingPortal | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        _refuse_event_loop()
        with self._lock:
            if self._portal is None:
                with ExitStack() as stack:
                    portal = stack.enter_context(anyio.from_thread.start_blocking_portal())
                    stack.enter_context(portal.wrap_async_context_manager(self.store))
                    self._stack = stack.pop_all()
                self._portal = portal
            self._users += 1
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._portal = None
                self._stack.close()

    def enqueue(self, request: EnqueueRequest) -> EnqueueOutcome:
        """Do `JobRegistry.enqueue`, without a connection: those belong to the thread that made them."""
        return self.run(lambda: send_one(request, self._hook, self.store.storage.jobs.enqueue))

    def enqueue_bulk(self, requests: Iterable[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
        """Do `JobRegistry.enqueue_bulk`, without a connection."""
        return self.run(lambda: send_many(requests, self._hook, self.store.storage.jobs.enqueue_bulk))

    def handle(self, job_id: str) -> SyncJobHandle[Any]:
        """Return the handle of a job by its id."""

        async def find() -> JobHandle:
            return JobHandle(self.store.storage.jobs, job_id)

        return SyncJobHandle(self.run(find), self)

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Call an async function where the store is open, and wait for it.

        Raises:
            RegistryNotOpen: There is no ``with jobs.sync:`` around the call, or an event loop runs in this thread.
        """

        async def call() -> T:
            return await function(*args)

        _refuse_event_loop()
        if _in_worker_thread():
            return anyio.from_thread.run(call)
        portal = self._portal
        if portal is None:
            raise RegistryNotOpen("the registry is not open for sync code: put `with jobs.sync:` around this")
        return portal.call(call)


@frozen
class SyncJobHandle(Generic[R]):
    """A job in the hands of plain sync code; each method blocks the calling thread."""

    _handle: JobHandle
    _sync: SyncJobs = field(repr=False, eq=False)

    @property
    def id(self) -> str:
        """The job's id."""
        return self._handle.id

    @property
    def deduped(self) -> bool:
        """Whether enqueueing met an active job with the same unique key."""
        return self._handle.deduped

    def result(self, timeout: float | None = None) -> R:
        """Do `JobHandle.result`."""
        return cast("R", self._sync.run(self._handle.result, timeout))

    def get(self) -> QueuedJob:
        """Do `JobHandle.get`."""
        return self._sync.run(self._handle.get)

    def status(self) -> JobState:
        """Do `JobHandle.status`."""
        return self._sync.run(self._handle.status)

    def cancel(self) -> bool:
        """Do `JobHandle.cancel`."""
        return self._sync.run(self._handle.cancel)


def _refuse_event_loop() -> None:
    try:
        anyio.lowlevel.current_token()
    except NoEventLoopError:
        return
    raise RegistryNotOpen("an event loop runs in this thread, which this call would block: use the async form")


def _in_worker_thread() -> bool:
    try:
        anyio.from_thread.check_cancelled()
    except NoEventLoopError:
        return False
    return True
