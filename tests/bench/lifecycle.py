"""What the lifecycle costs, against the bare event loops and aiojobs in the same run."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tracemalloc
from typing import TYPE_CHECKING

import aiojobs
import anyio
import trio

from tests.bench.measure import Case, machine, quiet_collector, rounds, table
from workerctx import WorkerContext

if TYPE_CHECKING:
    from collections.abc import Coroutine

CONCURRENT = 100_000


async def noop() -> None:
    """Do nothing."""


async def bare(number: int) -> None:
    for _ in range(number):
        await noop()


async def created(number: int) -> None:
    for _ in range(number):
        await asyncio.create_task(noop())


async def in_asyncio_group(number: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(noop())


async def in_trio_nursery(number: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(noop)


async def in_anyio_group(number: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(number):
            group.start_soon(noop)


async def in_aiojobs(number: int) -> None:
    async with aiojobs.Scheduler(limit=None) as scheduler:
        for _ in range(number):
            await scheduler.spawn(noop())


def cases_of(ctx: WorkerContext, backend: str) -> tuple[dict[str, Case], dict[str, Case]]:
    """Return the cases that await one thing after the other, and those that start tasks."""

    async def tracked(number: int) -> None:
        for _ in range(number):
            await ctx.track(noop())

    async def emitted(number: int) -> None:
        for _ in range(number):
            ctx.emit(None)

    async def spawned(number: int) -> None:
        async with WorkerContext("bench") as own:
            for _ in range(number):
                own.spawn(noop)

    awaiting: dict[str, Case] = {"bare await": bare, "ctx.track": tracked, "ctx.emit, nobody listens": emitted}
    starting: dict[str, Case] = {"anyio task group": in_anyio_group, "ctx.spawn": spawned}
    if backend == "asyncio":
        awaiting["asyncio.create_task + await"] = created
        starting |= {"asyncio.TaskGroup": in_asyncio_group, "aiojobs": in_aiojobs}
    else:
        starting["trio nursery"] = in_trio_nursery
    return awaiting, starting


async def speed(backend: str, number: int, repeat: int) -> None:
    """Print what tracking and spawning cost."""
    async with WorkerContext("bench") as ctx:
        awaiting, starting = cases_of(ctx, backend)
        result = await rounds(awaiting, number, repeat)
        added = result["ctx.track"] - result["bare await"]
        rows = [("operation", "us each")]
        rows += [(name, f"{seconds * 1e6:.3f}") for name, seconds in result.items()]
        rows.append(("ctx.track adds to a bare await", f"{added * 1e6:.3f}"))
        if "asyncio.create_task + await" in result:
            ratio = result["asyncio.create_task + await"] / result["ctx.track"]
            rows.append(("create_task + await / ctx.track", f"{ratio:.1f} x"))
        table(f"one after the other, {backend}", rows)
    result = await rounds(starting, number // 10, repeat)
    rows = [("operation", "us each")]
    rows += [(name, f"{seconds * 1e6:.2f}") for name, seconds in result.items()]
    rows.append(("ctx.spawn / anyio task group", f"{result['ctx.spawn'] / result['anyio task group']:.2f} x"))
    table(f"tasks started and ended, {backend}", rows)


async def memory() -> None:
    """Print what a suspended tracked coroutine takes beyond the coroutine itself."""

    def suspend(work: Coroutine[object, None, None]) -> None:
        work.send(None)

    async def waiting() -> None:
        await pause

    async def tracked() -> None:
        await ctx.track(waiting())

    async def plain() -> None:
        await waiting()

    pause = _Pause()
    ctx = WorkerContext("bench")
    ctx.start()
    sizes: dict[str, float] = {}
    for name, make in (("awaited", plain), ("tracked", tracked)):
        gc.collect()
        with quiet_collector():
            tracemalloc.start()
            works = [make() for _ in range(CONCURRENT)]
            for work in works:
                suspend(work)
            sizes[name] = tracemalloc.get_traced_memory()[0] / CONCURRENT
            tracemalloc.stop()
            for work in works:
                work.close()
            del works
    ctx.stop(grace=0)
    await ctx
    table(
        f"{CONCURRENT:,} suspended at once",
        [
            ("what", "bytes each"),
            *((name, f"{size:.0f}") for name, size in sizes.items()),
            ("tracking adds", f"{sizes['tracked'] - sizes['awaited']:.0f}"),
        ],
    )


class _Pause:
    def __await__(self):
        yield None


def main(argv: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench lifecycle", description=__doc__)
    parser.add_argument("--number", type=int, default=100_000, help="operations a round")
    parser.add_argument("--repeat", type=int, default=7, help="rounds; the median counts")
    options = parser.parse_args(argv)
    print(machine())
    for backend in ("asyncio", "trio"):
        anyio.run(speed, backend, options.number, options.repeat, backend=backend)
    anyio.run(memory)
    sys.stdout.flush()
