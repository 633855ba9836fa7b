"""A thread with an event loop of its own, so that what runs there goes on while the caller's loop is blocked."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from workerctx.lifecycle.latch import Latch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from workerctx.remote.link import Link


@asynccontextmanager
async def in_own_thread(link: Link, name: str, seconds: float) -> AsyncGenerator[None]:
    """Run a link in a thread, on an event loop of the caller's kind; leaving the block ends it.

    Args:
        link: What to run.
        name: Of the thread.
        seconds: How long leaving waits for the thread; one that hangs is left behind.
    """
    backend = "asyncio" if isinstance(_native_loop(), asyncio.AbstractEventLoop) else "trio"
    over = threading.Event()
    ended = Latch(over.is_set)

    def live() -> None:
        try:
            anyio.run(link.run, backend=backend)
        except BaseException as exc:  # noqa: BLE001 - there is nobody else to tell
            link.give_up(exc)
        finally:
            over.set()
            ended.wake()

    thread = threading.Thread(target=live, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        link.abort()
        with anyio.move_on_after(seconds, shield=True):
            # Not for the link: its loop may have to wait for threads of its own, as for a name that is looked up.
            await ended.wait()
            thread.join()


@asynccontextmanager
async def on_this_loop(link: Link) -> AsyncGenerator[None]:
    """Run a link beside the block; leaving the block ends it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.run)
        try:
            yield
        finally:
            link.abort()


def _native_loop() -> object:
    return anyio.lowlevel.current_token().native_token
