"""Recorders, residues and threads for the tests of a worker's life."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from workerctx.lifecycle import Event, WorkerContext


@pytest.fixture
def record() -> Callable[..., list[Event]]:
    """Listen to a context and return the list that fills with its events."""

    def listen(ctx: WorkerContext, *event_types: type[Event]) -> list[Event]:
        heard: list[Event] = []
        ctx.listen(lambda _, event: heard.append(event), *event_types)
        return heard

    return listen


@pytest.fixture
def names() -> Callable[[list[Event]], list[str]]:
    """Name the types of events."""
    return lambda heard: [type(event).__name__ for event in heard]


@pytest.fixture
def residue() -> Callable[[WorkerContext], dict[str, int]]:
    """Count what is left of waiters and work in a context; nothing should be."""

    def look(ctx: WorkerContext) -> dict[str, int]:
        shell = ctx._shell
        latches = {"started": shell.started, "stopping": shell.stopping, "quiet": shell.quiet, "end": shell.finished}
        latches |= {"gate": shell.ledger.gate, "room": shell.ledger.room}
        left = {name: latch.waiting for name, latch in latches.items()}
        left |= {"tasks": shell.ledger.count, "spawned": len(shell.spawned), "scopes": len(shell.scopes)}
        left |= {"children": len(shell.children)}
        return {name: number for name, number in left.items() if number}

    return look


@pytest.fixture
def in_thread() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Run a function in a thread that belongs to no event loop, and wait for it; what it raises is raised here."""

    async def run(function: Callable[[], object]) -> None:
        raised: list[BaseException] = []

        def guarded() -> None:
            try:
                function()
            except BaseException as exc:
                raised.append(exc)

        thread = threading.Thread(target=guarded)
        thread.start()
        while thread.is_alive():
            await anyio.lowlevel.checkpoint()
        thread.join()
        if raised:
            raise raised[0]

    return run
