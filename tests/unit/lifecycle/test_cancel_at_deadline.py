"""Work in somebody else's task that the deadline may cancel."""

import logging

import anyio
import anyio.lowlevel
import pytest

from workerctx.lifecycle import Outcome, WorkerContext


@pytest.fixture
def events():
    """Events that one test names as it needs them."""

    class Events(dict):
        def __missing__(self, name):
            return self.setdefault(name, anyio.Event())

    return Events()


async def work(ctx, events, *, unwinding=None):
    """Tracked work that a task of the test awaits, in a scope that the context knows."""

    async def body():
        try:
            events["begun"].set()
            await anyio.sleep_forever()
        finally:
            if unwinding is not None:
                with anyio.CancelScope(shield=True):
                    await unwinding.wait()

    with anyio.CancelScope() as scope, ctx.cancel_at_deadline(scope):
        await ctx.track(body())
    assert scope.cancelled_caught
    events["cancelled"].set()


async def test_the_deadline_cancels_a_registered_scope(events, caplog):
    """L26: tracked work in a registered scope is cancelled at the deadline, and is not reported as left over."""
    caplog.set_level(logging.WARNING, "workerctx")
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("web", grace=0.01) as ctx:
            tasks.start_soon(work, ctx, events)
            await events["begun"].wait()
        assert events["cancelled"].is_set()
        assert ctx.outcome is Outcome.CANCELLED
    assert caplog.messages == []


async def test_an_unhosted_context_cancels_a_registered_scope(events):
    """L26: a context that was only started cancels registered scopes as well."""
    ctx = WorkerContext("web", grace=0.01)
    ctx.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, ctx, events)
        await events["begun"].wait()
        ctx.stop()
        await ctx
    assert ctx.outcome is Outcome.CANCELLED


async def test_a_second_stop_brings_the_deadline_of_a_scope_nearer(events):
    """L26: a scope that was given a far deadline by the first stop is cancelled by a second stop with grace 0."""
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("web", grace=3600) as ctx:
            tasks.start_soon(work, ctx, events)
            await events["begun"].wait()
            ctx.stop()
            await anyio.lowlevel.checkpoint()
            assert not events["cancelled"].is_set()
            ctx.stop(grace=0)
            await events["cancelled"].wait()


@pytest.mark.usefixtures("virtual_time")
async def test_a_scope_registered_after_the_stop_has_the_deadline_too(events):
    """L26: work that was accepted before the stop and registers later gets the deadline that holds then."""

    async def late(ctx, tracked):
        with anyio.CancelScope() as scope, ctx.cancel_at_deadline(scope):
            await tracked
        assert scope.cancelled_caught
        events["cancelled"].set()

    with anyio.fail_after(3600):
        async with anyio.create_task_group() as tasks:
            async with WorkerContext("web", grace=7200) as ctx:
                tracked = ctx.track(anyio.sleep_forever())
                ctx.stop()
                ctx.stop(grace=60)
                await anyio.sleep(1)
                tasks.start_soon(late, ctx, tracked)
            assert events["cancelled"].is_set()


async def test_a_scope_keeps_an_earlier_deadline_of_its_own():
    """L27: registering a scope never moves its deadline away."""
    async with WorkerContext("web", grace=3600) as ctx:
        soon = anyio.current_time() + 60
        with anyio.CancelScope(deadline=soon) as scope, ctx.cancel_at_deadline(scope):
            ctx.stop()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert scope.deadline == soon


async def test_a_scope_is_forgotten_when_its_block_ends():
    """L23: nothing of a registered scope stays behind, and a later stop does not touch it."""
    async with WorkerContext("web", grace=0) as ctx:
        with anyio.CancelScope() as scope, ctx.cancel_at_deadline(scope):
            await anyio.lowlevel.checkpoint()
    assert not scope.cancel_called
    assert ctx.outcome is Outcome.CLEAN


async def test_a_failure_cancels_a_registered_scope_at_once(events):
    """L29: when the context fails, registered scopes are cancelled as spawned tasks are."""
    ctx = WorkerContext("web", grace=3600)
    ctx.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, ctx, events)
        await events["begun"].wait()
        ctx.fail(RuntimeError("the store is gone"))
        await events["cancelled"].wait()


async def test_a_scope_that_does_not_unwind_is_reported(events, caplog, monkeypatch):
    """L26: work in a registered scope that goes on after it was cancelled is reported by name, and waited for."""
    monkeypatch.setattr("workerctx.lifecycle.shell.UNWINDING", 0.01)
    release = anyio.Event()

    class Reported(logging.Handler):
        def emit(self, record):
            release.set()

    handler = Reported(logging.WARNING)
    logging.getLogger("workerctx").addHandler(handler)
    try:
        async with anyio.create_task_group() as tasks:
            async with WorkerContext("web", grace=0) as ctx:
                with anyio.fail_after(10):
                    tasks.start_soon(lambda: work(ctx, events, unwinding=release))
                    await events["begun"].wait()
    finally:
        logging.getLogger("workerctx").removeHandler(handler)
    assert "body" in caplog.text
    assert ctx.outcome is Outcome.CANCELLED
