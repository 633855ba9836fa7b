"""Entering a context, and every way of leaving it."""

import asyncio
import gc
import logging
import weakref

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import InvalidTransition, NotAccepting, WorkerFailed
from workerctx.lifecycle import Exit, Outcome, Stop, WorkerContext


async def test_entering_starts_and_leaving_finishes():
    """L0: async with starts a pending context; leaving it stops, drains and finishes it."""
    ctx = WorkerContext("mailer")
    assert ctx.outcome is None
    async with ctx as entered:
        assert entered is ctx
        assert ctx.is_running
        assert ctx.outcome is None
    assert (ctx.is_finished, ctx.outcome) == (True, Outcome.CLEAN)
    assert "body" in ctx.reason


@pytest.mark.parametrize("paused", [False, True])
async def test_entering_a_started_context_keeps_its_state(paused):
    """L0: a context that was started before is hosted as it is."""
    ctx = WorkerContext()
    ctx.start()
    if paused:
        ctx.pause()
    async with ctx:
        assert ctx.is_paused is paused
        handle = ctx.spawn(anyio.lowlevel.checkpoint)
        if paused:
            ctx.resume()
        await handle


async def test_an_unhosted_context_has_no_tasks_of_its_own(record, names):
    """L0: unhosted, tracking, the gate, waiting and sync listeners work; spawn, child and async listeners do not."""

    async def work():
        return 7

    async def hear(ctx, event):
        raise AssertionError

    ctx = WorkerContext()
    heard = record(ctx)
    ctx.start()
    assert await ctx.track(work()) == 7
    for refused in (lambda: ctx.spawn(work), lambda: ctx.child("c"), lambda: ctx.listen(hear)):
        with pytest.raises(InvalidTransition, match="async with"):
            refused()
    assert ctx.task_count == 0
    ctx.pause()
    ctx.resume()
    ctx.stop()
    await ctx
    assert names(heard) == ["Start", "Success", "Pause", "Resume", "Stop", "Exit"]


async def test_start_refuses_async_listeners_without_a_host():
    """L0: start() does not leave async listeners unserved; entering serves them."""
    heard = []

    async def hear(ctx, event):
        heard.append(event)

    ctx = WorkerContext()
    ctx.listen(hear)
    with pytest.raises(InvalidTransition, match="async with"):
        ctx.start()
    assert ctx.is_pending
    async with ctx:
        pass
    assert len(heard) == 3


def test_without_a_home_loop_listeners_run_in_the_caller(record, names):
    """L0: with no event loop, events are delivered where they are caused."""
    ctx = WorkerContext()
    heard = record(ctx)
    ctx.start()
    ctx.pause()
    ctx.stop()
    assert names(heard) == ["Start", "Pause", "Stop", "Exit"]
    assert ctx.is_finished


async def test_a_start_without_a_loop_finds_its_home_with_the_first_work(in_thread):
    """L0: a context that was started where no loop ran lives on the loop where it is first used."""

    async def work():
        await gate.wait()

    gate = anyio.Event()
    ctx = WorkerContext()
    await in_thread(ctx.start)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_await, ctx.track(work()))
        await anyio.wait_all_tasks_blocked()
        await in_thread(ctx.stop)
        assert not ctx.is_finished
        gate.set()
        await ctx
    assert ctx.outcome is Outcome.CLEAN


async def _await(awaitable):
    await awaitable


async def test_tracked_while_pending_is_held_until_the_start():
    """L0: work that is tracked before the start waits for it."""
    began = []

    async def work():
        began.append(True)

    ctx = WorkerContext()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_await, ctx.track(work()))
        await anyio.wait_all_tasks_blocked()
        assert (began, ctx.task_count) == ([], 1)
        ctx.start()
    assert began == [True]
    ctx.stop()
    await ctx


async def test_tracked_while_pending_is_closed_by_a_stop():
    """L0: if the context is stopped first, held work is closed and its awaiter gets NotAccepting."""

    async def work():
        raise AssertionError

    ctx = WorkerContext("early")
    coroutine = work()
    tracked = ctx.track(coroutine)
    later = ctx.track(work())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, tracked)
        await anyio.wait_all_tasks_blocked()
        ctx.stop()
    assert coroutine.cr_frame is None
    await refused(later)
    assert ctx.task_count == 0
    assert ctx.outcome is Outcome.NEVER_STARTED


async def refused(tracked):
    with pytest.raises(NotAccepting, match="work"):
        await tracked


async def test_a_body_exception_leaves_bare_and_cancels_spawned_tasks():
    """L0: what the body raises leaves as the same object, with the context it had; spawned tasks are cancelled."""
    cancelled = []
    ctx = WorkerContext()
    boom = ValueError("boom")
    with pytest.raises(ValueError, match="boom") as raised:
        async with ctx:
            ctx.spawn(note_cancel, cancelled)
            await anyio.lowlevel.checkpoint()
            try:
                raise KeyError("inner")
            except KeyError:
                raise boom  # noqa: B904 - the implicit context is what is looked at
    assert raised.value is boom
    assert isinstance(boom.__context__, KeyError)
    assert boom.__suppress_context__ is False
    assert boom.__cause__ is None
    assert cancelled == [True]
    assert (ctx.outcome, ctx.failure) == (Outcome.FAILED, boom)
    with pytest.raises(WorkerFailed) as seen:
        await ctx
    assert seen.value.__cause__ is boom


async def note_cancel(cancelled):
    try:
        await anyio.sleep_forever()
    finally:
        cancelled.append(True)


async def test_async_listeners_hear_how_a_failing_body_ended(names):
    """L11: a body's exception does not cut async listeners off from Stop and Exit."""
    heard = []

    async def hear(ctx, event):
        await anyio.lowlevel.checkpoint()
        heard.append(event)

    ctx = WorkerContext()
    ctx.listen(hear)
    with pytest.raises(ValueError):
        async with ctx:
            raise ValueError
    assert names(heard) == ["Start", "Stop", "Exit"]
    assert heard[-1].outcome is Outcome.FAILED
    assert all(isinstance(event.as_error(), ValueError) for event in heard[1:])


async def test_cancellation_from_outside_is_a_stop_with_grace_zero(names):
    """L0: a scope around the context that is cancelled stops it with grace 0 and sees the cancellation again."""
    heard = []
    cancelled = []

    async def hear(ctx, event):
        await anyio.lowlevel.checkpoint()
        heard.append(event)

    ctx = WorkerContext(grace=3600)
    ctx.listen(hear)
    with anyio.CancelScope() as scope:
        async with ctx:
            ctx.spawn(note_cancel, cancelled)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.sleep_forever()
        raise AssertionError
    assert scope.cancelled_caught
    assert cancelled == [True]
    assert (ctx.outcome, ctx.reason, ctx.is_finished) == (Outcome.CANCELLED, "cancelled from outside", True)
    assert names(heard) == ["Start", "Stop", "Exit"]


async def test_cancellation_from_outside_while_draining():
    """L0: so it is while the body has ended and the drain goes on."""
    ctx = WorkerContext(grace=None)
    with anyio.CancelScope() as scope:
        async with ctx:
            ctx.spawn(anyio.sleep_forever)
            ctx.listen(lambda *_: scope.cancel(), Stop)
    assert scope.cancelled_caught
    assert (ctx.outcome, ctx.is_finished) == (Outcome.CANCELLED, True)


async def test_cancellation_from_outside_does_not_wait_for_the_work_of_others():
    """L0: work tracked elsewhere cannot hold a cancelled host; the context finishes when that work ends."""
    ctx = WorkerContext()
    release = anyio.Event()
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with ctx:
                tasks.start_soon(_await, ctx.track(release.wait()))
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.sleep_forever()
        assert (ctx.is_stopped, ctx.is_finished, ctx.task_count) == (True, False, 1)
        release.set()
        await ctx
    assert ctx.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("when", ["body", "drain"])
def test_native_cancellation_of_the_host(when):
    """L0: asyncio's own Task.cancel() of the hosting task is a cancellation from outside as well."""

    async def main():
        heard = []
        ctx = WorkerContext(grace=3600)

        async def hear(ctx, event):
            await asyncio.sleep(0)
            heard.append(type(event).__name__)

        ctx.listen(hear)
        handles = []

        async def host():
            async with ctx:
                handles.append(ctx.spawn(asyncio.sleep, 3600))
                if when == "body":
                    await asyncio.sleep(3600)

        task = asyncio.create_task(host())
        await (ctx.wait_stopping() if when == "drain" else ctx.wait_started())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert handles[0].done
        assert (ctx.outcome, ctx.is_finished, ctx.task_count) == (Outcome.CANCELLED, True, 0)
        assert heard == ["Start", "Stop", "Exit"]

    asyncio.run(main())


async def test_the_body_goes_on_after_a_stop_until_the_deadline(virtual_time):
    """L26: the body is not interrupted by a stop, but at the deadline."""
    steps = []
    async with WorkerContext(grace=10) as ctx:
        virtual_time()
        ctx.stop()
        await anyio.sleep(9)
        steps.append("went on")
        await anyio.sleep(9)
        steps.append("never")
    assert steps == ["went on"]
    assert 9.9 < virtual_time() < 10.1
    assert ctx.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("grace", [0, None, 5])
async def test_nothing_to_drain_is_clean(grace):
    """L26: whatever the grace, a worker with nothing in it ends clean."""
    for body in (None, anyio.lowlevel.checkpoint):
        async with WorkerContext(grace=grace) as ctx:
            if body is not None:
                await body()
        assert ctx.outcome is Outcome.CLEAN


async def test_entering_twice_is_refused():
    """L1: a context is entered once; later and concurrent attempts are refused and say why."""
    ctx = WorkerContext("once")
    async with ctx:
        with pytest.raises(InvalidTransition, match="entered already"):
            await ctx.__aenter__()
        assert ctx.is_running
    with pytest.raises(InvalidTransition, match="stopped"):
        await ctx.__aenter__()


async def test_leaving_unentered_is_refused():
    """L1: leaving a context that was not entered is refused."""
    with pytest.raises(InvalidTransition, match="not entered"):
        await WorkerContext().__aexit__(None, None, None)


async def test_entering_on_another_loop_is_refused(in_thread):
    """L0: a context that was started on one loop cannot be hosted by another."""
    ctx = WorkerContext()
    ctx.start()

    async def elsewhere():
        with pytest.raises(InvalidTransition, match="another event loop"):
            await ctx.__aenter__()

    await in_thread(lambda: anyio.run(elsewhere))
    ctx.stop()
    await ctx


async def test_fail_is_an_infrastructure_failure(caplog):
    """L29: fail() stops the worker, cancels what it owns, and raises WorkerFailed from the cause to the host."""
    cause = OSError("disk gone")
    ctx = WorkerContext("writer")
    cancelled = []
    with pytest.raises(WorkerFailed, match="disk gone") as raised:
        async with ctx:
            ctx.spawn(note_cancel, cancelled)
            await anyio.lowlevel.checkpoint()
            assert ctx.fail(cause) is True
            assert ctx.fail(cause) is False
            assert ctx.is_stopped
            assert not ctx.is_alive
            await anyio.sleep_forever()
    assert raised.value.__cause__ is cause
    assert (ctx.outcome, ctx.failure, cancelled) == (Outcome.FAILED, cause, [True])
    assert "failed" in ctx.reason


async def test_a_second_failure_is_logged(caplog):
    """L29: the first failure is the one that counts; a later one is not lost."""
    caplog.set_level(logging.ERROR, "workerctx")
    ctx = WorkerContext()
    with pytest.raises(WorkerFailed) as raised:
        async with ctx:
            first, second = OSError("first"), OSError("second")
            assert ctx.fail(first)
            assert not ctx.fail(second)
    assert raised.value.__cause__ is first
    assert any(record.exc_info and record.exc_info[1] is second for record in caplog.records)


async def test_a_failure_while_draining_counts():
    """L29: infrastructure that breaks during the drain fails the worker too."""
    ctx = WorkerContext(grace=None)
    with pytest.raises(WorkerFailed):
        async with ctx:
            ctx.spawn(anyio.sleep_forever)
            ctx.stop("deploy")
            ctx.fail(OSError())
    assert (ctx.outcome, ctx.reason) == (Outcome.FAILED, "deploy")


async def test_fail_before_start():
    """L29: a worker that breaks before its start has failed, and says so to waiters."""
    ctx = WorkerContext()
    assert ctx.fail(OSError("no config"))
    assert ctx.outcome is Outcome.FAILED
    with pytest.raises(WorkerFailed):
        await ctx


async def test_failing_work_does_not_fail_the_worker(record, names):
    """L29: a failing task is an event; the worker goes on and ends clean."""

    async def work():
        raise ValueError

    async with WorkerContext() as ctx:
        heard = record(ctx)
        with pytest.raises(ValueError):
            await ctx.track(work())
        assert ctx.is_running
    assert names(heard) == ["Error", "Stop", "Exit"]
    assert ctx.outcome is Outcome.CLEAN


async def test_a_group_of_one_is_collapsed():
    """L30: the body's own group of one member leaves as that member, nested or not."""
    inner = ValueError("the one")
    with pytest.raises(ValueError, match="the one") as raised:
        async with WorkerContext():
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [inner])])
    assert raised.value is inner


async def test_a_group_of_many_stays_a_group():
    """L30: several failures leave together."""
    with pytest.raises(ExceptionGroup) as raised:
        async with WorkerContext():
            raise ExceptionGroup("both", [ValueError(), KeyError()])
    assert raised.group_contains(ValueError)
    assert raised.group_contains(KeyError)


async def test_stop_inside_the_body_is_enough(record):
    """L26: a stop in the body lets it finish, and its reason stays."""
    async with WorkerContext() as ctx:
        heard = record(ctx, Stop, Exit)
        ctx.stop("from inside")
        await anyio.lowlevel.checkpoint()
    assert [event.reason for event in heard] == ["from inside"] * 2


async def test_a_finished_context_is_freed_at_once():
    """L36: nothing of its hosting keeps a finished context, and what its listeners hold, until the collector comes."""
    gc.disable()
    try:
        ctx = WorkerContext()
        async with ctx:
            ctx.listen(lambda *_: None)
            await ctx.spawn(anyio.lowlevel.checkpoint)
            await ctx.track(anyio.lowlevel.checkpoint())
        gone = weakref.ref(ctx)
        del ctx
        await anyio.wait_all_tasks_blocked()
        assert gone() is None
    finally:
        gc.enable()
