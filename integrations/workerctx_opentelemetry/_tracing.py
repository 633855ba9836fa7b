"""`JobTracing`: the layer around each run and the hook around each enqueueing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, NoOpTracer, NoOpTracerProvider, ProxyTracerProvider, SpanKind, Status, StatusCode

import workerctx
from workerctx.service import JobCtx
from workerctx.service.describe import describe
from workerctx_opentelemetry._attributes import of_requests, of_run
from workerctx_opentelemetry._outcome import outcome_of_run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from workerctx import EnqueueOutcome, EnqueueRequest
    from workerctx.queue import JobError
    from workerctx.service import Request, SendRequests
    from workerctx.service.layers import Next


class JobTracing:
    """Makes spans of enqueueings and runs: ``JobRegistry(url, layers=[tracing], on_enqueue=tracing.on_enqueue)``.

    A span of kind PRODUCER is around each enqueueing, and its context goes into the headers of the jobs, as the global
    propagators of OpenTelemetry write it. A span of kind CONSUMER is around each run, the current one while the handler
    runs, with baggage as it was at the enqueueing. The attributes follow the semantic conventions for messaging. Inside
    of a `Retry` there is a span for each try.

    While no tracer provider is configured there are no spans and no headers.

    Args:
        tracer_provider: makes the tracer; by default the global one, as soon as there is one.
        continue_trace: whether a run belongs to the trace of its enqueueing. By default it begins a trace of its own
            with a link to there, since jobs can wait for days and run again.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, *, continue_trace: bool = False) -> None:
        self._given = tracer_provider
        self._continue = continue_trace
        self._asked: TracerProvider | None = None
        self._tracer: Tracer | None = None

    def __call__(self, request: Request, call_next: Next) -> Awaitable[Any]:
        """Run what is inside, in a span; the layer."""
        tracer = self._find_tracer()
        ctx = None if tracer is None else request.data.get(JobCtx)
        if tracer is None or ctx is None:
            return call_next(request)
        return self._run(tracer, ctx, request, call_next)

    def on_enqueue(self, requests: Sequence[EnqueueRequest], send: SendRequests) -> Awaitable[Sequence[EnqueueOutcome]]:
        """Add jobs, in a span that their headers carry; the hook."""
        tracer = self._find_tracer()
        if tracer is None or not requests:
            return send(requests)
        return self._send(tracer, requests, send)

    def _find_tracer(self) -> Tracer | None:
        """Return a tracer, or None while tracing is off."""
        provider = self._given or trace.get_tracer_provider()
        if provider is not self._asked:
            off = isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider))
            tracer = None if off else provider.get_tracer("workerctx", workerctx.__version__)
            self._tracer = None if isinstance(tracer, NoOpTracer) else tracer
            self._asked = provider
        return self._tracer

    async def _send(
        self, tracer: Tracer, requests: Sequence[EnqueueRequest], send: SendRequests
    ) -> Sequence[EnqueueOutcome]:
        name, attributes = of_requests(requests)
        producer = tracer.start_as_current_span(
            name, kind=SpanKind.PRODUCER, attributes=attributes, record_exception=False, set_status_on_exception=False
        )
        with producer as span:
            headers: dict[str, str] = {}
            propagate.inject(headers)
            try:
                outcomes = await send([each.with_options(headers=each.headers | headers) for each in requests])
            except Exception as exc:
                _record(span, describe(exc))
                raise
            if len(outcomes) == 1 and span.is_recording():
                span.set_attribute("messaging.message.id", outcomes[0].id)
                span.set_attribute("workerctx.job.deduped", outcomes[0].deduped)
            return outcomes

    async def _run(self, tracer: Tracer, ctx: JobCtx, request: Request, call_next: Next) -> Any:
        carried = propagate.extract(ctx.job.headers, context.Context())
        span, around = self._begin(tracer, ctx, request, carried)
        token = context.attach(around)
        try:
            output = await call_next(request)
        except BaseException as exc:
            _conclude(span, ctx, None, exc)
            raise
        else:
            _conclude(span, ctx, output, None)
            return output
        finally:
            context.detach(token)
            span.end()

    def _begin(self, tracer: Tracer, ctx: JobCtx, request: Request, carried: Context) -> tuple[Span, Context]:
        """Start the span of a run; return it, and the context in which the handler runs."""
        enqueued = trace.get_current_span(carried).get_span_context()
        links: list[Link] = []
        if not self._continue:
            if enqueued.is_valid:
                links.append(Link(enqueued))
            carried = trace.set_span_in_context(trace.INVALID_SPAN, carried)
        name, attributes = of_run(ctx, request)
        span = tracer.start_span(name, carried, SpanKind.CONSUMER, attributes, links)
        return span, trace.set_span_in_context(span, carried)


def _conclude(span: Span, ctx: JobCtx, output: object, error: BaseException | None) -> None:
    if not span.is_recording():
        return
    outcome, failure = outcome_of_run(ctx, output, error)
    span.set_attribute("workerctx.job.outcome", outcome.value)
    if failure is not None:
        _record(span, failure)


def _record(span: Span, error: JobError) -> None:
    """Note a failure as a store keeps it, which an exception that cannot be printed does not prevent."""
    shown = {"exception.type": error.kind, "exception.message": error.message}
    if error.traceback is not None:
        shown["exception.stacktrace"] = error.traceback
    span.set_attribute("error.type", error.kind)
    span.add_event("exception", shown)
    span.set_status(Status(StatusCode.ERROR, str(error)))
