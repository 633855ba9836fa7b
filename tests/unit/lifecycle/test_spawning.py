"""Tasks of a worker's own."""

import asyncio
import contextlib
import gc
import logging
import sys
import traceback
import weakref

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import TaskCancelled, WorkerFailed
from workerctx.lifecycle import Outcome, WorkerContext


async def value(result):
    await anyio.lowlevel.checkpoint()
    return result


async def fail(error):
    await anyio.lowlevel.checkpoint()
    raise error


async def test_a_spawned_task_is_counted_named_and_awaitable():
    """L25: spawn returns a handle that is awaitable, with a name and an age; the task is on the count."""
    async with WorkerContext() as ctx:
        handle = ctx.spawn(value, 4, name="four")
        assert (handle.name, ctx.task_count, handle.done) == ("four", 1, False)
        assert handle.age >= 0
        assert [running.name for running in ctx.running] == ["four"]
        assert repr(handle) == "<SpawnedTask 'four' running>"
        assert await handle == 4
        assert await handle == 4
        assert (handle.done, ctx.task_count, ctx.running) == (True, 0, ())
        assert repr(handle) == "<SpawnedTask 'four' ended>"
        assert ctx.spawn(value, 1).name == "value"
        assert anyio.get_current_task().name != "four"


async def test_the_task_carries_the_name():
    """L25: the event loop's task has the name as well."""

    async def who():
        return anyio.get_current_task().name

    async with WorkerContext() as ctx:
        assert await ctx.spawn(who, name="me") == "me"


async def test_many_wait_for_one_handle(in_thread):
    """L25: any number of tasks, on any loop, get the result."""
    release = anyio.Event()
    results = []

    async def wait(handle):
        results.append(await handle)

    async def work():
        await release.wait()
        return 8

    async with WorkerContext() as ctx:
        handle = ctx.spawn(work)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait, handle)
            tasks.start_soon(in_thread, lambda: anyio.run(wait, handle, backend="asyncio"))
            tasks.start_soon(in_thread, lambda: anyio.run(wait, handle, backend="trio"))
            await anyio.lowlevel.checkpoint()
            release.set()
    assert results == [8] * 5


async def test_cancelling_a_waiter_leaves_the_task_alone():
    """L25: a waiter that gives up does not touch the task."""
    async with WorkerContext() as ctx:
        release = anyio.Event()
        handle = ctx.spawn(release.wait)
        with anyio.move_on_after(0):
            await handle
        assert not handle.done
        assert handle._life["latch"].waiting == 0
        release.set()
        await handle


async def test_cancel_ends_the_task():
    """L25: cancel() cancels this one task; awaiting it says so; twice or late is harmless."""
    async with WorkerContext() as ctx:
        handle, other = ctx.spawn(anyio.sleep_forever), ctx.spawn(value, 1)
        gc.collect()
        handle.cancel()
        handle.cancel()
        with pytest.raises(TaskCancelled, match="sleep_forever"):
            await handle
        handle.cancel()
        assert await other == 1
        begun = ctx.spawn(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        begun.cancel()
        with pytest.raises(TaskCancelled):
            await begun
    assert ctx.outcome is Outcome.CLEAN


async def test_a_failing_task_is_told_logged_and_raised(record, names, caplog):
    """L25: a failure is an Error event with name and seconds, a log entry, and is raised to whoever awaits."""
    error = ValueError("broken")
    async with WorkerContext("w") as ctx:
        heard = record(ctx)
        handle = ctx.spawn(fail, error, name="frail")
        for _ in range(2):
            with pytest.raises(ValueError, match="broken") as raised:
                await handle
            assert raised.value is error
        assert names(heard) == ["Error"]
        assert (heard[0].name, heard[0].error, heard[0].as_error()) == ("frail", error, error)
        assert heard[0].seconds >= 0
        assert ctx.is_running
    assert "task 'frail' of worker 'w' failed" in caplog.messages
    assert ctx.outcome is Outcome.CLEAN


async def test_the_traceback_does_not_grow():
    """L25: each waiter sees the traceback of the failure, not that of the waiters before it."""
    async with WorkerContext() as ctx:
        handle = ctx.spawn(fail, ValueError())
        lengths = set()
        for _ in range(3):
            try:
                await handle
            except ValueError as exc:
                frames = traceback.extract_tb(exc.__traceback__)
                assert frames[-1].name == "fail"
                lengths.add(len(frames))
        assert len(lengths) == 1


async def test_a_failure_makes_no_cycle(monkeypatch):
    """L25: what a failed task's frames hold is freed with the handle, without the garbage collector."""
    monkeypatch.setattr(logging.getLogger("workerctx"), "disabled", True)  # a log record keeps the traceback

    class Held:
        pass

    held = Held()
    watch = weakref.ref(held)

    async def work(held):
        raise ValueError

    async with WorkerContext() as ctx:
        gc.collect()
        gc.disable()
        try:
            handle = ctx.spawn(work, held)
            del held
            await anyio.wait_all_tasks_blocked()
            assert handle.done
            assert watch() is not None
            del handle
            assert watch() is None
        finally:
            gc.enable()


async def test_raising_a_failure_makes_no_cycle(monkeypatch):
    """L25: nor does raising it to whoever awaits."""
    monkeypatch.setattr(logging.getLogger("workerctx"), "disabled", True)

    class Held:
        pass

    async def work(held):
        raise ValueError

    async with WorkerContext() as ctx:
        gc.collect()
        gc.disable()
        try:
            held = Held()
            watch = weakref.ref(held)
            spawned = [ctx.spawn(work, held)]
            del held
            with contextlib.suppress(ValueError):
                await spawned.pop()
            await anyio.wait_all_tasks_blocked()
            assert watch() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("drain", [False, True])
async def test_an_essential_task_fails_the_worker(drain):
    """L25: a failing essential task fails the worker, before a stop and while draining."""
    error = OSError("lost")
    ctx = WorkerContext()
    with pytest.raises(WorkerFailed) as raised:
        async with ctx:
            ctx.spawn(fail, error, essential=True)
            other = ctx.spawn(anyio.sleep_forever)
            if not drain:
                await anyio.sleep_forever()
    assert raised.value.__cause__ is error
    assert ctx.outcome is Outcome.FAILED
    with pytest.raises(TaskCancelled):
        await other


async def test_an_essential_task_may_end():
    """L25: an essential task that returns, or is cancelled, fails nothing."""
    async with WorkerContext() as ctx:
        await ctx.spawn(value, 1, essential=True)
        handle = ctx.spawn(anyio.sleep_forever, essential=True)
        handle.cancel()
    assert ctx.outcome is Outcome.CLEAN


async def test_the_deadline_cancels_spawned_tasks(virtual_time):
    """L25: at the deadline a spawned task is cancelled, and whoever awaits it hears so."""
    async with WorkerContext(grace=5) as ctx:
        virtual_time()
        handle = ctx.spawn(anyio.sleep_forever)
    with pytest.raises(TaskCancelled):
        await handle
    assert ctx.outcome is Outcome.CANCELLED
    assert 4.9 < virtual_time() < 5.1


async def test_the_gate_holds_spawned_tasks_too():
    """L21: a task that is spawned while paused does not begin before the resume, nor before the stop."""
    steps = []

    async def work(name):
        steps.append(name)

    async with WorkerContext() as ctx:
        ctx.pause()
        ctx.spawn(work, "one")
        await anyio.wait_all_tasks_blocked()
        assert (steps, ctx.task_count) == ([], 1)
        ctx.resume()
        await anyio.wait_all_tasks_blocked()
        assert steps == ["one"]
        ctx.pause()
        ctx.spawn(work, "two")
    assert steps == ["one", "two"]
    assert ctx.outcome is Outcome.CLEAN


async def test_what_cannot_be_spawned_is_refused():
    """L25: a coroutine, a plain function and a value are refused with the remedy, and nothing is counted."""
    async with WorkerContext() as ctx:
        coroutine = value(1)
        with pytest.raises(TypeError, match="func, \\*args"):
            ctx.spawn(coroutine)
        assert coroutine.cr_frame is None
        with pytest.raises(TypeError, match="async function"):
            ctx.spawn(lambda: 5)
        with pytest.raises(TypeError, match="func, \\*args"):
            ctx.spawn(5)
        assert (ctx.task_count, ctx.running) == (0, ())


async def test_a_task_spawns_another():
    """L25: tasks may spawn tasks, and the drain waits for all of them."""
    ends = []

    async def work(depth):
        await anyio.lowlevel.checkpoint()
        if depth:
            ctx.spawn(work, depth - 1)
        ends.append(depth)

    async with WorkerContext() as ctx:
        ctx.spawn(work, 3)
        while len(ends) < 4:
            await anyio.lowlevel.checkpoint()
    assert ends == [3, 2, 1, 0]
    assert ctx.outcome is Outcome.CLEAN


@pytest.mark.parametrize("hold", [False, True])
def test_native_cancel_before_the_first_step(hold, recwarn, caplog):
    """L25: the accounting survives asyncio's Task.cancel() before the first step, whoever keeps the task."""

    async def main():
        ctx = WorkerContext("native", grace=None)
        handles, kept = [], []

        async def host():
            async with ctx:
                before = asyncio.all_tasks()
                handles.append(ctx.spawn(value, 1))
                kept.extend(asyncio.all_tasks() - before)
                kept[0].cancel()
                if not hold:
                    kept.clear()
                await asyncio.sleep(3600)

        await asyncio.wait_for(host(), 5)
        assert (ctx.task_count, ctx.running, ctx.outcome) == (0, (), Outcome.CANCELLED)
        with pytest.raises(TaskCancelled):
            await handles[0]

    asyncio.run(main())
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert any("native cancellation" in message for message in caplog.messages)


def test_native_cancel_after_the_first_step():
    """L25: a native cancel of a running task ends that task and nothing else."""

    async def main():
        async with WorkerContext() as ctx:
            before = asyncio.all_tasks()
            handle, other = ctx.spawn(asyncio.sleep, 3600), ctx.spawn(value, 1)
            await asyncio.sleep(0)
            (task,) = (task for task in asyncio.all_tasks() - before if "sleep" in task.get_name())
            task.cancel()
            with pytest.raises(TaskCancelled):
                await handle
            assert await other == 1
            assert ctx.is_running
        assert ctx.outcome is Outcome.CLEAN

    asyncio.run(main())


async def test_a_leaked_cancellation_ends_only_that_task():
    """L25: a CancelledError that no scope asked for, as from a cancelled future, is that task's end."""
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:

        async def work():
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        async with WorkerContext() as ctx:
            with pytest.raises(TaskCancelled):
                await ctx.spawn(work)
            assert ctx.is_running


if sys.version_info >= (3, 12):

    def test_eager_tasks():
        """L25: with asyncio's eager task factory everything is counted as usual."""

        async def immediate():
            return 3

        async def main():
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            async with WorkerContext() as ctx:
                assert await ctx.spawn(immediate) == 3
                assert await ctx.spawn(value, 4) == 4
                assert await asyncio.create_task(_await(ctx.track(value(5)))) == 5
                handle = ctx.spawn(asyncio.sleep, 3600)
                handle.cancel()
                with pytest.raises(TaskCancelled):
                    await handle
                assert (ctx.task_count, ctx.running) == (0, ())
            assert ctx.outcome is Outcome.CLEAN

        asyncio.run(main())


async def _await(awaitable):
    return await awaitable


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()"])
@pytest.mark.parametrize("how", ["spawn", "track", "sync listener", "async listener"])
def test_interrupts_end_the_program(program, anyio_backend, error, how):
    """L25: SystemExit and KeyboardInterrupt are not swallowed: the worker has failed and the program ends by them."""
    done = program(
        f"""
        import atexit, logging, anyio
        from workerctx.lifecycle import WorkerContext, Start, Error

        logging.disable()
        how = {how!r}
        ctx = WorkerContext("w", grace=None)
        told = []
        ctx.listen(lambda ctx, event: told.append(type(event.error).__name__), Error)
        handles = []

        async def work():
            raise {error}

        async def hear(ctx, event):
            raise {error}

        async def main():
            if how == "sync listener":
                ctx.listen(lambda ctx, event: (_ for _ in ()).throw({error}), Start)
            if how == "async listener":
                ctx.listen(hear, Start)
            async with ctx:
                if how == "spawn":
                    handles.append(ctx.spawn(work))
                if how == "track":
                    await ctx.track(work())
                await anyio.sleep_forever()

        @atexit.register
        def look():
            print(ctx.state.value, type(ctx.failure).__name__, ctx.task_count, told)

        anyio.run(main, backend=BACKEND)
        """,
        anyio_backend,
    )
    name = error.partition("(")[0]
    told = [name] if how in {"spawn", "track"} else []
    assert done.stdout.split(maxsplit=3) == ["stopped", name, "0", f"{told}\n"], done.stderr
    assert done.returncode == (3 if name == "SystemExit" else -2 if "KeyboardInterrupt" in done.stderr else 1), done
