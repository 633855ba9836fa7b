"""How a drain ends."""

import datetime as dt
import logging

import anyio
import anyio.lowlevel
import pytest

from workerctx.lifecycle import Outcome, WorkerContext


async def run(awaitable):
    await awaitable


async def test_the_default_grace_is_thirty_seconds(virtual_time):
    """L26: without a word about it, a drain takes 30 seconds at most."""
    assert WorkerContext().grace == 30
    async with WorkerContext() as ctx:
        virtual_time()
        ctx.spawn(anyio.sleep_forever)
    assert 29.9 < virtual_time() < 30.1
    assert ctx.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("grace", [4, 4.0, dt.timedelta(seconds=4)])
async def test_kinds_of_grace(virtual_time, grace):
    """L26: a grace is seconds or a timedelta, of the worker or of one stop."""
    assert WorkerContext(grace=grace).grace == 4
    for own, given in ((grace, None), (100, grace)):
        async with WorkerContext(grace=own) as ctx:
            began = anyio.current_time()
            ctx.spawn(anyio.sleep_forever)
            if given is not None:
                ctx.stop(grace=given)
        assert 3.9 < anyio.current_time() - began < 4.1


async def test_grace_zero_cancels_at_once(virtual_time):
    """L26: grace 0 gives running work no time at all."""
    async with WorkerContext() as ctx:
        virtual_time()
        handle = ctx.spawn(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        ctx.stop(grace=0)
        await anyio.sleep_forever()
    assert handle.done
    assert virtual_time() < 0.1
    assert ctx.outcome is Outcome.CANCELLED


async def test_no_grace_waits_for_ever(virtual_time):
    """L26: grace None waits for as long as it takes."""
    async with WorkerContext(grace=None) as ctx:
        virtual_time()
        ctx.spawn(anyio.sleep, 1_000_000)
    assert virtual_time() >= 1_000_000
    assert ctx.outcome is Outcome.CLEAN


async def test_a_second_stop_can_only_shorten(virtual_time):
    """L26: a second stop with less grace shortens the drain; one with more, or with none, changes nothing."""
    for second, expected in ((2, 3), (0, 1), (100, 10), (None, 10)):
        async with WorkerContext(grace=10) as ctx:
            began = anyio.current_time()
            ctx.spawn(anyio.sleep_forever)
            ctx.stop()
            await anyio.sleep(1)
            ctx.stop(grace=second)
        assert abs(anyio.current_time() - began - expected) < 0.1, second


async def test_a_second_stop_bounds_an_unbounded_one(virtual_time):
    """L26: a stop that waits for ever can be given a deadline afterwards."""
    async with WorkerContext(grace=None) as ctx:
        virtual_time()
        ctx.spawn(anyio.sleep_forever)
        ctx.stop()
        await anyio.sleep(1)
        ctx.stop(grace=5)
    assert 5.9 < virtual_time() < 6.1


async def test_unwinding_is_waited_for(virtual_time):
    """L26: after the deadline the worker waits for its cancelled work to unwind."""
    ended = []

    async def stubborn():
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(3)
            ended.append(ctx.is_finished)

    async with WorkerContext(grace=1) as ctx:
        virtual_time()
        ctx.spawn(stubborn)
    assert ended == [False]
    assert 3.9 < virtual_time() < 4.1
    assert (ctx.outcome, ctx.is_finished) == (Outcome.CANCELLED, True)


async def test_work_of_others_is_reported_and_waited_for(virtual_time, caplog):
    """L26: tracked work that outlives the deadline is never cancelled; it is named, counted, waited for."""
    caplog.set_level(logging.WARNING, "workerctx")
    ends = []

    async def foreign(number):
        await anyio.sleep(50)
        ends.append(number)

    async with anyio.create_task_group() as tasks:
        async with WorkerContext("host", grace=5) as ctx:
            virtual_time()
            for number in range(3):
                tasks.start_soon(run, ctx.track(foreign(number)))
            await anyio.lowlevel.checkpoint()
    assert sorted(ends) == [0, 1, 2]
    assert 49.9 < virtual_time() < 50.1
    assert (ctx.outcome, ctx.is_finished) == (Outcome.CANCELLED, True)
    (message,) = caplog.messages
    for part in ("'host'", "3 tasks", "foreign (x3)", "not cancelled"):
        assert part in message


async def test_finished_work_is_not_reported(virtual_time, caplog):
    """L26: a report names what is in, not what somebody still holds a reference to."""
    caplog.set_level(logging.WARNING, "workerctx")

    async def finished():
        pass

    kept = []
    async with anyio.create_task_group() as tasks:
        async with WorkerContext(grace=1) as ctx:
            kept.append(ctx.track(finished()))
            await kept[0]
            tasks.start_soon(run, ctx.track(anyio.sleep(5)))
            await anyio.lowlevel.checkpoint()
    (message,) = caplog.messages
    assert "1 tasks" in message
    assert "finished" not in message


@pytest.mark.parametrize("waiting_since", ["before", "after"])
async def test_an_unhosted_deadline(virtual_time, caplog, waiting_since):
    """L26: an unhosted context reports overdue work too, whenever its waiter came, and ends CANCELLED."""
    caplog.set_level(logging.WARNING, "workerctx")
    ctx = WorkerContext("bare", grace=5)
    ctx.start()
    async with anyio.create_task_group() as tasks:
        virtual_time()
        tasks.start_soon(run, ctx.track(anyio.sleep(20)))
        if waiting_since == "before":
            tasks.start_soon(run, ctx)
            await anyio.sleep(1)
        ctx.stop()
        if waiting_since == "after":
            tasks.start_soon(run, ctx)
        await anyio.sleep(10)
        assert len(caplog.messages) == 1
        assert not ctx.is_finished
    assert (ctx.outcome, ctx.is_finished) == (Outcome.CANCELLED, True)


async def test_an_unhosted_context_in_time_is_clean(virtual_time):
    """L26: an unhosted context whose work ends before the deadline is clean."""
    ctx = WorkerContext(grace=5)
    ctx.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, ctx.track(anyio.sleep(4)))
        ctx.stop()
        await ctx
    assert ctx.outcome is Outcome.CLEAN


async def test_the_deadline_counts_from_the_call(virtual_time):
    """L26: stop() sets the deadline when it is called, whenever the loop gets round to it."""
    async with WorkerContext() as ctx:
        virtual_time()
        ctx.spawn(anyio.sleep_forever)
        ctx.stop(grace=2)
        await anyio.sleep(1)
        assert "s left" in repr(ctx)
    assert 1.9 < virtual_time() < 2.1


async def test_a_tasks_own_timeout_is_not_extended(virtual_time):
    """L27: a timeout inside the work ends it when it would have ended it, shutdown or not."""
    ends = []

    async def work():
        with anyio.move_on_after(3):
            await anyio.sleep_forever()
        ends.append(virtual_time())

    async with WorkerContext(grace=100) as ctx:
        virtual_time()
        ctx.spawn(work)
        await anyio.sleep(1)
        ctx.stop()
    assert 2.9 < ends[0] < 3.1
    assert ctx.outcome is Outcome.CLEAN


async def test_helpers_live_until_the_last_job_has_ended(virtual_time, record):
    """L28: spawned helpers such as a heartbeat run, and are heard, until the last work beside them has ended."""
    beats = []

    async def heartbeat():
        while ctx.task_count > 1:
            beats.append(virtual_time())
            ctx.emit(len(beats))
            await anyio.sleep(1)

    async with WorkerContext(grace=100) as ctx:
        heard = record(ctx)
        virtual_time()
        ctx.spawn(anyio.sleep, 9.5)
        ctx.spawn(heartbeat)
        await anyio.sleep(1.5)
        ctx.stop()
    assert len(beats) == 10
    assert sum(type(event).__name__ == "Custom" for event in heard) == 10
    assert ctx.outcome is Outcome.CLEAN


async def test_embedded_use_never_exits_the_process(monkeypatch, virtual_time):
    """L26: a context that is past its deadline does not end the process."""
    import os

    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("exited"))
    async with anyio.create_task_group() as tasks:
        async with WorkerContext(grace=0) as ctx:
            tasks.start_soon(run, ctx.track(anyio.sleep(1000)))
            await anyio.lowlevel.checkpoint()
    assert ctx.outcome is Outcome.CANCELLED


async def test_the_end_of_the_body_does_not_overrule_a_stop(virtual_time):
    """L26: after stop(grace=None) in the body, leaving it does not bring the worker's own grace back."""
    async with WorkerContext(grace=5) as ctx:
        virtual_time()
        ctx.spawn(anyio.sleep, 100)
        ctx.stop("take your time", grace=None)
    assert virtual_time() >= 100
    assert (ctx.outcome, ctx.reason) == (Outcome.CLEAN, "take your time")
