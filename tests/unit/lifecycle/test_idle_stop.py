"""Burst work: stopping by oneself."""

import anyio
import anyio.lowlevel
import pytest

from workerctx.lifecycle import Outcome, Stop, WorkerContext


async def test_it_stops_when_the_last_task_has_ended(record):
    """L37: the context stops by itself once its last task has ended; work that comes before is accepted."""
    ends = []

    async def work(number):
        await anyio.lowlevel.checkpoint()
        if number:
            ctx.spawn(work, number - 1)
        await anyio.lowlevel.checkpoint()
        ends.append(number)

    async with WorkerContext() as ctx:
        heard = record(ctx, Stop)
        ctx.spawn(work, 3)
        ctx.stop_when_idle()
        assert ctx.is_running
        await ctx
    assert sorted(ends) == [0, 1, 2, 3]
    assert [event.reason for event in heard] == ["idle"]
    assert ctx.outcome is Outcome.CLEAN


async def test_with_nothing_in_it_stops_at_once():
    """L37: a worker that is idle already stops, but not within the call's own step."""
    async with WorkerContext() as ctx:
        ctx.stop_when_idle()
        handle = ctx.spawn(anyio.sleep, 0)
        await ctx
    assert handle.done
    assert ctx.reason == "idle"


@pytest.mark.parametrize("how", ["return", "raise", "cancel", "close", "child"])
async def test_every_way_to_become_idle(how):
    """L37: the last task may return, raise, be cancelled or be dropped, and a child may be what was in."""

    async def fail():
        raise ValueError

    with anyio.fail_after(10):
        async with WorkerContext() as ctx:
            match how:
                case "return":
                    ctx.spawn(anyio.sleep, 0)
                case "raise":
                    ctx.spawn(fail)
                case "cancel":
                    handle = ctx.spawn(anyio.sleep_forever)
                case "close":
                    tracked = ctx.track(fail())
                case "child":
                    child = ctx.child("c")
                    child.start()
            ctx.stop_when_idle()
            await anyio.wait_all_tasks_blocked()
            match how:
                case "cancel":
                    assert ctx.is_running
                    handle.cancel()
                case "close":
                    assert ctx.is_running
                    tracked.close()
                case "child":
                    assert ctx.is_running
                    child.stop()
            await ctx
    assert (ctx.reason, ctx.outcome) == ("idle", Outcome.CLEAN)


async def test_before_the_start_it_waits_for_the_start():
    """L37: asked of a pending context, it counts from the start, and held work is work."""
    ran = []

    async def work():
        ran.append(True)

    ctx = WorkerContext()
    ctx.stop_when_idle()
    assert ctx.is_pending
    async with ctx:
        ctx.spawn(work)
        await ctx
    assert (ran, ctx.reason) == ([True], "idle")
    unhosted = WorkerContext()
    unhosted.stop_when_idle()
    tracked = unhosted.track(work())
    unhosted.start()
    await tracked
    await unhosted
    assert (len(ran), unhosted.reason) == (2, "idle")


async def test_from_a_thread(in_thread):
    """L37: it may be asked from any thread."""
    async with WorkerContext() as ctx:
        release = anyio.Event()
        ctx.spawn(release.wait)
        await in_thread(ctx.stop_when_idle)
        release.set()
        await ctx
    assert ctx.reason == "idle"
