"""The loop that a worker lives on, reached from bare callbacks."""

from __future__ import annotations

import asyncio
import threading

import anyio

from workerctx.lifecycle import Outcome, WorkerContext


async def test_a_stop_from_a_foreign_thread_sets_the_deadline() -> None:
    """L32: a stop from a thread that knows no event loop still bounds the drain."""
    with anyio.fail_after(5):
        async with WorkerContext("threaded") as ctx:
            task = ctx.spawn(anyio.sleep_forever)
            thread = threading.Thread(target=lambda: ctx.stop("from a thread", grace=0.01))
            thread.start()
            await ctx.wait_stopping()
            thread.join()
    assert task.done
    assert ctx.outcome is Outcome.CANCELLED


def test_a_native_asyncio_program_is_served_too() -> None:
    """L34: the loop need not have been started by anyio; a stop from its plain callback drains as well."""

    async def main() -> WorkerContext:
        loop = asyncio.get_running_loop()
        async with WorkerContext("native") as ctx:
            ctx.spawn(anyio.sleep_forever)
            loop.call_soon(lambda: ctx.stop("from a callback", grace=0.01))
            await ctx.wait_stopping()
        return ctx

    assert asyncio.run(main()).outcome is Outcome.CANCELLED
