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
    from contextlib import AbstractAsyncContextManager

    from workerctx.lifecycle import WorkerContext

_log = logging.getLogger("workerctx")

STORE: Final = "store"
"""What a worker's reasons to be unready are about, here."""


@asynccontextmanager
async def opened(
    store: AbstractAsyncContextManager[object], context: WorkerContext, patience: float | None, *, about: str = STORE
) -> AsyncGenerator[None]:
    """Keep a store open inside; it may take as many seconds as `patience` says to be there, None for ever.

    Args:
        store: A storage, or a registry, which opens its own; opened anew at each try.
        context: Whose store it is: not ready meanwhile, and stopping it ends the wait.
        patience: Seconds.
        about: What the context's reasons to be unready are about.

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
                await stack.enter_async_context(store)
                break
            except StoreUnavailable as exc:
                pause = backoff(failures)
                if patience is not None and anyio.current_time() + pause > began + patience:
                    raise
                failures += 1
                context.mark_unready(f"waiting for the store: {exc}", about=about)
                if str(exc) != last:
                    last = str(exc)
                    _log.warning("%r waits for its store: %s", context.name, last)
                context.emit(StoreFailed(error=exc, failures=failures))
            with anyio.move_on_after(pause):
                await context.wait_stopping()
            if context.is_stopped:
                raise InvalidTransition(
                    context.name, context.state.value, "run", "it was stopped while it waited for its store"
                )
        if failures:
            waited = anyio.current_time() - began
            _log.warning("%r has reached its store after %.1f seconds", context.name, waited)
            context.mark_ready(about=about)
            context.emit(StoreRecovered(failures=failures))
        yield
