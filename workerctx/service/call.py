"""From a job to its output: decode, go through the layers, inject, call. Compiled once per handler."""

from __future__ import annotations

import inspect
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anyio import to_thread

from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.queue import QueuedJob
from workerctx.service.inside import run_inside
from workerctx.service.jobctx import JobCtx
from workerctx.service.layers.base import wrap
from workerctx.service.process import run_in_process
from workerctx.service.request import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from workerctx.service.extract import Plan
    from workerctx.service.layers.base import Layer, Next
    from workerctx.service.signature import Contract

Run: TypeAlias = "Callable[[JobCtx], Awaitable[Any]]"
"""Runs one job and returns the handler's output; what the payload does not fit raises at once."""

_VERDICTS: Final = (Abort, RetryAfter, Snooze, Throttled)

_Invoke: TypeAlias = "Callable[[JobCtx, tuple[Any, ...], dict[str, Any]], Awaitable[Any]]"


def compile_run(contract: Contract, kind: str, layers: Sequence[Layer]) -> Run:
    """Compile how jobs of a handler run.

    A handler without layers and injection costs its call and the decoding, nothing else.

    Args:
        contract: The handler's signature.
        kind: Its stable name.
        layers: The first is outermost.
    """
    decode = contract.payload.decode
    if contract.target is not None and not layers:
        return lambda ctx: _in_process(contract, ctx, ctx.job.payload_json)
    invoke = _encoding(contract) if contract.target is not None else _invoke(contract)
    if not layers and contract.plan is None:
        return lambda ctx: invoke(ctx, *decode(ctx.job.payload_json))
    endpoint = _endpoint(invoke, contract.plan)
    call = wrap(layers, _raising(endpoint)) if layers else endpoint

    def run(ctx: JobCtx) -> Awaitable[Any]:
        args, kwargs = decode(ctx.job.payload_json)
        data = ctx.site.common.extended({JobCtx: ctx, QueuedJob: ctx.job})
        return call(Request(kind, data, args, kwargs))

    return run


def _invoke(contract: Contract) -> _Invoke:
    function = contract.function
    call: _Invoke
    match contract.contexts:
        case ():
            call = lambda _, args, kwargs: function(*args, **kwargs)  # noqa: E731 - four forms of one expression
        case (only,) if only is JobCtx:
            call = lambda ctx, args, kwargs: function(ctx, *args, **kwargs)  # noqa: E731
        case (_,):
            call = lambda ctx, args, kwargs: function(ctx.worker, *args, **kwargs)  # noqa: E731
        case _:
            call = lambda ctx, args, kwargs: function(ctx, ctx.worker, *args, **kwargs)  # noqa: E731
    return call if contract.is_async else _in_thread(call)


def _in_thread(call: Callable[[JobCtx, tuple[Any, ...], dict[str, Any]], Any]) -> _Invoke:
    async def invoke(ctx: JobCtx, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A thread cannot be stopped, so the run ends with it and not before; JobCtx.cancel tells it to hurry. The
        # output is boxed because trio refuses a bare coroutine from a thread, and so is GeneratorExit, with which
        # asyncio would close every coroutine that waits for the thread.
        def boxed() -> tuple[Any, GeneratorExit | None]:
            ctx.thread_id = threading.get_ident()
            try:
                return call(ctx, args, kwargs), None
            except GeneratorExit as exc:
                return None, exc
            finally:
                ctx.thread_id = None

        output, left = await to_thread.run_sync(boxed, abandon_on_cancel=False, limiter=ctx.site.limiter)
        if left is not None:
            raise left
        return await output if inspect.isawaitable(output) else output

    return invoke


async def _in_process(contract: Contract, ctx: JobCtx, payload: bytes) -> Any:
    return contract.result.decode(await run_in_process(ctx, contract, payload))


def _encoding(contract: Contract) -> _Invoke:
    """Call a handler in its process with what the layers left of its arguments."""
    return lambda ctx, args, kwargs: _in_process(contract, ctx, contract.payload.encode(args, kwargs))


def _endpoint(invoke: _Invoke, plan: Plan | None) -> Next:
    if plan is None:
        return lambda request: invoke(request.data.require(JobCtx), request.args, request.kwargs)
    return _entering(invoke, plan) if plan.opens else _filling(invoke, plan)


def _filling(invoke: _Invoke, plan: Plan) -> Next:
    async def endpoint(request: Request) -> Any:
        given = await plan.fill(request)
        return await invoke(request.data.require(JobCtx), request.args, request.kwargs | given)

    return endpoint


def _entering(invoke: _Invoke, plan: Plan) -> Next:
    async def endpoint(request: Request) -> Any:
        stack = AsyncExitStack()

        async def call() -> Any:
            given = await plan.fill(request, stack)
            return await invoke(request.data.require(JobCtx), request.args, request.kwargs | given)

        return await run_inside(stack, call)

    return endpoint


def _raising(endpoint: Next) -> Next:
    """Raise what a handler may return as well as raise, so that layers meet it in one form."""

    async def call(request: Request) -> Any:
        output = await endpoint(request)
        if isinstance(output, _VERDICTS):
            raise output
        return output

    return call
