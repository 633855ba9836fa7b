"""Probes, and what a worker says of itself."""

import gc
import re
import warnings

import anyio.lowlevel
import pytest

from workerctx.errors import WorkerFailed
from workerctx.lifecycle import WorkerContext


async def test_ready_means_could_take_work():
    """L35: ready while it runs, not before, not paused, not stopping; each time with the reason."""
    ctx = WorkerContext()
    assert (ctx.is_ready, ctx.ready_reason) == (False, "not started yet")
    ctx.start()
    assert (ctx.is_ready, ctx.ready_reason) == (True, "running")
    ctx.mark_unready("the store is away")
    assert (ctx.is_ready, ctx.ready_reason) == (False, "the store is away")
    ctx.mark_unready("the store is slow")
    assert (ctx.is_ready, ctx.ready_reason) == (False, "the store is slow")
    ctx.mark_ready()
    assert ctx.is_ready
    ctx.pause("lunch")
    assert (ctx.is_ready, ctx.ready_reason) == (False, "paused: lunch")
    ctx.resume()
    tracked = ctx.track(anyio.lowlevel.checkpoint())
    ctx.stop("deploy")
    assert (ctx.is_ready, ctx.ready_reason) == (False, "stopping: deploy")
    tracked.close()
    await ctx
    assert (ctx.is_ready, ctx.ready_reason) == (False, "finished: deploy")


async def test_each_part_has_a_reason_of_its_own():
    """L35: what one part says of itself neither hides nor ends the trouble of another."""
    async with WorkerContext() as ctx:
        ctx.mark_unready("the disk is full", about="disk")
        ctx.mark_unready("the store is away", about="store")
        assert (ctx.is_ready, ctx.ready_reason) == (False, "the disk is full; the store is away")
        ctx.mark_ready()  # nobody's trouble
        ctx.mark_ready(about="disk")
        assert (ctx.is_ready, ctx.ready_reason) == (False, "the store is away")
        ctx.mark_ready(about="store")
        assert (ctx.is_ready, ctx.ready_reason) == (True, "running")
        ctx.mark_ready(about="store")  # as often as one likes


async def test_alive_means_no_restart_would_help():
    """L35: alive until it has finished or failed, paused and draining included."""
    async with WorkerContext() as ctx:
        assert (ctx.is_alive, ctx.alive_reason) == (True, "running")
        ctx.pause()
        assert (ctx.is_alive, ctx.alive_reason) == (True, "paused")
        ctx.stop()
        assert (ctx.is_alive, ctx.alive_reason) == (True, "stopped")
    assert (ctx.is_alive, ctx.alive_reason) == (False, "finished: clean")
    failing = WorkerContext()
    with pytest.raises(WorkerFailed):
        async with failing:
            failing.fail(OSError("disk"))
            assert (failing.is_alive, failing.alive_reason) == (False, "failed: OSError('disk')")


async def test_repr_tells_the_state():
    """L36: repr names state and count, the time left while stopping, and the outcome in the end."""
    ctx = WorkerContext("mailer", grace=20)
    assert repr(ctx) == "<WorkerContext 'mailer', pending, 0 tasks>"
    ctx.start()
    tracked = ctx.track(anyio.lowlevel.checkpoint())
    assert repr(ctx) == "<WorkerContext 'mailer', running, 1 task>"
    ctx.stop()
    assert re.fullmatch(r"<WorkerContext 'mailer', stopped, 1 task, (20\.0|19\.\d) s left>", repr(ctx))
    tracked.close()
    await ctx
    assert repr(ctx) == "<WorkerContext 'mailer', stopped, 0 tasks, clean>"
    forever = WorkerContext("w", grace=None)
    forever.start()
    held = forever.track(anyio.lowlevel.checkpoint())
    forever.stop()
    assert repr(forever) == "<WorkerContext 'w', stopped, 1 task, no deadline>"
    held.close()
    await forever


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
async def test_dropping_a_running_context_warns(state):
    """L36: a context that is dropped before it has finished warns, at once and not when the collector comes."""

    def drop():
        ctx = WorkerContext("dropped")
        ctx.start()
        if state == "paused":
            ctx.pause()
        if state == "stopped":
            ctx._shell.ledger.entered += 1
            ctx.stop()

    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match=f"'dropped' was dropped while {state}"):
            drop()
    finally:
        gc.enable()


async def test_dropping_others_is_quiet():
    """L36: a context that never started, or has finished, goes without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what other tests have left
        warnings.simplefilter("error")
        WorkerContext()
        WorkerContext().stop()
        async with WorkerContext():
            pass
        gc.collect()
