"""`JobHandler`: a function that runs jobs, and the typed way to enqueue them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast

import attrs
from attrs import Factory, define, field

from workerctx.queue import EnqueueRequest
from workerctx.service.call import compile_run
from workerctx.service.handle import TypedJobHandle
from workerctx.service.sending import send_one
from workerctx.service.sync import SyncJobHandle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from workerctx.queue import Storage
    from workerctx.queue.request import RequestOptions
    from workerctx.service.call import Run
    from workerctx.service.jobctx import JobCtx
    from workerctx.service.layers.base import Layer
    from workerctx.service.options import HandlerOptions
    from workerctx.service.router import Router
    from workerctx.service.sending import EnqueueHook
    from workerctx.service.signature import Contract
    from workerctx.service.sync import SyncJobs

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Owner(Protocol):
    """What a handler needs of its registry."""

    @property
    def storage(self) -> Storage:
        """The store of the running event loop."""
        ...

    @property
    def router(self) -> Router:
        """Chooses queues."""
        ...

    @property
    def hook(self) -> EnqueueHook | None:
        """What stands around each enqueueing."""
        ...

    @property
    def sync(self) -> SyncJobs:
        """The blocking side."""
        ...


@define(eq=False)
class Place:
    """Where a handler stands: its registry, and what follows from the registries around that one.

    Attributes:
        owner: Its registry's branch of the tree.
        name: Its kind without prefixes.
        aliases: Former kinds without prefixes.
        kind: Its kind.
        kinds: Its kind and its aliases.
        layers: All layers around it, the first outermost.
        run: Runs one job, through all layers.
    """

    owner: Owner
    name: str
    aliases: tuple[str, ...]
    kind: str = field(init=False, default="")
    kinds: tuple[str, ...] = field(init=False, default=())
    layers: tuple[Layer, ...] = field(init=False, default=())
    run: Run | None = field(init=False, default=None)

    def settle(self, prefix: str, contract: Contract, layers: Sequence[Layer]) -> None:
        """Take the prefix of all registries around, and all layers, the first outermost."""
        self.kinds = tuple(prefix + name for name in (self.name, *self.aliases))
        self.kind = self.kinds[0]
        self.layers = tuple(layers)
        self.run = compile_run(contract, self.kind, layers)


@define(eq=False, repr=False)
class JobHandler(Generic[P, R]):
    """A handler and its typed enqueueing: ``await resize.enqueue("cat.jpg", width=128)``.

    ``P`` are the arguments that a job carries, ``R`` is what it returns. `JobRegistry.register` makes handlers.

    Attributes:
        contract: What its signature says.
        options: What was said about its jobs at registration.
        place: Where it stands among registries; theirs to change.
    """

    contract: Contract
    options: HandlerOptions
    place: Place
    _defaults: dict[str, Any] = Factory(lambda self: self.options.of_request(), takes_self=True)

    @property
    def kind(self) -> str:
        """Its stable name, with the prefixes of the registries around it."""
        return self.place.kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the jobs that it runs: its own and its aliases."""
        return self.place.kinds

    def request(self, *args: P.args, **kwargs: P.kwargs) -> EnqueueRequest:
        """Return the request for a job with these arguments, to be changed with `with_options` or sent in bulk.

        Raises:
            InvalidArguments: They do not fit the signature, in number, name or type; it is a `TypeError`.
            InvalidRequest: They cannot be stored.
        """
        return self.request_of(self.contract.payload.bind(args, kwargs))

    def request_of(self, arguments: dict[str, Any]) -> EnqueueRequest:
        """Return the request for a job with these arguments by name, as data from elsewhere has them.

        Raises:
            InvalidArguments: They do not fit the signature, in name or type.
            InvalidRequest: They cannot be stored.
        """
        place = self.place
        options = dict(self._defaults)
        if "queue" not in options:
            options["queue"] = place.owner.router.route(place.kind)
        request = EnqueueRequest(place.kind, arguments, **options)
        self.contract.payload.check(request.payload_json)
        return request

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TypedJobHandle[R]:
        """Add a job with these arguments.

        Raises:
            InvalidArguments: They do not fit the signature; it is a `TypeError`. Nothing was added.
            RegistryNotOpen: The registry is not open on this event loop.

        Cancellation: the job was added or not, never half.
        """
        owner = self.place.owner
        jobs = owner.storage.jobs
        outcome = await send_one(self.request(*args, **kwargs), owner.hook, jobs.enqueue)
        return TypedJobHandle(jobs, outcome.id, outcome.deduped, expected=self.contract.result)

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[R]:
        """Add a job from plain sync code, inside ``with jobs.sync:`` or in a sync handler; blocks the thread.

        Raises:
            InvalidArguments: They do not fit the signature; it is a `TypeError`. Nothing was added.
            RegistryNotOpen: The registry is not open for sync code, or an event loop runs in this thread.

        Threads: any without an event loop.
        """
        sync = self.place.owner.sync
        return SyncJobHandle(sync.run(lambda: self.enqueue(*args, **kwargs)), sync)

    def with_options(self, **options: Unpack[RequestOptions]) -> JobHandler[P, R]:
        """Return the same handler with other defaults: ``await resize.with_options(delay=60).enqueue("cat.jpg")``."""
        return attrs.evolve(self, defaults={**self._defaults, **options})

    def run(self, ctx: JobCtx) -> Awaitable[Any]:
        """Run a job: decode its arguments, go through the layers, inject, call; sync functions run in a thread.

        Belongs to who runs jobs. The job's timeout is not applied here: it is the business of the scope around it.

        Raises:
            UndecodablePayload: The stored arguments do not fit the signature. Besides, whatever the handler raises.
        """
        run = self.place.run
        assert run is not None
        return run(ctx)

    def encode_output(self, output: Any) -> bytes:
        """Return what a handler returned as it is stored.

        Raises:
            InvalidRequest: It is not JSON, or too large.
        """
        return self.contract.result.encode(output)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind!r}>"


class FunctionHandler(JobHandler[P, R], Generic[Q, S, P, R]):
    """A `JobHandler` that can still be called as the function it was made from: ``Q`` to ``S``."""

    __slots__ = ()

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> S:
        """Call the function itself, with its full signature; nothing is enqueued, layered or injected.

        Raises:
            TypeError: Python refuses the call, or an injected parameter is missing.
        """
        plan = self.contract.plan
        if plan is not None and not plan.names <= kwargs.keys():
            missing = ", ".join(f"{name}=" for name in sorted(plan.names - kwargs.keys()))
            raise TypeError(f"{self.contract.name}() needs {missing}: it is injected only when a job runs")
        return cast("S", self.contract.function(*args, **kwargs))

    @property
    def __wrapped__(self) -> Callable[Q, S]:
        """The function itself; `inspect.signature` looks here."""
        return cast("Callable[Q, S]", self.contract.function)

    @property
    def __name__(self) -> str:
        """The function's name."""
        return getattr(self.contract.function, "__name__", self.kind)
