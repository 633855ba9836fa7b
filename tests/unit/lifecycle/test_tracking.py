"""Counting awaitables while they run."""

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import traceback
import tracemalloc
import types
import warnings
import weakref

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import NotAccepting
from workerctx.lifecycle import Outcome, WorkerContext
from workerctx.lifecycle.tracked import Tracked


@pytest.fixture
async def ctx():
    """A running, unhosted context that must be empty in the end."""
    made = WorkerContext("counter")
    made.start()
    yield made
    assert made.task_count == 0
    made.stop()
    await made


async def value(result):
    await anyio.lowlevel.checkpoint()
    return result


async def fail(error):
    await anyio.lowlevel.checkpoint()
    raise error


async def run(awaitable):
    await awaitable


async def test_the_count_rises_at_track_and_falls_on_return(ctx):
    """L18: the count rises at track(), before the first step, and falls on return."""
    tracked = ctx.track(value(3))
    assert ctx.task_count == 1
    assert await tracked == 3
    assert ctx.task_count == 0


async def test_the_count_falls_on_exception(ctx):
    """L18: an exception counts out."""
    with pytest.raises(ValueError):
        await ctx.track(fail(ValueError()))
    assert ctx.task_count == 0


async def test_the_count_falls_on_cancellation(ctx):
    """L18: a cancellation counts out, when the work has unwound."""
    counts = []

    async def work():
        try:
            await anyio.sleep_forever()
        finally:
            counts.append(ctx.task_count)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, ctx.track(work()))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert counts == [1]
    assert ctx.task_count == 0


async def test_the_count_falls_once_on_close(ctx):
    """L18: close() counts out and closes the coroutine, and is harmless when repeated or when it has run."""
    coroutine = value(1)
    tracked = ctx.track(coroutine)
    tracked.close()
    tracked.close()
    assert (ctx.task_count, coroutine.cr_frame) == (0, None)
    done = ctx.track(value(2))
    await done
    done.close()
    assert ctx.task_count == 0


async def test_close_while_it_runs_changes_nothing(ctx):
    """L18: close() of work that runs leaves it on the count until it ends."""
    tracked = ctx.track(value(1))
    steps = tracked.__await__()
    steps.send(None)
    tracked.close()
    assert ctx.task_count == 1
    steps.close()
    assert ctx.task_count == 0


async def test_the_count_falls_when_a_running_one_is_collected(ctx):
    """L18: a suspended task that the garbage collector takes leaves the count, exactly once."""

    @types.coroutine
    def suspend():
        yield

    async def work():
        await suspend()

    steps = ctx.track(work()).__await__()
    steps.send(None)
    assert ctx.task_count == 1
    del steps
    gc.collect()
    assert ctx.task_count == 0


async def test_collection_in_another_thread_counts_out(ctx, in_thread):
    """L18: the garbage collector may count out in any thread; the drain sees it."""
    ctx2 = WorkerContext()
    ctx2.start()

    class Ring:
        pass

    def tangle():
        ring = Ring()
        ring.itself = ring
        coroutine = value(1)
        ring.tracked = ctx2.track(coroutine)
        return weakref.ref(ring)

    ring = tangle()
    assert ctx2.task_count == 1
    ctx2.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is reported, and so may its coroutine be: both are garbage
        await in_thread(gc.collect)
    assert ring() is None
    await ctx2
    assert ctx2.outcome is Outcome.CLEAN


async def test_a_forgotten_one_warns_by_name(ctx):
    """L19: never awaited: the count falls, the coroutine is closed, a ResourceWarning names it."""
    coroutine = value(1)
    tracked = ctx.track(coroutine)
    with pytest.warns(ResourceWarning, match=r"value.*counter.*never awaited"):
        del tracked
        gc.collect()
    assert (ctx.task_count, coroutine.cr_frame) == (0, None)


async def test_a_forgotten_one_says_where_it_was_made(ctx):
    """L19: with tracemalloc on, the warning's source is the coroutine, so its allocation is shown."""
    tracemalloc.start(5)
    try:
        tracked = ctx.track(value(1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del tracked
            gc.collect()
        frames = tracemalloc.get_object_traceback(caught[0].source)
        assert any(frame.filename == __file__ for frame in frames)
    finally:
        tracemalloc.stop()


async def test_results_and_exceptions_pass_untouched(ctx):
    """L20: the very result and the very exception come through, with the traceback of where it was raised."""
    result = object()
    assert await ctx.track(value(result)) is result
    error = ValueError()
    with pytest.raises(ValueError) as raised:
        await ctx.track(fail(error))
    assert raised.value is error
    assert error.__context__ is None
    assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"


async def test_context_variables_flow_both_ways(ctx):
    """L20: tracked work runs in its awaiter's context."""
    flag = contextvars.ContextVar("flag", default=0)

    async def work():
        seen = flag.get()
        flag.set(2)
        return seen

    flag.set(1)
    assert await ctx.track(work()) == 1
    assert flag.get() == 2


async def test_any_awaitable_works(ctx):
    """L20: an object with __await__, another Tracked, and a generator-based coroutine are tracked alike."""

    class Ready:
        def __await__(self):
            yield from value(5).__await__()
            return 5

    @types.coroutine
    def old_style():
        result = yield from value(6).__await__()
        return result

    assert await ctx.track(Ready()) == 5
    assert await ctx.track(old_style()) == 6
    assert await ctx.track(ctx.track(value(7))) == 7


def test_futures_and_tasks_work():
    """L20: asyncio's own futures and tasks are tracked, and tracked work serves asyncio's helpers."""

    async def main():
        ctx = WorkerContext()
        ctx.start()
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 1)
        assert await ctx.track(future) == 1
        assert await ctx.track(asyncio.create_task(value(2))) == 2
        assert await asyncio.gather(ctx.track(value(3)), ctx.track(value(4))) == [3, 4]
        assert await asyncio.wait_for(ctx.track(value(5)), 5) == 5
        assert await asyncio.ensure_future(ctx.track(value(6))) == 6
        assert ctx.task_count == 0
        ctx.stop()
        await ctx

    asyncio.run(main())


def test_native_cancel_before_the_first_step():
    """L18: work that asyncio cancels before its first step leaves the count."""

    async def main():
        ctx = WorkerContext()
        ctx.start()
        task = asyncio.ensure_future(ctx.track(value(1)))
        assert ctx.task_count == 1
        task.cancel()
        with pytest.warns(ResourceWarning, match="never awaited"):
            with contextlib.suppress(asyncio.CancelledError):
                await task
            del task
            ctx.stop()
            await asyncio.wait_for(ctx, 5)
        assert ctx.task_count == 0

    asyncio.run(main())


async def test_awaiting_twice_raises_clearly(ctx):
    """L20: a second await says so and leaves the count alone, after the end and while it runs."""
    tracked = ctx.track(value(1))
    await tracked
    with pytest.raises(RuntimeError, match=r"value.*awaited or closed already.*track a new coroutine"):
        await tracked
    running = ctx.track(value(2))
    steps = running.__await__()
    steps.send(None)
    with pytest.raises(RuntimeError, match="already"):
        await running
    assert ctx.task_count == 1
    steps.close()
    closed = ctx.track(value(3))
    closed.close()
    with pytest.raises(RuntimeError, match="already"):
        await closed


@pytest.mark.parametrize("thing", [5, value, None])
async def test_what_cannot_be_awaited_is_refused(ctx, thing):
    """L20: something that is no awaitable is a TypeError and is not counted."""
    with pytest.raises(TypeError, match=r"track\(\) takes"):
        ctx.track(thing)
    assert ctx.task_count == 0


async def test_paused_nothing_begins_and_running_work_goes_on(ctx):
    """L21: while paused no accepted task begins; those that run go on."""
    steps = []
    first = anyio.Event()

    async def running():
        steps.append("running")
        await first.wait()
        steps.append("went on")

    async def held():
        steps.append("held")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, ctx.track(running()))
        await anyio.wait_all_tasks_blocked()
        ctx.pause()
        tasks.start_soon(run, ctx.track(held()))
        first.set()
        await anyio.wait_all_tasks_blocked()
        assert steps == ["running", "went on"]
        assert ctx.task_count == 1
        ctx.resume()
    assert steps[-1] == "held"


async def test_a_pause_at_the_last_moment_holds(ctx):
    """L21: work that was woken by a resume and finds the worker paused again goes on waiting."""
    steps = []

    async def held():
        steps.append("held")

    ctx.pause()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, ctx.track(held()))
        await anyio.wait_all_tasks_blocked()
        ctx.resume()
        ctx.pause()
        await anyio.wait_all_tasks_blocked()
        assert steps == []
        ctx.resume()
    assert steps == ["held"]


async def test_stop_opens_the_gate():
    """L21: accepted work that was held completes after a stop."""
    ctx = WorkerContext()
    ctx.start()
    ctx.pause()
    results = []

    async def work():
        results.append(await ctx.track(value(9)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        ctx.stop()
        await ctx
    assert results == [9]
    assert ctx.outcome is Outcome.CLEAN


async def test_cancelled_at_the_gate(ctx, residue):
    """L21: work that is cancelled while it is held is closed and leaves nothing behind."""
    coroutine = value(1)
    ctx.pause()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, ctx.track(coroutine))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert coroutine.cr_frame is None
    assert residue(ctx) == {}


@pytest.mark.parametrize("drained", [False, True])
async def test_after_stop_work_is_refused_and_closed(drained):
    """L22: after a stop track() and spawn() raise NotAccepting, and a coroutine that was handed over is closed."""
    coroutine = value(1)
    async with WorkerContext("busy") as ctx:
        ctx.stop("deploy")
        with pytest.raises(NotAccepting, match="deploy"):
            ctx.track(coroutine)
        assert coroutine.cr_frame is None
        with pytest.raises(NotAccepting):
            ctx.spawn(value, 1)
        wrong = value(2)
        with pytest.raises(NotAccepting):
            ctx.spawn(wrong)
        assert wrong.cr_frame is None
    if drained:
        last = value(3)
        with pytest.raises(NotAccepting, match="finished"):
            ctx.track(last)
        assert last.cr_frame is None


async def test_only_coroutines_are_closed():
    """L22: another awaitable that is refused is left alone, even if it has a close()."""

    class Pool:
        closed = False

        def __await__(self):
            yield

        def close(self):
            self.closed = True

    ctx = WorkerContext()
    ctx.stop()
    pool = Pool()
    with pytest.raises(NotAccepting):
        ctx.track(pool)
    assert not pool.closed


async def test_no_task_slips_past_the_drain():
    """L22: with a stop from a thread at any moment, each task was either refused or is waited for."""
    for _ in range(30):
        ctx = WorkerContext()
        ctx.start()
        accepted, ended = [], []

        async def work(ended=ended):
            await anyio.lowlevel.checkpoint()
            ended.append(1)

        async def feed(ctx=ctx, accepted=accepted, work=work):
            with pytest.raises(NotAccepting):
                while True:
                    tracked = ctx.track(work())
                    accepted.append(1)
                    await tracked

        thread = threading.Thread(target=ctx.stop)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(feed)
            thread.start()
            await ctx
            assert ctx.task_count == 0
            assert len(ended) == len(accepted)
        thread.join()


async def test_finished_work_is_forgotten(ctx):
    """L23: nothing of a task that has ended is kept."""

    class Result:
        pass

    async def work():
        return Result()

    tracked = ctx.track(work())
    result = weakref.ref(await tracked)
    watched = weakref.ref(work)
    del tracked, work
    gc.collect()
    assert result() is None
    assert watched() is None


async def test_memory_is_flat(ctx):
    """L23: a million tracked tasks leave memory as it was."""

    async def noop():
        pass

    for _ in range(1000):
        await ctx.track(noop())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100_000):
            await ctx.track(noop())
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()
    gc.collect()  # what earlier tests left may go at any time
    blocks = sys.getallocatedblocks()
    for _ in range(900_000):
        await ctx.track(noop())
    assert sys.getallocatedblocks() - blocks < 1_000


async def test_memory_is_flat_when_work_is_dropped(ctx):
    """L23: so is it when tracked work is closed instead of run."""

    def drop(times):
        for _ in range(times):
            ctx.track(value(1)).close()

    drop(3000)
    await anyio.wait_all_tasks_blocked()
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(20):
        drop(2000)
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()
    assert len(ctx._shell.ledger._dropped) < 2100
    assert sys.getallocatedblocks() - blocks < 2_000
    assert ctx.task_count == 0


async def test_the_drain_waits_for_stable_quiescence():
    """L23: work that holds further accepted work keeps the drain open until the last of it."""
    ctx = WorkerContext()
    ctx.start()
    order = []

    async def inner(number):
        await anyio.lowlevel.checkpoint()
        order.append(number)

    async def outer(held):
        for tracked in held:
            await tracked

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outer, [ctx.track(inner(number)) for number in range(5)])
        ctx.stop()
        await ctx
        order.append("end")
    assert order == [0, 1, 2, 3, 4, "end"]


async def test_no_checkpoint_and_no_task_of_its_own(ctx):
    """L24: tracking adds no suspension to what the coroutine does itself."""

    async def immediate():
        return 1

    steps = ctx.track(immediate()).__await__()
    with pytest.raises(StopIteration) as ended:
        steps.send(None)
    assert ended.value.value == 1

    @types.coroutine
    def suspend():
        yield "mine"

    async def thrice():
        for _ in range(3):
            await suspend()

    assert list(ctx.track(thrice()).__await__()) == ["mine"] * 3
    task = anyio.get_current_task()

    async def who():
        return anyio.get_current_task()

    assert await ctx.track(who()) == task


async def test_repr_names_work_and_worker(ctx):
    """L36: a tracked awaitable says what it runs and for whom."""
    tracked = ctx.track(value(1))
    assert isinstance(tracked, Tracked)
    assert repr(tracked) == "<Tracked value by 'counter'>"
    tracked.close()
