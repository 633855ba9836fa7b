"""Calls from threads, other loops and beyond the end of the loop; two backends in one process."""

import asyncio
import contextlib
import threading

import anyio
import anyio.lowlevel
import pytest
import trio

from workerctx.errors import InvalidTransition, WorkerFailed
from workerctx.lifecycle import Outcome, Shutdown, Start, WorkerContext

CALLS = {
    "start": WorkerContext.start,
    "pause": WorkerContext.pause,
    "resume": WorkerContext.resume,
    "emit": lambda ctx: ctx.emit("x"),
    "listen": lambda ctx: ctx.listen(print, Start).disconnect(),
    "wrap": lambda ctx: ctx.wrap_listener(lambda *_: None).disconnect(),
    "mark_unready": lambda ctx: ctx.mark_unready("no"),
    "mark_ready": WorkerContext.mark_ready,
    "stop_when_idle": WorkerContext.stop_when_idle,
    "statistics": WorkerContext.statistics,
    "running": lambda ctx: ctx.running,
    "repr": repr,
    "stop": WorkerContext.stop,
    "fail": lambda ctx: ctx.fail(OSError()),
}


def call_all(ctx):
    for call in CALLS.values():
        with contextlib.suppress(InvalidTransition):
            call(ctx)


@pytest.mark.parametrize("other", ["thread", "asyncio", "trio"])
async def test_every_sync_method_from_elsewhere(other, in_thread, record, names):
    """L32: every sync method may be called from a thread and from another loop; listeners hear it at home."""
    home = threading.get_ident()
    where = []
    ctx = WorkerContext()
    ctx.start()
    ctx.listen(lambda *_: where.append(threading.get_ident()))
    heard = record(ctx)
    held = ctx.track(anyio.lowlevel.checkpoint())  # or it could have finished before fail() is called

    async def on_a_loop():
        call_all(ctx)

    await in_thread((lambda: call_all(ctx)) if other == "thread" else (lambda: anyio.run(on_a_loop, backend=other)))
    await ctx.wait_stopping()
    held.close()
    with pytest.raises(WorkerFailed):
        await ctx
    assert set(where) == {home}
    assert names(heard) == ["Pause", "Resume", "Custom", "Stop", "Exit"]


async def test_running_tasks_can_be_looked_at_from_a_thread(in_thread):
    """L13: the list of spawned tasks, with their ages, is there for threads too."""
    ages = []
    async with WorkerContext() as ctx:
        task = ctx.spawn(anyio.sleep_forever, name="nap")
        await in_thread(lambda: ages.extend((running.name, running.age >= 0) for running in ctx.running))
        task.cancel()
    assert ages == [("nap", True)]


async def test_a_stop_from_a_thread_wakes_a_sleeping_loop():
    """L32: a loop in which nothing happens is woken at once by a call from a thread."""
    async with WorkerContext() as ctx:
        thread = threading.Thread(target=ctx.stop)
        with anyio.fail_after(10):
            thread.start()
            await ctx.wait_stopping()
        thread.join()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("state", ["running", "finished", "abandoned"])
def test_calls_after_the_loop_closed_are_harmless(backend, state):
    """L32: when the home loop is gone, calls still work, and listeners are told where the call is made."""
    heard = []

    async def main():
        ctx = WorkerContext()
        ctx.listen(lambda _, event: heard.append(type(event).__name__))
        if state == "finished":
            async with ctx:
                pass
        else:
            ctx.start()
        return ctx

    ctx = anyio.run(main, backend=backend)
    if state == "abandoned":
        ctx.track(anyio.lowlevel.checkpoint()).close()
    call_all(ctx)
    assert (ctx.is_stopped, ctx.is_finished, ctx.task_count) == (True, True, 0)
    if state == "finished":
        assert heard == ["Start", "Stop", "Exit", "Custom"]
    else:
        assert heard == ["Start", "Pause", "Resume", "Custom", "Stop", "Exit"]


def test_a_stop_after_the_loop_closed_around_an_entered_context():
    """L32: a context whose loop was closed while it was entered can be stopped without an error."""

    async def main():
        ctx = WorkerContext(grace=5)
        await ctx.__aenter__()
        return ctx

    loop = asyncio.new_event_loop()
    ctx = loop.run_until_complete(main())
    loop.close()
    assert ctx.stop("late") is True
    ctx.stop(grace=0)
    assert ctx.is_stopped


def life(ctx, backend, results, worked):
    async def work():
        await anyio.lowlevel.checkpoint()
        return anyio.get_cancelled_exc_class()

    async def main():
        async with ctx:
            results.append(await ctx.spawn(work))
            results.append(await ctx.track(work()))
            worked.release()
            await ctx.sleep(30)
        await ctx

    anyio.run(main, backend=backend)


def test_two_backends_in_one_process():
    """L34: contexts made at import time run on asyncio and trio side by side, and one token stops them all."""
    token = Shutdown()
    contexts = [(WorkerContext(backend, shutdown=token), backend) for backend in ("asyncio", "trio") * 2]
    results = {id(ctx): [] for ctx, _ in contexts}
    worked = threading.Semaphore(0)
    threads = [
        threading.Thread(target=life, args=(ctx, backend, results[id(ctx)], worked), daemon=True)
        for ctx, backend in contexts
    ]
    for thread in threads:
        thread.start()
    for ctx, _ in contexts:
        anyio.run(ctx.wait_started, backend="trio")
        assert worked.acquire(timeout=20)
    token.set("everybody")
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for ctx, backend in contexts:
        assert (ctx.outcome, ctx.reason) == (Outcome.CLEAN, "everybody")
        assert results[id(ctx)] == [asyncio.CancelledError if backend == "asyncio" else trio.Cancelled] * 2


def test_one_backend_after_the_other():
    """L34: waiting on a context under one backend and then under another works."""
    ctx = WorkerContext()
    for backend in ("asyncio", "trio", "asyncio"):

        async def wait():
            with anyio.move_on_after(0.01):
                await ctx
            with anyio.move_on_after(0.01):
                await ctx.wait_started()

        anyio.run(wait, backend=backend)
    ctx.stop()
    for backend in ("trio", "asyncio"):
        anyio.run(_wait, ctx, backend=backend)


async def _wait(ctx):
    await ctx


def test_native_programs_are_served():
    """L34: asyncio.run and trio.run serve as well as anyio.run."""

    async def main():
        async with WorkerContext() as ctx:
            assert await ctx.spawn(anyio.sleep, 0) is None
        return ctx.outcome

    assert asyncio.run(main()) is Outcome.CLEAN
    assert trio.run(main) is Outcome.CLEAN


async def test_listening_from_threads_loses_nobody(in_thread):
    """L32: listeners that many threads connect at once are all connected, and all disconnect again."""
    ctx = WorkerContext()
    handles = []

    def connect():
        for _ in range(50):
            handles.append(ctx.listen(lambda *_: None))

    threads = [threading.Thread(target=connect) for _ in range(6)]

    def run_all():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    await in_thread(run_all)
    assert len(ctx._shell.outbox.listeners) == 300
    for handle in handles:
        handle.disconnect()
    assert ctx._shell.outbox.listeners == ()
