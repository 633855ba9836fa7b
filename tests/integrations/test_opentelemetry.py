"""Traces of real loops, as the exporter of the SDK gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, TraceFlags

from workerctx import JobCtx, JobRegistry, WorkerConfig, WorkerLoop
from workerctx.errors import Abort, InvalidRequest, RetryAfter, Snooze, Throttled
from workerctx.queue import Constant, EnqueueRequest
from workerctx.runtime import JobFinished
from workerctx.service.layers import Retry
from workerctx_opentelemetry import JobTracing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Where ended spans are."""
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    """A tracer provider of the SDK."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
def tracing(provider: TracerProvider) -> JobTracing:
    """Tracing that is on."""
    return JobTracing(provider)


@pytest.fixture
def registry(url: str) -> Callable[..., JobRegistry]:
    """Make a registry that is traced."""

    def make(tracing: JobTracing, **options: Any) -> JobRegistry:
        return JobRegistry(url, layers=[tracing], on_enqueue=tracing.on_enqueue, **options)

    return make


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[..., Sequence[ReadableSpan]]:
    """The spans that ended, by kind, in the order in which they began."""

    def spans(kind: SpanKind) -> Sequence[ReadableSpan]:
        found = [span for span in exporter.get_finished_spans() if span.kind is kind]
        return sorted(found, key=lambda span: span.start_time or 0)

    return spans


async def burst(jobs: JobRegistry, hurried: WorkerConfig) -> None:
    """Run what is there."""
    with anyio.fail_after(20):
        await WorkerLoop(jobs, hurried, name="mill").run(burst=True)


async def test_a_run_is_linked_to_its_enqueueing(
    registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig
) -> None:
    """The header carries the producer's context; the consumer begins a trace of its own that links to it."""
    jobs = registry(tracing)

    @jobs.register(name="resize")
    async def resize(path: str) -> None: ...

    async with jobs:
        handle = await resize.with_options(workflow_id="album", tenant_id="ann").enqueue("cat.jpg")
        job = await jobs.storage.jobs.get(handle.id)
        await burst(jobs, hurried)
    (sent,), (ran,) = spans(SpanKind.PRODUCER), spans(SpanKind.CONSUMER)
    context_of = sent.get_span_context()
    assert job.headers["traceparent"] == (
        f"00-{context_of.trace_id:032x}-{context_of.span_id:016x}-{context_of.trace_flags:02x}"
    )
    assert sent.name == "send resize"
    assert dict(sent.attributes) == {
        "messaging.system": "workerctx",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "workerctx.job.kind": "resize",
        "workerctx.job.deduped": False,
    }
    assert ran.name == "process resize"
    assert dict(ran.attributes) == {
        "messaging.system": "workerctx",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "default",
        "messaging.message.id": handle.id,
        "messaging.client.id": "mill",
        "workerctx.job.kind": "resize",
        "workerctx.job.attempt": 1,
        "workerctx.job.max_attempts": 5,
        "workerctx.job.outcome": "succeeded",
        "workerctx.workflow.id": "album",
        "workerctx.tenant.id": "ann",
    }
    assert ran.parent is None
    assert ran.get_span_context().trace_id != context_of.trace_id
    assert [link.context.span_id for link in ran.links] == [context_of.span_id]
    assert ran.status.status_code is StatusCode.UNSET


async def test_a_run_can_belong_to_the_trace_of_its_enqueueing(
    registry: Any, provider: TracerProvider, spans: Any, hurried: WorkerConfig
) -> None:
    """With `continue_trace` the run is a child of the enqueueing, which is a child of what was current there."""
    jobs = registry(JobTracing(provider, continue_trace=True))

    @jobs.register
    async def work() -> None: ...

    async with jobs:
        with provider.get_tracer("web").start_as_current_span("request") as request:
            await work.enqueue()
        await burst(jobs, hurried)
    (sent,), (ran,) = spans(SpanKind.PRODUCER), spans(SpanKind.CONSUMER)
    assert sent.parent.span_id == request.get_span_context().span_id
    assert ran.parent.span_id == sent.get_span_context().span_id
    assert not ran.links


async def test_the_span_is_current_in_the_handler_and_nowhere_else(
    registry: Any, tracing: JobTracing, provider: TracerProvider, spans: Any, hurried: WorkerConfig
) -> None:
    """Spans of async and of threaded handlers are children of the run; nothing of it reaches the next job."""
    jobs = registry(tracing)
    tracer = provider.get_tracer("app")
    seen: list[Any] = []

    @jobs.register(name="coroutine")
    async def coroutine() -> None:
        await anyio.lowlevel.checkpoint()
        with tracer.start_as_current_span("inside coroutine"):
            seen.append(baggage.get_baggage("who"))

    @jobs.register(name="thread")
    def thread() -> None:
        with tracer.start_as_current_span("inside thread"):
            seen.append(baggage.get_baggage("who"))

    async with jobs:
        token = context.attach(baggage.set_baggage("who", "ann"))
        await coroutine.enqueue()
        context.detach(token)
        await thread.enqueue()
        with tracer.start_as_current_span("around the loop"):
            await burst(jobs, hurried.with_options(concurrency=1))
    runs = {span.name.removeprefix("process "): span for span in spans(SpanKind.CONSUMER)}
    inner = {span.name.removeprefix("inside "): span for span in spans(SpanKind.INTERNAL) if span.parent is not None}
    assert seen == ["ann", None]
    assert {name: inner[name].parent.span_id for name in runs} == {
        name: runs[name].get_span_context().span_id for name in runs
    }
    assert not trace.get_current_span().get_span_context().is_valid


async def test_each_end_of_a_run_has_an_outcome_and_failures_a_status(
    registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig
) -> None:
    """Failures are recorded with their exception; a snooze or a limit is none."""
    ends: dict[str, Any] = {
        "failed": KeyError("lost"),
        "dead": Abort("no use"),
        "snoozed": Snooze(3600),
        "throttled": Throttled(3600),
    }
    jobs = registry(tracing)

    @jobs.register(retry=Constant(base=3600, jitter=False))
    async def work(end: str) -> None:
        raise ends[end]

    async with jobs:
        handles = {(await work.enqueue(end)).id: end for end in ends}
        await burst(jobs, hurried)
    ran = {handles[span.attributes["messaging.message.id"]]: span for span in spans(SpanKind.CONSUMER)}
    assert {end: span.attributes["workerctx.job.outcome"] for end, span in ran.items()} == {end: end for end in ends}
    failed = {end for end, span in ran.items() if span.status.status_code is StatusCode.ERROR}
    assert failed == {"failed", "dead"}
    assert ran["failed"].attributes["error.type"] == "KeyError"
    assert [event.name for event in ran["failed"].events] == ["exception"]
    assert not ran["snoozed"].events


async def test_a_failure_that_cannot_be_printed_is_the_same_with_tracing(
    registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig
) -> None:
    """W7: tracing changes nothing about how a job fails, and its span ends whatever it failed with."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    jobs = registry(tracing)

    @jobs.register(max_attempts=1)
    async def work() -> None:
        raise Mute

    async with jobs:
        handle = await work.enqueue()
        await burst(jobs, hurried)
        stored = (await jobs.storage.jobs.get(handle.id)).error
    (ran,) = spans(SpanKind.CONSUMER)
    assert stored.kind == ran.attributes["error.type"] == Mute.__qualname__
    assert stored.message == ran.events[0].attributes["exception.message"]


@pytest.mark.parametrize("word", [Snooze(60), Throttled(60), None])
async def test_the_outcome_is_also_that_of_a_returned_verdict(
    word: Any, registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig
) -> None:
    """W7: what a handler returns can say how the job goes on."""
    jobs = registry(tracing)
    told: list[str] = []

    @jobs.register
    async def work() -> Any:
        return word

    async with jobs:
        await work.enqueue()
        loop = WorkerLoop(jobs, hurried)
        loop.context.listen(lambda _, event: told.append(event.outcome.value), JobFinished)
        await loop.run(burst=True)
    (ran,) = spans(SpanKind.CONSUMER)
    assert [ran.attributes["workerctx.job.outcome"]] == told


@pytest.mark.parametrize("how", ["user", "stop", "timeout"])
@pytest.mark.parametrize("last_words", [ConnectionError("in the cleanup"), Snooze(60), Abort("no use")])
async def test_the_outcome_of_a_cancelled_run_is_that_of_its_loop(
    how: str,
    last_words: Exception,
    registry: Any,
    tracing: JobTracing,
    spans: Any,
    hurried: WorkerConfig,
    eventually: Any,
) -> None:
    """W7: whatever a handler raises while it is cancelled, the span says of the job what its loop says."""
    jobs = registry(tracing)
    told: list[str] = []

    @jobs.register(timeout=0.2 if how == "timeout" else None)
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise last_words

    async with jobs:
        handle = await work.enqueue()
        loop = WorkerLoop(jobs, hurried.with_options(grace=0))
        loop.context.listen(lambda _, event: told.append(event.outcome.value), JobFinished)
        with anyio.fail_after(20):
            async with loop:
                await eventually(lambda: loop.in_flight == 1)
                if how == "user":
                    await handle.cancel()
                if how != "stop":
                    await eventually(lambda: told)
    (ran,) = spans(SpanKind.CONSUMER)
    assert [ran.attributes["workerctx.job.outcome"]] == told
    assert (ran.status.status_code is StatusCode.ERROR) == (told[0] in {"failed", "dead"})


async def test_each_attempt_is_a_run(registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig) -> None:
    """Q3: runs of one job have its id, count attempts, and link to the same enqueueing; the last failure is dead."""
    jobs = registry(tracing)

    @jobs.register(max_attempts=2)
    async def work() -> None:
        raise RetryAfter(0)

    async with jobs:
        await work.enqueue()
        await burst(jobs, hurried)
    first, second = spans(SpanKind.CONSUMER)
    assert [span.attributes["workerctx.job.attempt"] for span in (first, second)] == [1, 2]
    assert [span.attributes["workerctx.job.outcome"] for span in (first, second)] == ["failed", "dead"]
    assert first.links[0].context == second.links[0].context


async def test_inside_of_a_retry_each_try_has_a_span(
    url: str, tracing: JobTracing, spans: Any, hurried: WorkerConfig
) -> None:
    """Tries within a run are told apart by their number."""
    jobs = JobRegistry(url, layers=[Retry(2, Constant(base=0, jitter=False)), tracing])
    tries = 0

    @jobs.register
    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise KeyError(tries)

    async with jobs:
        await work.enqueue()
        await burst(jobs, hurried)
    assert [span.attributes["workerctx.job.try"] for span in spans(SpanKind.CONSUMER)] == [1, 2, 3]


@pytest.mark.parametrize("how", ["user", "timeout", "stop", "lease"])
async def test_a_run_that_is_cut_off(
    how: str, registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig, eventually: Any
) -> None:
    """W7: the outcome tells a cancelled job, a timeout, a job that goes back and one that was lost apart."""
    jobs = registry(tracing)

    @jobs.register(timeout=0.2 if how == "timeout" else None, max_attempts=1)
    async def endless(ctx: JobCtx) -> None:
        await anyio.sleep_forever()

    async with jobs:
        handle = await endless.enqueue()
        loop = WorkerLoop(jobs, hurried.with_options(grace=0))
        with anyio.fail_after(20):
            async with loop:
                await eventually(lambda: loop.in_flight == 1)
                if how == "user":
                    await handle.cancel()
                elif how == "lease":
                    await jobs.storage.advance(3600)
                    await jobs.storage.jobs.reap_expired_leases()
                if how != "stop":
                    await eventually(lambda: spans(SpanKind.CONSUMER))
    (ran,) = spans(SpanKind.CONSUMER)
    outcomes = {"user": "cancelled", "timeout": "dead", "stop": "released", "lease": "lost"}
    assert ran.attributes["workerctx.job.outcome"] == outcomes[how]
    assert (ran.status.status_code is StatusCode.ERROR) == (how == "timeout")


async def test_a_batch_is_one_span(registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig) -> None:
    """Q9: jobs of one transaction share a producer; each run links to it."""
    jobs = registry(tracing)

    @jobs.register(name="one")
    async def one() -> None: ...

    @jobs.register(name="two", queue="elsewhere")
    async def two() -> None: ...

    async with jobs:
        assert list(await jobs.enqueue_bulk([])) == []
        await jobs.enqueue_bulk([one.request(), one.request()])
        outcomes = await jobs.enqueue_bulk([one.request(), two.request()])
        assert [(await jobs.storage.jobs.get(outcome.id)).kind for outcome in outcomes] == ["one", "two"]
        await burst(jobs, hurried.with_options(queues=["default", "elsewhere"]))
    same, mixed = spans(SpanKind.PRODUCER)
    assert (same.name, mixed.name) == ("send one", "send jobs")
    assert same.attributes["messaging.batch.message_count"] == 2
    assert "messaging.destination.name" not in mixed.attributes
    links = [span.links[0].context.span_id for span in spans(SpanKind.CONSUMER)]
    assert sorted(links) == sorted([same.context.span_id] * 2 + [mixed.context.span_id] * 2)


async def test_jobs_of_jobs_follow_from_the_run_that_enqueued_them(
    registry: Any, tracing: JobTracing, spans: Any, hurried: WorkerConfig
) -> None:
    """W7: what a handler enqueues, async or from its thread, has a producer inside of its run."""
    jobs = registry(tracing)

    @jobs.register(name="leaf")
    async def leaf(number: int) -> None: ...

    @jobs.register(name="parent")
    async def parent(ctx: JobCtx) -> None:
        await ctx.enqueue(leaf.request(1))
        await leaf.enqueue(2)

    @jobs.register(name="threaded")
    def threaded(ctx: JobCtx) -> None:
        ctx.sync.enqueue_bulk([leaf.request(3), leaf.request(4)])
        jobs.sync.enqueue(leaf.request(5))

    async with jobs:
        await parent.enqueue()
        await threaded.enqueue()
        await burst(jobs, hurried)
    runs = {span.name: span for span in spans(SpanKind.CONSUMER)}
    parents = [span.parent.span_id for span in spans(SpanKind.PRODUCER) if span.parent is not None]
    assert sorted(parents) == sorted(
        [runs["process parent"].context.span_id] * 2 + [runs["process threaded"].context.span_id] * 2
    )
    assert sum(span.name == "process leaf" for span in spans(SpanKind.CONSUMER)) == 5
    assert all(span.links for span in spans(SpanKind.CONSUMER))


async def test_an_enqueueing_that_is_refused_is_an_error(registry: Any, tracing: JobTracing, spans: Any) -> None:
    """Q13: the producer's span says what was wrong, and the caller gets the exception."""
    jobs = registry(tracing)

    @jobs.register
    async def work() -> None: ...

    async with jobs:
        with pytest.raises(InvalidRequest):
            await jobs.enqueue(EnqueueRequest("work", depends_on=["nobody"]))
    (sent,) = spans(SpanKind.PRODUCER)
    assert sent.status.status_code is StatusCode.ERROR
    assert sent.attributes["error.type"] == "InvalidRequest"
    assert [event.name for event in sent.events] == ["exception"]


async def test_headers_of_the_caller_stay(registry: Any, tracing: JobTracing, spans: Any) -> None:
    """Other headers travel along."""
    jobs = registry(tracing)

    @jobs.register
    async def work() -> None: ...

    async with jobs:
        handle = await work.with_options(headers={"shop": "berlin"}).enqueue()
        headers = (await jobs.storage.jobs.get(handle.id)).headers
    assert headers.keys() == {"shop", "traceparent"}


async def test_a_trace_that_is_not_sampled_stays_so(
    registry: Any, exporter: InMemorySpanExporter, hurried: WorkerConfig
) -> None:
    """The decision not to sample travels in the header."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    jobs = registry(JobTracing(provider))

    @jobs.register
    async def work() -> None: ...

    async with jobs:
        handle = await work.enqueue()
        flags = (await jobs.storage.jobs.get(handle.id)).headers["traceparent"].rpartition("-")[2]
        assert not int(flags, 16) & TraceFlags.SAMPLED
        await burst(jobs, hurried)
        assert await handle.result() is None
    assert not exporter.get_finished_spans()


async def test_a_run_without_a_header_begins_a_trace(
    url: str, tracing: JobTracing, spans: Any, hurried: WorkerConfig
) -> None:
    """Jobs of a producer that traces nothing, or that sends nonsense, have spans without links."""
    jobs = JobRegistry(url, layers=[tracing])

    @jobs.register
    async def work() -> None: ...

    async with jobs:
        await work.enqueue()
        await work.with_options(headers={"traceparent": "nonsense"}).enqueue()
        await burst(jobs, hurried)
    assert [(span.parent, len(span.links)) for span in spans(SpanKind.CONSUMER)] == [(None, 0)] * 2


@pytest.mark.parametrize("off", [None, NoOpTracerProvider(), "disabled"])
async def test_nothing_is_done_while_tracing_is_off(
    off: Any, registry: Any, hurried: WorkerConfig, monkeypatch: Any
) -> None:
    """Without a provider, with one that does nothing, or with the SDK disabled: no header, no span, no tracer call."""
    if off == "disabled":
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        off = TracerProvider(shutdown_on_exit=False)
    tracing = JobTracing(off)
    current: list[Any] = []
    jobs = registry(tracing)

    @jobs.register
    async def work() -> None:
        current.append(trace.get_current_span())

    def forbidden(*args: Any, **options: Any) -> None:
        raise AssertionError("a span was made")

    for name in ("start_span", "start_as_current_span"):
        monkeypatch.setattr(trace.NoOpTracer, name, forbidden)
        monkeypatch.setattr(trace.ProxyTracer, name, forbidden)
    async with jobs:
        handle = await work.enqueue()
        assert (await jobs.storage.jobs.get(handle.id)).headers == {}
        await burst(jobs, hurried)
        assert await handle.result() is None
    assert current == [trace.INVALID_SPAN]


def test_a_provider_that_comes_later_is_noticed(program: Any) -> None:
    """The global provider may be set after the registry was made, and after jobs were enqueued."""
    code = """
import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from workerctx import JobRegistry
from workerctx_opentelemetry import JobTracing

tracing = JobTracing()
jobs = JobRegistry("memory://", layers=[tracing], on_enqueue=tracing.on_enqueue)

@jobs.register
async def work(): ...

async def main():
    async with jobs:
        for _ in range(2):
            print(sorted((await jobs.storage.jobs.get((await work.enqueue()).id)).headers))
            trace.set_tracer_provider(TracerProvider())

anyio.run(main)
"""
    printed = program(code)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.splitlines() == ["[]", "['traceparent']"]


def test_the_extra_is_named(program: Any) -> None:
    """Without OpenTelemetry the import says what to install."""
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'opentelemetry' else real(name, *a)\n"
        "import workerctx_opentelemetry"
    )
    failed = program(code)
    last = failed.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: workerctx_opentelemetry needs the 'opentelemetry' extra: pip install 'workerctx[opentelemetry]'"
    )
