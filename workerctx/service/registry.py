"""`JobRegistry`: the handlers of an application, and the store that their jobs go to."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from workerctx.errors import InvalidHandler
from workerctx.queue import JobHandle, Misfire
from workerctx.service.branch import AnyHandler, Branch
from workerctx.service.handler import JobHandler
from workerctx.service.layers.base import as_layers
from workerctx.service.registration import Registration
from workerctx.service.router import Router, as_router
from workerctx.service.schedules import Declaration
from workerctx.service.sending import send_many, send_one
from workerctx.service.store import URL_VARIABLE, RegistryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from types import TracebackType

    from workerctx.queue import EnqueueOutcome, EnqueueRequest, Schedule, Storage
    from workerctx.service.layers.base import Layer
    from workerctx.service.options import Seconds
    from workerctx.service.sending import EnqueueHook
    from workerctx.service.sync import SyncJobs

H = TypeVar("H", bound=JobHandler[..., Any])


class JobRegistry:
    """Handlers by kind, and the store of their jobs.

    ``async with jobs:`` opens the store on the running event loop; nested blocks share it, and the last one closes it.
    Registries can be made at import time.

    Args:
        url: The store: ``sqlite:///jobs.db``, ``memory://``, ``postgresql://...``, ``redis://...``. None reads the
            variable ``WORKERCTX_URL`` when the registry is opened.
        layers: Around every handler; the first is outermost.
        router: Chooses the queue of jobs whose handler names none: a `Router`, or a function from kind to queue.
        on_enqueue: An `EnqueueHook` around each enqueueing, in handlers too; schedules and direct use of the store pass
            it by.

    Attributes:
        branch: Its place in the tree of registries.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        layers: Sequence[Layer] = (),
        router: Router | Callable[[str], str] | None = None,
        on_enqueue: EnqueueHook | None = None,
    ) -> None:
        own_router = None if router is None else as_router(router)
        self.branch: Branch = Branch(RegistryStore(url), as_layers(layers), own_router, on_enqueue)

    # Handlers -----------------------------------------------------------------

    @property
    def register(self) -> Registration:
        """The decorator that makes a handler of a function, with or without options.

        ``@jobs.register`` or ``@jobs.register(max_attempts=5, timeout=30)``; see `Registration`.
        """
        return Registration(self.branch)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that can be run, aliases and included registries among them."""
        return tuple(self.branch.table)

    @property
    def handlers(self) -> tuple[AnyHandler, ...]:
        """The handlers, those of included registries among them."""
        return tuple(dict.fromkeys(self.branch.table.values()))

    def find(self, kind: str) -> AnyHandler | None:
        """Return the handler of a kind or alias, or None."""
        return self.branch.table.get(kind)

    def include(self, other: JobRegistry, prefix: str = "") -> None:
        """Take in the handlers of another registry, those it will still get among them.

        From then on they use this registry's store, router and `on_enqueue` (unless the other has a router or a hook
        of its own), and run inside this registry's layers and their own.

        Args:
            other: A registry without a URL of its own.
            prefix: Put before its kinds and aliases.

        Raises:
            RegistryInUse: The other has a URL, is open, belongs to a registry already, or contains this one.
            InvalidHandler: Both have a handler for the same kind.
        """
        self.branch.include(other.branch, prefix)

    def schedule(
        self,
        cron: str | None = None,
        *,
        every: Seconds | None = None,
        tz: str = "UTC",
        misfire: Misfire = Misfire.ONE,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Callable[[H], H]:
        """Return a decorator that enqueues a handler's job again and again; put it above ``@jobs.register``.

        Workers of this registry declare the schedule when they start and fire it, each tick once in the cluster.

        Args:
            cron: A cron expression of 5 fields, or of 6 with the seconds first, read in `tz`; or
            every: Seconds between two ticks.
            tz: An IANA time zone; daylight saving follows Debian's cron.
            misfire: What becomes of ticks that nobody was there to see: skip, one job for all of them, or all.
            name: Of the schedule, unique in the store; None takes the handler's kind.
            args: Positional arguments of each job.
            kwargs: Keyword arguments of each job.

        Raises:
            InvalidHandler: What is decorated is no handler.
            InvalidRequest: The expression, the zone or the interval is not valid, or the name is taken.
            InvalidArguments: The arguments do not fit the handler's signature.
        """

        def declare(handler: H) -> H:
            if not isinstance(handler, JobHandler):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers exist
                raise InvalidHandler(
                    f"a schedule needs a handler, not {handler!r}: put @jobs.schedule(...) above @jobs.register"
                )
            declared = Declaration(handler, cron, every, tz, misfire, name, tuple(args), dict(kwargs or {}))
            self.branch.declare(declared)
            return handler

        return declare

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """The declared schedules, those of included registries among them."""
        return tuple(self.branch.schedules())

    # The store ----------------------------------------------------------------

    @property
    def url(self) -> str:
        """The store's URL as it holds now.

        Raises:
            RegistryNotOpen: None was given, and ``WORKERCTX_URL`` is not set.
        """
        return self.branch.store.url

    @property
    def storage(self) -> Storage:
        """The open store.

        Raises:
            RegistryNotOpen: It is not open on this event loop.
        """
        return self.branch.storage

    @property
    def router(self) -> Router:
        """Chooses the queue of jobs whose handler names none."""
        return self.branch.router

    @property
    def on_enqueue(self) -> EnqueueHook | None:
        """What stands around each enqueueing."""
        return self.branch.hook

    @property
    def sync(self) -> SyncJobs:
        """The blocking side, for plain sync code: ``with jobs.sync: resize.enqueue_sync("cat.jpg")``."""
        return self.branch.sync

    async def __aenter__(self) -> Self:
        await self.branch.store.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.branch.store.__aexit__(exc_type, exc, tb)

    @contextmanager
    def override(self, url: str) -> Generator[Self]:
        """Use another store inside the block, for tests: ``with jobs.override("memory://"):``.

        Raises:
            RegistryInUse: The registry is open.
        """
        with self.branch.store.override(url):
            yield self

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add the job of a request.

        Args:
            request: From ``handler.request(...)``, or made by hand.
            connection: On SQL stores, a connection of the caller: the job is part of its transaction.

        Raises:
            RegistryNotOpen: The registry is not open on this event loop.
            InvalidRequest: It cannot be stored; nothing was written.

        Cancellation: the job was added or not, never half.
        """
        store = partial(self.storage.jobs.enqueue, connection=connection)
        return await send_one(request, self.branch.hook, store)

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add the jobs of many requests in one transaction; the outcomes are in their order.

        Raises:
            RegistryNotOpen: The registry is not open on this event loop.
            InvalidRequest: One of them cannot be stored; none was added.

        Cancellation: all of them were added or none.
        """
        store = partial(self.storage.jobs.enqueue_bulk, connection=connection)
        return await send_many(requests, self.branch.hook, store)

    def handle(self, job_id: str) -> JobHandle:
        """Return the handle of a job by its id; whether it exists shows when it is used.

        Raises:
            RegistryNotOpen: The registry is not open on this event loop.
        """
        return JobHandle(self.storage.jobs, job_id)

    def __repr__(self) -> str:
        return f"<JobRegistry {self.branch.store.given or URL_VARIABLE} with {len(self.handlers)} handlers>"
