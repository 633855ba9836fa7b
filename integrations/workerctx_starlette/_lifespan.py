"""`worker_lifespan`: a context that lives as long as the application runs."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack

import anyio
from attrs import define, field

from workerctx.errors import WorkerError
from workerctx.lifecycle import Outcome, WorkerContext
from workerctx_starlette._signals import Chain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from datetime import timedelta

    from anyio.abc import TaskStatus

    from workerctx.lifecycle import Shutdown

_log = logging.getLogger("workerctx")

Lifespan: TypeAlias = "Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]"
"""What Starlette takes as a lifespan: called with the application, it yields what goes into the state."""


class WorkerOptions(TypedDict, total=False):
    """The options of `WorkerContext`."""

    grace: float | timedelta | None
    max_tasks: int | None
    service: str | None
    shutdown: Shutdown | None


def worker_lifespan(
    worker: str | Callable[[], WorkerContext] | WorkerContext = "worker",
    /,
    *,
    signals: Literal["chain"] | None = None,
    **options: Unpack[WorkerOptions],
) -> WorkerLifespan:
    """Make a lifespan that runs a context and puts it into the state under its name.

    The context starts with the application. When the server shuts the application down, it is stopped and drained. If
    it fails meanwhile, that is logged at once, ``/livez`` says so, and the shutdown of the application raises it.

    Args:
        worker: a name or a factory, from which each start-up makes a new context; or a context, which lives once.
        signals: ``"chain"`` to stop the context as soon as the process gets SIGTERM or SIGINT, and only then call the
            handler that was there, which is the server's. Only in the main thread, where signals arrive.
        options: those of `WorkerContext`, with a name.

    Raises:
        TypeError: options were given beside a factory or a context.
        ValueError: an option has a value that it cannot have.
    """
    if signals not in {None, "chain"}:
        raise ValueError(f"signals must be 'chain' or None, not {signals!r}")
    if isinstance(worker, str):
        WorkerContext(worker, **options)  # refuses bad options here, where they were written
        return WorkerLifespan(lambda: WorkerContext(worker, **options), chain=signals == "chain")
    if options:
        raise TypeError(
            f"worker_lifespan({worker!r}) takes no {', '.join(options)}: give options to the context itself, or give a"
            " name here"
        )
    if isinstance(worker, WorkerContext):
        return WorkerLifespan(lambda: worker, chain=signals == "chain")
    if not callable(worker):
        raise TypeError(f"worker_lifespan() takes a name, a factory or a WorkerContext, not {worker!r}")
    return WorkerLifespan(worker, chain=signals == "chain")


def combine_lifespans(
    *lifespans: Lifespan,
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Make one lifespan of several: they start in this order, stop in reverse, and share the state.

    Raises:
        WorkerError: at start-up, if two of them put something under the same name.
    """

    @asynccontextmanager
    async def combined(app: object) -> AsyncGenerator[Mapping[str, Any]]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for lifespan in lifespans:
                yielded = await stack.enter_async_context(lifespan(app)) or {}
                if taken := sorted(state.keys() & yielded.keys()):
                    raise WorkerError(
                        f"two lifespans put {', '.join(map(repr, taken))} into the state: give the workers different"
                        " names"
                    )
                state |= yielded
            yield state

    return combined


@define(eq=False)
class WorkerLifespan:
    """What `worker_lifespan` makes; give it to an application as its ``lifespan``.

    Called with an application it returns an async context manager, so that a lifespan of your own can enter it.
    """

    _make: Callable[[], WorkerContext]
    _chain: bool = field(alias="chain")
    _served: WorkerContext | None = field(default=None, init=False)

    @asynccontextmanager
    async def __call__(self, app: object = None) -> AsyncGenerator[Mapping[str, WorkerContext]]:  # noqa: ARG002 - the shape of a lifespan
        """Run the context for one run of the application."""
        context = self._next()
        chain = Chain(context)
        failure: Exception | None = None
        with chain.in_front() if self._chain else nullcontext():
            # The context lives in a task of its own: at the deadline it cancels its body, and a lifespan that ends
            # before the server asks for it is an error to some servers.
            async with anyio.create_task_group() as tasks:
                try:
                    await tasks.start(_live, context, chain)
                except Exception as exc:  # noqa: BLE001 - raised below, outside of the task group, which would wrap it
                    failure = exc
                else:
                    try:
                        yield {context.name: context}
                    except Exception as exc:  # noqa: BLE001 - likewise
                        failure = exc
                        context.fail(exc)
                    context.stop("the application shuts down")
            if failure is not None:
                raise failure
            await context

    def _next(self) -> WorkerContext:
        context = self._make()
        if not isinstance(context, WorkerContext):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers exist
            raise TypeError(f"the factory given to worker_lifespan() returned {context!r} and not a WorkerContext")
        if context is self._served:
            raise WorkerError(
                f"worker {context.name!r} was given to worker_lifespan() as one context, which lives once, and this is"
                " a second start-up of the application: give a name or a factory instead"
            )
        self._served = context
        return context


async def _live(context: WorkerContext, chain: Chain, *, task_status: TaskStatus[None]) -> None:
    if context.outcome is Outcome.NEVER_STARTED:  # a signal came first, and the server will notice it too
        task_status.started()
        chain.settle()
        return
    try:
        async with context:
            task_status.started()
            await context.wait_stopping()
    except Exception as exc:
        if context.failure is None:
            raise
        # Whoever awaits the context raises it, at the latest when the application shuts down.
        _log.error("worker %r of the application failed", context.name, exc_info=exc)
    chain.settle()
