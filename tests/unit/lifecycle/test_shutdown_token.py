"""One token that stops many."""

import gc
import threading
import weakref

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import InvalidTransition
from workerctx.lifecycle import Outcome, Shutdown, Stop, WorkerContext


async def test_a_token_stops_everybody_who_holds_it():
    """L38: setting the token stops all its contexts, whatever their state, with its reason."""
    token = Shutdown()
    pending, running, paused = (WorkerContext(name, shutdown=token) for name in "abc")
    running.start()
    paused.start()
    paused.pause()
    assert (token.is_set, token.reason, repr(token)) == (False, None, "<Shutdown not set>")
    assert token.set("maintenance") is True
    assert token.set("again") is False
    assert (token.is_set, token.reason, repr(token)) == (True, "maintenance", "<Shutdown set: maintenance>")
    for ctx in (pending, running, paused):
        assert (ctx.is_shutting_down, ctx.reason) == (True, "maintenance")
        await ctx


async def test_a_context_made_with_a_set_token_is_stopped():
    """L38: a context that is given a set token is shutting down from the first moment."""
    token = Shutdown()
    token.set()
    ctx = WorkerContext(shutdown=token)
    assert (ctx.is_shutting_down, ctx.outcome) == (True, Outcome.NEVER_STARTED)
    with pytest.raises(InvalidTransition):
        ctx.start()


async def test_shutting_down_holds_for_all_as_soon_as_it_is_set():
    """L38: a listener of the first context to be stopped sees the others shutting down, though not yet stopped."""
    token = Shutdown()
    contexts = [WorkerContext(name, shutdown=token) for name in "abc"]
    seen = []
    for ctx in contexts:
        ctx.start()
        ctx.listen(lambda *_: seen.append([ctx.is_shutting_down for ctx in contexts]), Stop)
    token.set()
    assert seen == [[True] * 3] * 3
    for ctx in contexts:
        await ctx


async def test_many_await_it():
    """L38: any number of tasks on any loop may await the token, before and after it is set."""
    token = Shutdown()
    done = []

    async def wait():
        await token
        done.append(1)

    threads = [
        threading.Thread(target=anyio.run, args=(wait,), kwargs={"backend": backend}) for backend in ("asyncio", "trio")
    ]
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(wait)
        for thread in threads:
            thread.start()
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0):
            await token
        token.set()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    await wait()
    assert len(done) == 13
    assert token._latch.waiting == 0


async def test_it_is_set_once_from_any_thread(in_thread):
    """L38: of many threads that set the token with the same words, one set it."""
    for _ in range(30):
        token = Shutdown()
        ctx = WorkerContext(shutdown=token)
        ctx.start()
        together = threading.Barrier(6)
        won = []

        def race(token=token, together=together, won=won):
            together.wait()
            won.append(token.set())

        threads = [threading.Thread(target=race) for _ in range(6)]

        def all_race(threads=threads):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        await in_thread(all_race)
        assert won.count(True) == 1
        await ctx


async def test_stop_with_a_grace_goes_to_everybody(virtual_time):
    """L38: stop() on the token sets it and can shorten everybody's drain later."""
    token = Shutdown()
    ctx = WorkerContext(shutdown=token, grace=None)
    async with ctx:
        virtual_time()
        ctx.spawn(anyio.sleep_forever)
        assert token.stop("deploy") is True
        await anyio.sleep(1)
        assert token.stop("now", grace=2) is False
    assert (ctx.reason, token.reason) == ("deploy", "deploy")
    assert 2.9 < virtual_time() < 3.1


async def test_after_hands_back_the_result():
    """L38: after(awaitable) sets the token when it ends, and hands back what it returned or raised."""

    async def value():
        await anyio.lowlevel.checkpoint()
        return 5

    async def fail():
        raise OSError("gone")

    token = Shutdown()
    assert await token.after(value()) == 5
    assert token.is_set
    token = Shutdown()
    with pytest.raises(OSError, match="gone"):
        await token.after(fail())
    assert token.is_set
    token = Shutdown()
    with anyio.move_on_after(0):
        await token.after(anyio.sleep_forever())
    assert token.is_set


async def test_a_broken_listener_does_not_save_the_others():
    """L38: a listener that breaks one stop does not keep the token from the other contexts."""

    class Abrupt(BaseException):
        pass

    def abrupt(ctx, event):
        raise Abrupt

    token = Shutdown()
    contexts = [WorkerContext(name, shutdown=token) for name in "abc"]
    for ctx in contexts:
        ctx.start()
    contexts[1].listen(abrupt, Stop)
    with pytest.raises(Abrupt):
        token.set()
    assert all(ctx.is_stopped for ctx in contexts)
    for ctx in contexts:
        await ctx


async def test_a_token_keeps_nobody_alive_and_dies_at_once():
    """L38: the token holds its contexts weakly, and makes no cycle of its own."""
    gc.disable()
    try:
        token = Shutdown()
        ctx = WorkerContext(shutdown=token)
        gone = weakref.ref(ctx), weakref.ref(token)
        del ctx
        assert gone[0]() is None
        token.set()
        del token
        assert gone[1]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("grace", [-1, float("nan")])
async def test_a_grace_that_is_none_leaves_the_token_as_it_was(grace):
    """What is refused has changed nothing."""
    token = Shutdown()
    with pytest.raises(ValueError, match="grace must be 0 or more"):
        token.stop(grace=grace)
    assert not token.is_set
