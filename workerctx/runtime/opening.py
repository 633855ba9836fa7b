"""The start of a worker at its store: one that cannot be reached is waited for, and the wait can be seen."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from workerctx.errors import InvalidTransition, StoreUnavailable
from workerctx.runtime.events import StoreFailed, StoreRecovered
from workerctx.runtime.persist import backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from workerctx.lifecycle import WorkerContext
    from workerctx.service import JobRegistry

_log = logging.getLogger("workerctx")

NOT_REACHED: Final = "the store was not reached yet"
"""Why a worker is unready before its first round."""


@asynccontextmanager
async def opened(jobs: JobRegistry, context: WorkerContext, patience: float | None) -> AsyncGenerator[None]:
    """Keep a registry open inside; its store may take as many seconds as `patience` says to be there, None for ever.

    Raises:
        StoreUnavailable: it was not there in time.
        InvalidTransition: the worker was stopped meanwhile.
        WorkerError: whatever waiting does not mend, at once: it refuses the user, or its tables are not ours.
    """
    async with AsyncExitStack() as stack:
        began = anyio.current_time()
        failures, last = 0, ""
        while True:
            try:
                await stack.enter_async_context(jobs)
                break
            except StoreUnavailable as exc:
                pause = backoff(failures)
                if patience is not None and anyio.current_time() + pause > began + patience:
                    raise
                failures += 1
                context.mark_unready(f"waiting for the store: {exc}")
                if str(exc) != last:
                    last = str(exc)
                    _log.warning("worker %r waits for its store: %s", context.name, last)
                context.emit(StoreFailed(error=exc, failures=failures))
            with anyio.move_on_after(pause):
                await context.wait_stopping()
            if context.is_stopped:
                raise InvalidTransition(
                    context.name, context.state.value, "run", "it was stopped while it waited for its store"
                )
        if failures:
            waited = anyio.current_time() - began
            _log.warning("worker %r has reached its store after %.1f seconds", context.name, waited)
            context.mark_unready(NOT_REACHED)
            context.emit(StoreRecovered(failures=failures))
        yield
