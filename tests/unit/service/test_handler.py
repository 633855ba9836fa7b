"""Handlers: which functions can be one, how they run, and how they are enqueued."""

from __future__ import annotations

import inspect
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio
import anyio.from_thread
import pytest

from workerctx.errors import InvalidHandler, InvalidRequest, MissingData
from workerctx.lifecycle import WorkerContext
from workerctx.queue import Constant, JobState, QueuedJob
from workerctx.service import From, JobCtx, JobRegistry, Site, injected
from workerctx.service.layers import Concurrency

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")


def test_decoration_makes_a_handler_with_or_without_options(jobs):
    """`@jobs.register` and `@jobs.register(...)` both work; the kind is the qualified name unless it is given."""

    @jobs.register
    async def bare(path: str) -> None: ...

    @jobs.register()
    async def called(path: str) -> None: ...

    @jobs.register(name="thumb", queue="images", max_attempts=2, timeout=timedelta(seconds=3), priority=4)
    async def named(path: str) -> None: ...

    assert bare.kind.endswith("<locals>.bare")
    assert called.kind.endswith("<locals>.called")
    assert named.kind == "thumb"
    assert repr(named) == "<FunctionHandler 'thumb'>"
    assert jobs.find("thumb") is named
    request = named.request("a")
    assert (request.queue, request.max_attempts, request.timeout, request.priority) == ("images", 2, 3.0, 4)


def test_options_reach_the_request_and_can_be_changed(jobs):
    """The handler's options are defaults: `with_options` of the handler or of the request has the last word."""

    @jobs.register(name="job", retry=Constant(3), required_labels="gpu", queue="images")
    async def job(path: str) -> None: ...

    request = job.request("a")
    assert (request.retry, request.required_labels, request.max_attempts) == (Constant(3), ("gpu",), 5)
    soon = job.with_options(delay=60, queue="slow").with_options(priority=1).request("a")
    assert (soon.delay, soon.queue, soon.priority) == (60, "slow", 1)
    assert job.request("a").queue == "images"
    changed = request.with_options(delay=60, priority=5, unique_key="dog")
    assert (changed.delay, changed.priority, changed.unique_key, changed.payload) == (60, 5, "dog", {"path": "a"})


@pytest.mark.parametrize(("layer", "sentence"), [(5, "not 5"), (Concurrency, r"call it, Concurrency\(\.\.\.\)")])
def test_what_is_no_layer_is_refused(jobs, layer, sentence):
    """Q13: a layer that could only fail at each run is found where it is written."""
    with pytest.raises(InvalidHandler, match=sentence):

        @jobs.register(layers=[layer])
        async def job() -> None: ...

    with pytest.raises(InvalidHandler, match=sentence):
        JobRegistry(layers=[layer])
    assert not jobs.kinds


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"max_attempts": 0}, {"queue": ""}, {"name": ""}, {"name": "a\n"}, {"aliases": [""]}]
)
def test_an_option_out_of_range_is_refused_at_decoration(jobs, options):
    """Q13: a bad option is found where it is written, and the handler is not registered."""
    with pytest.raises(InvalidRequest):

        @jobs.register(**{"name": "job", **options})
        async def job() -> None: ...

    assert not jobs.kinds


class Holder:
    def method(self, path: str) -> None: ...

    @staticmethod
    async def static(path: str) -> None: ...

    @classmethod
    async def of_class(cls, path: str) -> None: ...


async def unannotated(path) -> None: ...
async def any_first(path: Any) -> None: ...
async def object_first(path: object) -> None: ...
async def generic_first(path: T) -> None: ...
async def optional_first(ctx: JobCtx | None) -> None: ...
async def annotated_any_first(path: Annotated[Any, "x"]) -> None: ...
async def wrong_order(worker: WorkerContext, ctx: JobCtx) -> None: ...
async def late_context(path: str, ctx: JobCtx) -> None: ...
async def keyword_context(*, ctx: JobCtx) -> None: ...
async def keyword_only(*, path: str) -> None: ...
async def star_args(*paths: str) -> None: ...
async def star_kwargs(**options: str) -> None: ...
async def injected_by_position(path: str, db: str = injected()) -> None: ...
async def marked_only(*, db: Annotated[str, From(str)]) -> None: ...
async def for_checkers_only(price: Decimal) -> None: ...
async def generator(path: str):
    yield path


def plain_generator(path: str):
    yield path


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            unannotated,
            r"the first parameter of unannotated, 'path', is unannotated, so nobody can tell .* `path: JobCtx`",
        ),
        (any_first, r"'path', is Any, so"),
        (object_first, r"'path', is object, so"),
        (generic_first, r"'path', is ~T, so"),
        (optional_first, r"'ctx', is .*JobCtx | None, so"),
        (annotated_any_first, r"the first parameter of annotated_any_first"),
        (Holder.method, r"Holder.method is a method, and a job carries no object .* register a function"),
        (Holder().method, r"is a method"),
        (Holder.static, r"is a method"),
        (Holder.of_class, r"is a method"),
        (staticmethod(unannotated), r"is a method"),
        (Holder, r"is not a function"),
        (3, r"is not a function"),
        (wrong_order, r"\(ctx\) is a JobCtx in the wrong place: the order is JobCtx, WorkerContext"),
        (late_context, r"\(ctx\) is a JobCtx in the wrong place"),
        (keyword_context, r"keyword-only with the default `injected\(\)`"),
        (star_args, r"list the job's arguments one by one"),
        (star_kwargs, r"list the job's arguments one by one"),
        (injected_by_position, r"\(db\) is injected, so make it keyword-only: put `\*` before it"),
        (marked_only, r"\(db\) says where it comes from, so give it the default `injected\(\)`"),
        (for_checkers_only, r"'Decimal' is not defined; .* import them outside `if TYPE_CHECKING:`"),
        (generator, r"is a generator: a handler returns its result"),
        (plain_generator, r"is a generator"),
        (lambda: None, r"has no stable name: pass `name=`"),
        (partial(keyword_only, path="a"), r"has no stable name"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused_with_the_remedy(jobs, function, message):
    """Decision 14: what a job could not carry or nobody could tell apart is refused at decoration."""
    with pytest.raises(InvalidHandler, match=message):
        jobs.register(function)
    assert not jobs.kinds


def test_a_first_parameter_that_nobody_can_mistake_may_be_anything(jobs):
    """Keyword-only parameters and later ones may be untyped: no checker takes them for a context."""

    @jobs.register(name="a")
    async def a(*, anything: Any = None, unannotated=1) -> None: ...

    @jobs.register(name="b")
    async def b(ctx: JobCtx, anything: Any, unannotated=1) -> None: ...

    assert a.request(anything=[1]).payload == {"anything": [1]}
    assert b.request([1]).payload == {"anything": [1]}


def test_names_inside_of_types_may_be_for_type_checkers_only(jobs):
    """Decision 14: of an argument that is refused, of a result it stays plain JSON."""

    @dataclass
    class Order:
        total: Unheard  # noqa: F821 - as one that is imported under TYPE_CHECKING

    async def taking(order: Order) -> None: ...

    async def giving() -> Order: ...

    with pytest.raises(InvalidHandler, match="'Unheard' is not defined"):
        jobs.register(name="taking")(taking)
    assert jobs.register(name="giving")(giving).kind == "giving"


def test_a_context_may_be_annotated_further(jobs):
    """Decision 14: what stands beside the type changes nothing."""

    @jobs.register(name="job")
    async def job(ctx: Annotated[JobCtx, "the run"], path: str) -> None: ...

    assert job.contract.contexts == (JobCtx,)
    assert job.request("a").payload == {"path": "a"}


def test_a_kind_is_registered_once(jobs):
    """A second handler for a kind or alias is refused, and the first stays."""

    @jobs.register(name="job", aliases=["old"])
    async def first() -> None: ...

    for options in (
        {"name": "job"},
        {"name": "old"},
        {"name": "x", "aliases": ["job"]},
        {"name": "y", "aliases": ["y"]},
    ):
        with pytest.raises(InvalidHandler, match="there is a handler for the kind"):

            @jobs.register(**options)
            async def second() -> None: ...

    assert jobs.kinds == ("job", "old")
    assert jobs.handlers == (first,)


async def test_each_form_gets_the_contexts_that_it_asks_for(jobs, run, storage):
    """Decision 14: neither, JobCtx, WorkerContext, or both, async and sync."""

    @jobs.register(name="neither")
    async def neither(a: int) -> object:
        return a

    @jobs.register(name="job")
    async def with_job(ctx: JobCtx, a: int) -> object:
        return ctx.job_id, ctx.attempt, a

    @jobs.register(name="worker")
    async def with_worker(worker: WorkerContext, a: int) -> object:
        return worker.name, a

    @jobs.register(name="both")
    async def with_both(ctx: JobCtx, worker: WorkerContext, a: int) -> object:
        return ctx.worker is worker, a

    @jobs.register(name="sync")
    def sync(ctx: JobCtx, worker: WorkerContext, a: int) -> object:
        return ctx.worker is worker, a, threading.current_thread() is threading.main_thread()

    async with WorkerContext("mailer") as worker:
        at = Site(storage, worker)
        assert await run(neither, 1, at=at) == 1
        assert await run(with_job, 1, at=at) == ("job-1", 1, 1)
        assert await run(with_worker, 1, at=at) == ("mailer", 1)
        assert await run(with_both, 1, at=at) == (True, 1)
        assert await run(sync, 1, at=at) == (True, 1, False)
    with pytest.raises(MissingData, match="without a WorkerContext"):
        await run(with_worker, 1)


async def test_sync_handlers_run_in_the_threads_of_their_limiter(jobs, run, storage):
    """A sync handler blocks no event loop; the worker's limiter says how many run at once."""
    limiter = anyio.CapacityLimiter(1)
    busy: list[int] = []

    @jobs.register(name="job")
    def job() -> str:
        busy.append(anyio.from_thread.run_sync(lambda: limiter.borrowed_tokens))
        return variable.get()

    token = variable.set("copied")
    try:
        assert await run(job, at=Site(storage, limiter=limiter)) == "copied"
    finally:
        variable.reset(token)
    assert busy == [1]


variable: ContextVar[str] = ContextVar("variable", default="lost")


async def test_a_cancelled_thread_is_waited_for(jobs, run):
    """A sync handler cannot be stopped: the run ends with its thread, and what it did is not lost."""
    entered, leave = anyio.Event(), threading.Event()
    left: list[bool] = []

    @jobs.register(name="job")
    def job() -> None:
        anyio.from_thread.run_sync(entered.set)
        leave.wait(10)
        left.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(run, job)
        await entered.wait()
        group.cancel_scope.cancel()
        leave.set()
    assert left == [True]


async def test_a_sync_function_that_returns_an_awaitable_is_awaited(jobs, run):
    """A decorator that wraps an async function in a plain one does not lose the result."""

    async def inner(a: int) -> int:
        await anyio.lowlevel.checkpoint()
        return a

    @jobs.register(name="job")
    def job(a: int) -> Any:
        return inner(a)

    assert await run(job, 3) == 3


async def test_whatever_a_handler_raises_comes_through(jobs, run):
    """The exception of a handler is the exception of its run, untouched."""
    error = ValueError("mine")

    @jobs.register(name="job")
    async def job() -> None:
        raise error

    @jobs.register(name="sync")
    def sync() -> None:
        raise error

    for handler in (job, sync):
        with pytest.raises(ValueError, match="mine") as caught:
            await run(handler)
        assert caught.value is error


async def test_calling_a_handler_calls_its_function(jobs):
    """`handler(...)` is the plain function: nothing is enqueued, layered or injected."""

    async def refuse(request, call_next):
        raise AssertionError("a layer")

    @jobs.register(name="job", layers=[refuse])
    async def job(ctx: JobCtx, path: str, *, db: str = injected()) -> str:
        return f"{ctx} {path} {db}"

    @jobs.register(name="sync")
    def sync(a: int, b: int = 2) -> int:
        return a + b

    assert await job("ctx", "a", db="db") == "ctx a db"
    assert sync(1) == 3
    assert list(inspect.signature(sync).parameters) == ["a", "b"]
    assert sync.__name__ == "sync"
    with pytest.raises(TypeError, match=r"job\(\) needs db=: it is injected only when a job runs"):
        job("ctx", "a")


async def test_enqueue_gives_a_typed_handle(jobs):
    """`await handler.enqueue(...)` stores the job and hands back its handle."""

    @jobs.register(name="job")
    async def job(path: str) -> str: ...

    async with jobs:
        handle = await job.with_options(unique_key="one").enqueue("cat.jpg")
        again = await job.with_options(unique_key="one").enqueue("dog.jpg")
        assert (handle.deduped, again.deduped, again.id) == (False, True, handle.id)
        assert await handle.status() is JobState.QUEUED
        stored = await jobs.handle(handle.id).get()
        assert (stored.kind, stored.payload) == ("job", {"path": "cat.jpg"})
        assert await handle.cancel()
        assert await handle.status() is JobState.CANCELLED


async def test_a_handle_restores_the_type_of_the_result(jobs):
    """The result of a typed handle is what the handler returned, not its JSON."""

    @jobs.register(name="job")
    async def job() -> timedelta: ...

    async with jobs:
        handle = await job.enqueue()
        claimed = await jobs.storage.jobs.claim("worker")
        assert claimed is not None
        await jobs.storage.jobs.complete(claimed[1].id, "PT3S")
        assert await handle.result(timeout=10) == timedelta(seconds=3)
        assert await jobs.handle(handle.id).result(timeout=10) == "PT3S"


@pytest.mark.parametrize(
    ("annotation", "stored", "found"),
    [
        (dict[int, str], {3: "abc"}, {3: "abc"}),
        (int, "three", "three"),
        (list[timedelta], ["PT3S", "soon"], ["PT3S", "soon"]),
    ],
)
async def test_a_result_that_does_not_fit_its_annotation_stays_as_it_is(jobs, annotation, stored, found):
    """A job that succeeded has a result: layers may have changed it, and annotations may be wrong."""

    async def job(): ...

    job.__annotations__["return"] = annotation
    handler = jobs.register(name="job")(job)
    async with jobs:
        handle = await handler.enqueue()
        claimed = await jobs.storage.jobs.claim("worker")
        assert claimed is not None
        await jobs.storage.jobs.complete(claimed[1].id, stored)
        assert await handle.result(timeout=10) == found


async def test_one_run_reads_no_signature_and_builds_no_decoder(jobs, site, monkeypatch):
    """A run costs its decoding and its call: everything else was compiled at decoration."""
    import msgspec

    @jobs.register(name="job")
    async def job(ctx: JobCtx, path: str) -> str:
        return path

    for owner, name in ((inspect, "signature"), (msgspec.json, "Decoder"), (msgspec, "defstruct")):
        monkeypatch.setattr(owner, name, None)
    coroutine = job.run(JobCtx(QueuedJob(id="1", kind="job", payload_json=b'{"path":"a"}'), site))
    assert inspect.iscoroutine(coroutine)
    assert coroutine.cr_code is job.__wrapped__.__code__
    coroutine.close()
