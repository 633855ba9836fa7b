"""Layers for type checkers: what can be put around a handler, and what their functions look like. Read, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, assert_type

from workerctx.queue import Constant, EnqueueRequest
from workerctx.service import JobCtx, JobRegistry, Request, injected
from workerctx.service.layers import (
    Ack,
    Catch,
    CircuitBreaker,
    CircuitState,
    ClusterRateLimit,
    Concurrency,
    Filter,
    Layer,
    LoadShed,
    LocalRateLimit,
    LongRunning,
    MapError,
    MapRequest,
    MapResponse,
    Next,
    Operations,
    Retry,
    Tenant,
    Timeout,
    Trace,
    Try,
    by_kind,
    by_tenant,
)


@asynccontextmanager
async def tenant_scope(tenant_id: str) -> AsyncGenerator[str]:
    yield tenant_id


async def acknowledge(request: Request, output: Any, error: Exception | None) -> None: ...


async def is_allowed(request: Request) -> bool:
    return bool(request.args)


async def plain(request: Request, call_next: Next) -> Any:
    return await call_next(request)


breaker = CircuitBreaker(3, 10.0, by=by_kind, counts=lambda error: isinstance(error, OSError))
assert_type(breaker.state("resize"), CircuitState)

LAYERS: list[Layer] = [
    plain,
    LoadShed(100, max_lag=0.5),
    LocalRateLimit(10, 1, by=by_tenant),
    ClusterRateLimit("github"),
    ClusterRateLimit(lambda request: f"host {request.kwargs['host']}", amount=2),
    Concurrency(3, by=lambda request: request.kwargs["host"]),
    breaker,
    Tenant(tenant_scope),
    Ack(acknowledge),
    Filter(is_allowed),
    Filter(lambda request: bool(request.kwargs)),
    MapRequest(lambda request: request),
    MapResponse(str),
    MapError(lambda error: ValueError(str(error))),
    Retry(3, Constant(base=1), retry_if=lambda error: isinstance(error, OSError)),
    Timeout(10),
    Trace(),
    Catch(lambda _, error: OSError(repr(error))),
    LongRunning(60),
]

Concurrency("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Retry(retry_if=lambda: True)  # type: ignore[misc, arg-type]  # pyright: ignore[reportArgumentType]

jobs = JobRegistry(layers=LAYERS)


async def length(text: str) -> int:
    return len(text)


@jobs.register(layers=[LongRunning(), Retry()])
async def resize(ctx: JobCtx, path: str, *, operations: Operations = injected(), this: Try = injected()) -> int:
    operation = operations.start(length, path, name="length")
    ctx.heartbeat({"try": this.number})
    assert_type(await ctx.sleep(1), bool)
    assert_type(await operation.result(), int)
    return await operation


request: EnqueueRequest = resize.request("cat.jpg")
assert_type(request.queue, str)
assert_type(request.pinned_queue, str | None)
assert_type(EnqueueRequest("resize", queue="images"), EnqueueRequest)
