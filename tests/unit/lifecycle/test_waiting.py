"""Waiting for a worker."""

import functools
import threading

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import WorkerFailed
from workerctx.lifecycle import Outcome, WorkerContext


async def run(awaitable):
    await awaitable


async def wait_for(ctx, done):
    await ctx
    done.append((ctx.is_finished, ctx.task_count))


async def test_await_resolves_when_stopped_and_drained():
    """L14: await ctx returns once the worker is stopped and all its tasks have completed, not before."""
    ctx = WorkerContext()
    done = []
    release = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, ctx, done)
        await anyio.wait_all_tasks_blocked()
        ctx.start()
        tasks.start_soon(run, ctx.track(release.wait()))
        await anyio.wait_all_tasks_blocked()
        ctx.stop()
        await anyio.wait_all_tasks_blocked()
        assert done == []
        release.set()
    assert done == [(True, 0)]


async def test_any_number_of_waiters_before_and_after():
    """L14: waiters from before the start, during, and after the end all return, each as often as it asks."""
    ctx = WorkerContext()
    done = []
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(wait_for, ctx, done)
        await anyio.wait_all_tasks_blocked()
        async with ctx:
            for _ in range(50):
                tasks.start_soon(wait_for, ctx, done)
            await anyio.wait_all_tasks_blocked()
            assert done == []
    for _ in range(3):
        await ctx
    assert done == [(True, 0)] * 100


async def test_await_in_the_own_body_returns_when_drained():
    """L14: in the body of its own async with, await ctx returns when all tasks have ended after a stop."""
    async with WorkerContext(grace=None) as ctx:
        release = anyio.Event()
        ctx.spawn(release.wait)
        ctx.spawn(stop_then_release, ctx, release)
        await ctx
        assert (ctx.is_stopped, ctx.task_count, ctx.is_finished) == (True, 0, False)
    assert ctx.outcome is Outcome.CLEAN


async def stop_then_release(ctx, release):
    await anyio.wait_all_tasks_blocked()
    ctx.stop()
    await anyio.wait_all_tasks_blocked()
    assert not ctx.is_finished
    release.set()


async def test_no_wake_up_is_lost_between_threads():
    """L14: whatever the interleaving of waiting, stopping and finishing in threads, every waiter wakes."""
    for round_ in range(60):
        ctx = WorkerContext()
        ctx.start()
        done = []
        threads = [threading.Thread(target=ctx.stop)]
        for backend in ("asyncio", "trio"):
            threads.append(threading.Thread(target=functools.partial(anyio.run, wait_for, ctx, done, backend=backend)))
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for thread in threads[:: -1 if round_ % 2 else 1]:
                    thread.start()
                for _ in range(round_ % 7):
                    await anyio.lowlevel.checkpoint()
                for _ in range(3):
                    tasks.start_soon(wait_for, ctx, done)
            while any(thread.is_alive() for thread in threads):
                await anyio.lowlevel.checkpoint()
        assert len(done) == 5


async def test_a_cancelled_waiter_leaves_nothing(residue):
    """L15: timing out or cancelling any kind of waiter touches neither the worker nor its books."""
    ctx = WorkerContext()
    ctx.start()
    for wait in (functools.partial(run, ctx), ctx.wait_stopping, functools.partial(ctx.sleep, 100)):
        with anyio.move_on_after(0.01) as scope:
            await wait()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert ctx.is_running
    assert residue(ctx) == {}
    pending = WorkerContext()
    with anyio.move_on_after(0.01):
        await pending.wait_started()
    assert residue(pending) == {}
    ctx.stop()
    await ctx


async def test_every_waiter_hears_of_a_failure():
    """L16: a failed worker raises WorkerFailed from the cause to every waiter, before and after the fact."""
    ctx = WorkerContext("broken")
    ctx.start()
    cause = OSError("gone")
    seen = []

    async def wait():
        with pytest.raises(WorkerFailed, match=r"broken.*gone") as raised:
            await ctx
        seen.append(raised.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        ctx.fail(cause)
    await wait()
    assert [error.__cause__ for error in seen] == [cause] * 5
    assert len({id(error) for error in seen}) == 5


async def test_other_outcomes_return(virtual_time):
    """L16: clean, cancelled and never started return."""
    clean, never, late = WorkerContext(), WorkerContext(), WorkerContext(grace=1)
    async with clean:
        pass
    never.stop()
    async with late:
        late.spawn(anyio.sleep_forever)
    for ctx in (clean, never, late):
        assert await _none(ctx) is None
    assert [ctx.outcome for ctx in (clean, never, late)] == [Outcome.CLEAN, Outcome.NEVER_STARTED, Outcome.CANCELLED]


async def _none(ctx):
    return await ctx


async def test_wait_started_and_stopping():
    """L17: wait_started and wait_stopping return at their moment, and at once later."""
    ctx = WorkerContext()
    steps = []

    async def watch(wait, name):
        await wait()
        steps.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, ctx.wait_started, "started")
        tasks.start_soon(watch, ctx.wait_stopping, "stopping")
        await anyio.wait_all_tasks_blocked()
        ctx.start()
        await anyio.wait_all_tasks_blocked()
        assert steps == ["started"]
        ctx.pause()
        await anyio.wait_all_tasks_blocked()
        assert steps == ["started"]
        ctx.stop()
    assert steps == ["started", "stopping"]
    await ctx.wait_started()
    await ctx.wait_stopping()


async def test_sleep_returns_early_on_stop(virtual_time):
    """L17: sleep(seconds) sleeps in full and says so, or returns early when a stop is asked for."""
    async with WorkerContext() as ctx:
        virtual_time()
        assert await ctx.sleep(10) is True
        assert 9.9 < virtual_time() < 10.1
        task = ctx.spawn(ctx.sleep, 3600)
        await anyio.wait_all_tasks_blocked()
        ctx.stop()
        assert await task is False
        assert await ctx.sleep(3600) is False
        assert virtual_time() < 11


async def test_waiting_is_always_a_checkpoint():
    """L14: also when there is nothing to wait for, the public waiting methods yield to the loop once."""
    ctx = WorkerContext()
    ctx.start()
    ctx.stop()
    await ctx
    for wait in (functools.partial(run, ctx), ctx.wait_started, ctx.wait_stopping):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait()
        assert scope.cancelled_caught


async def test_waiting_past_the_deadline_does_not_spin(virtual_time):
    """L26: whoever waits beyond the deadline sleeps; it does not poll."""
    ctx = WorkerContext(grace=1)
    done = []

    async def body_that_takes_its_time():
        async with ctx:
            ctx.stop()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(50)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for, ctx, done)
        tasks.start_soon(body_that_takes_its_time)
        steps = 0
        original = ctx._shell.finished.wait

        async def counting(*args):
            nonlocal steps
            steps += 1
            await original(*args)

        object.__setattr__(ctx._shell, "finished", _Counted(ctx._shell.finished, counting))
    assert done == [(True, 0)]
    assert steps < 6


class _Counted:
    """A latch whose waits are counted."""

    def __init__(self, latch, wait):
        self.latch = latch
        self.wait = wait

    def __getattr__(self, name):
        return getattr(self.latch, name)
