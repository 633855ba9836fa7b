"""Pulling items for as long as the worker takes work."""

import anyio
import anyio.lowlevel
import pytest

from workerctx.lifecycle import WorkerContext


class Source:
    """Counts how often it is pulled; blocks when it has no item."""

    def __init__(self, *items):
        self.items = list(items)
        self.pulls = 0
        self.cancelled = 0
        self.more = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.pulls += 1
        if not self.items:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                self.cancelled += 1
                raise
        await anyio.lowlevel.checkpoint()
        return self.items.pop(0)


async def consume(ctx, source, got):
    async for item in ctx.until_stopped(source):
        got.append(item)


async def test_it_ends_at_stop_and_cancels_the_pending_pull(residue):
    """L17: at stop the iteration ends and the pending pull is cancelled."""
    source, got = Source(1, 2), []
    async with WorkerContext() as ctx:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, ctx, source, got)
            await anyio.wait_all_tasks_blocked()
            assert (got, source.pulls) == ([1, 2], 3)
            ctx.stop()
        assert source.cancelled == 1
        assert residue(ctx) == {}


async def test_it_ends_with_the_source():
    """L17: it ends when the source does, and an async generator serves as one."""

    async def numbers():
        for number in range(3):
            yield number

    got = []
    async with WorkerContext() as ctx:
        await consume(ctx, numbers(), got)
        assert ctx.is_running
    assert got == [0, 1, 2]


async def test_it_does_not_pull_while_paused():
    """L17: nothing is pulled while the worker is paused, before the start, or once it is stopped."""
    source, got = Source(1, 2, 3), []
    ctx = WorkerContext()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume, ctx, source, got)
        await anyio.wait_all_tasks_blocked()
        assert source.pulls == 0
        ctx.start()
        ctx.pause()
        await anyio.wait_all_tasks_blocked()
        assert source.pulls == 0
        ctx.resume()
        await anyio.wait_all_tasks_blocked()
        assert got == [1, 2, 3]
        ctx.stop()
    late = Source(4)
    await consume(ctx, late, got)
    assert late.pulls == 0
    await ctx


async def test_it_does_not_pull_while_full(eventually):
    """L17: with max_tasks in, nothing is pulled until one has left."""
    source = Source(*range(10))
    releases = []

    async def work():
        releases.append(anyio.Event())
        await releases[-1].wait()

    async def consume_into_tasks():
        async for _ in ctx.until_stopped(source):
            ctx.spawn(work)

    async with WorkerContext(max_tasks=3) as ctx:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume_into_tasks)
            await anyio.wait_all_tasks_blocked()
            assert (ctx.task_count, source.pulls) == (3, 3)
            releases[0].set()
            await eventually(lambda: source.pulls == 4)
            await anyio.wait_all_tasks_blocked()
            assert (ctx.task_count, source.pulls) == (3, 4)
            ctx.stop()
        for release in releases:
            release.set()
    assert source.pulls == 4


async def test_room_is_seen_when_work_is_dropped(in_thread, eventually):
    """L17: room that comes from a dropped task, in any thread, is room as well."""
    source, got = Source(1), []
    ctx = WorkerContext(max_tasks=1)
    ctx.start()
    tracked = ctx.track(anyio.lowlevel.checkpoint())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume, ctx, source, got)
        await anyio.wait_all_tasks_blocked()
        assert source.pulls == 0
        await in_thread(tracked.close)
        await eventually(lambda: got == [1])
        ctx.stop()
    await ctx


async def test_a_stop_while_full_or_paused_ends_it():
    """L17: a consumer that waits for room or for a resume ends at stop."""
    for full in (True, False):
        source, got = Source(1), []
        ctx = WorkerContext(max_tasks=1)
        ctx.start()
        if full:
            tracked = ctx.track(anyio.lowlevel.checkpoint())
        else:
            ctx.pause()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, ctx, source, got)
            await anyio.wait_all_tasks_blocked()
            ctx.stop()
        if full:
            tracked.close()
        assert (got, source.pulls) == ([], 0)
        await ctx


async def test_failures_of_the_source_pass_through():
    """L17: what the source raises is raised to the consumer."""

    async def broken():
        yield 1
        raise OSError("gone")

    got = []
    async with WorkerContext() as ctx:
        with pytest.raises(OSError, match="gone"):
            await consume(ctx, broken(), got)
    assert got == [1]


async def test_it_can_be_broken_out_of():
    """L17: no scope is left open between items, so a consumer may break or leave at any item."""
    async with WorkerContext() as ctx:
        async for item in ctx.until_stopped(Source(1, 2)):
            with anyio.move_on_after(10):
                await anyio.lowlevel.checkpoint()
                if item:
                    break
        await anyio.lowlevel.checkpoint()
