"""W5, Q1, Q7: leases are kept from a thread, and what the store says of them reaches the handler."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.queue import CancelReason, JobState
from workerctx.runtime import LoopBlocked
from workerctx.service import JobCtx

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.service import JobRegistry


def hold_up_the_event_loop(seconds: float) -> None:
    time.sleep(seconds)


async def test_a_handler_that_blocks_the_loop_keeps_its_job(
    jobs: JobRegistry, make_loop: Callable[..., Any], eventually: Any, fetch: Any, caplog: Any
) -> None:
    """W5: blocked for longer than the lease, the job stays ours; the blocker is named in the log and in an event."""
    blocked: list[LoopBlocked] = []

    @jobs.register(max_attempts=3)
    async def blocking() -> str:
        hold_up_the_event_loop(1.6)
        return "done"

    loop = make_loop(lease_ttl=1.0, heartbeat=0.1, block_warning=0.2, reap_interval=0.05)
    loop.context.listen(lambda ctx, event: blocked.append(event), LoopBlocked)
    handle = await blocking.enqueue()
    with anyio.fail_after(20):
        async with loop:
            assert await handle.result(timeout=10) == "done"
            await eventually(lambda: blocked)
    job = await fetch(handle)
    assert (job.attempt, job.deliveries, job.error_history) == (1, 1, ())
    assert blocked[0].seconds >= 0.2
    assert "hold_up_the_event_loop" in blocked[0].stack
    assert "hold_up_the_event_loop" in caplog.text
    assert "blocking" in caplog.text


async def test_a_sibling_does_not_take_the_job_of_a_blocked_loop(
    jobs: JobRegistry, serving: Callable[..., Any], fetch: Any
) -> None:
    """W5: in the meantime a reaper elsewhere finds nothing to reap."""
    runs = 0

    @jobs.register(max_attempts=3)
    def in_thread() -> int:
        nonlocal runs
        runs += 1
        time.sleep(1.6)
        return runs

    handle = await in_thread.enqueue()
    async with serving(lease_ttl=1.0, heartbeat=0.1), serving(lease_ttl=1.0, heartbeat=0.1, reap_interval=0.02):
        assert await handle.result(timeout=10) == 1
    assert runs == 1


async def test_a_lost_lease_cancels_the_run(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """Q1: a run whose lease was lost is cancelled with that reason, and its outcome changes nothing."""
    told: list[CancelReason | None] = []

    @jobs.register(max_attempts=2)
    async def endless(ctx: JobCtx) -> str:
        if ctx.attempt == 2:
            return "second"
        try:
            await anyio.sleep_forever()
        finally:
            told.append(ctx.cancel.reason)

    handle = await endless.enqueue()
    async with serving(heartbeat=0.1) as loop:
        await eventually(lambda: loop.in_flight == 1)
        await jobs.storage.advance(3600)
        await jobs.storage.jobs.reap_expired_leases()
        await eventually(lambda: told)
        await jobs.storage.advance(3600)
        assert await handle.result(timeout=10) == "second"
    assert told == [CancelReason.LEASE_LOST]


async def test_a_late_finisher_changes_nothing(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any, caplog: Any
) -> None:
    """Q1: an outcome that comes after the reap is refused; the loop logs it and goes on."""
    gate = anyio.Event()

    @jobs.register(max_attempts=1)
    async def late() -> str:
        with anyio.CancelScope(shield=True):
            await gate.wait()
        return "too late"

    handle = await late.enqueue()
    async with serving(heartbeat=0.1) as loop:
        await eventually(lambda: loop.in_flight == 1)
        await jobs.storage.advance(3600)
        await jobs.storage.jobs.reap_expired_leases()
        await eventually(lambda: "lost the lease" in caplog.text)
        gate.set()
        await eventually(lambda: "finished a job too late" in caplog.text)
        assert loop.context.is_running
    job = await fetch(handle)
    assert (job.state, job.error.kind) == (JobState.DEAD, "lease expired")


async def test_startup_leaves_the_jobs_of_siblings_alone(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """W10: a loop that starts beside a running one does not touch its jobs."""
    gate, runs = anyio.Event(), 0

    @jobs.register
    async def long() -> int:
        nonlocal runs
        runs += 1
        await gate.wait()
        return runs

    handle = await long.enqueue()
    async with serving() as first:
        await eventually(lambda: first.in_flight == 1)
        async with serving() as second:
            await eventually(lambda: second.context.is_ready)
            gate.set()
            assert await handle.result(timeout=5) == 1
    assert (await fetch(handle)).deliveries == 1


async def test_jobs_of_a_dead_worker_are_taken_over(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """Q3: a job whose worker vanished is reaped and run again by another one, as its second attempt."""

    @jobs.register(max_attempts=2, retry=None)
    async def work(ctx: JobCtx) -> int:
        return ctx.attempt

    handle = await work.enqueue()
    assert await jobs.storage.jobs.claim("vanished", lease_ttl=1) is not None
    await jobs.storage.advance(2)
    async with serving(reap_interval=0.05):

        async def reaped() -> bool:
            return bool((await fetch(handle)).error_history)

        await eventually(reaped)
        await jobs.storage.advance(3600)
        assert await handle.result(timeout=5) == 2


async def test_the_thread_ends_with_the_loop(jobs: JobRegistry, serving: Callable[..., Any]) -> None:
    """W5: the thread that renews leases is gone when the loop has ended."""
    import threading

    @jobs.register
    async def nothing() -> None:
        pass

    async with serving() as loop:
        names = [thread.name for thread in threading.enumerate()]
        assert f"leases of {loop.context.name}" in names
    assert f"leases of {loop.context.name}" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_user_cancels_a_running_job(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any, sync: bool
) -> None:
    """Q7: a cancelled job is stopped on the loop that runs it, with the reason `user`, and is not retried."""
    told: list[CancelReason | None] = []

    async def wait_forever(ctx: JobCtx) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            told.append(ctx.cancel.reason)

    def loop_forever(ctx: JobCtx) -> None:
        while not ctx.cancel.is_set():
            time.sleep(0.005)
        told.append(ctx.cancel.reason)
        ctx.cancel.check()

    handler: Any = jobs.register(max_attempts=5, name="endless")(loop_forever if sync else wait_forever)
    handle = await handler.enqueue()
    async with serving() as loop:
        await eventually(lambda: loop.in_flight == 1)
        assert await handle.cancel()
        await eventually(lambda: told)
        await eventually(lambda: loop.in_flight == 0)
    assert told == [CancelReason.USER]
    assert (await fetch(handle)).state is JobState.CANCELLED


async def test_a_cancel_reaches_a_loop_elsewhere(
    registry: JobRegistry, url: str, hurried: Any, eventually: Any, tmp_path: Any
) -> None:
    """Q7: the cancel may come through another Storage of the same store."""
    from workerctx.queue import connect
    from workerctx.runtime import WorkerLoop
    from workerctx.service import JobRegistry as Registry

    shared = url if url.startswith("sqlite") else f"memory://{tmp_path.name}"
    jobs = Registry(shared)

    @jobs.register(max_attempts=5)
    async def endless() -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(20):
        async with jobs, connect(shared) as elsewhere:
            handle = await endless.enqueue()
            async with WorkerLoop(jobs, hurried()) as loop:
                await eventually(lambda: loop.in_flight == 1)
                assert await elsewhere.jobs.cancel(handle.id)
                await eventually(lambda: loop.in_flight == 0)
            assert (await elsewhere.jobs.get(handle.id)).state is JobState.CANCELLED


async def test_success_beats_cancel(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """Q7: a handler that finishes although it was cancelled has succeeded."""

    @jobs.register
    async def stubborn(ctx: JobCtx) -> str:
        with anyio.CancelScope(shield=True):
            await ctx.cancel.wait()
        return "done"

    handle = await stubborn.enqueue()
    async with serving() as loop:
        await eventually(lambda: loop.in_flight == 1)
        await handle.cancel()
        assert await handle.result(timeout=5) == "done"
    assert (await fetch(handle)).state is JobState.SUCCEEDED


async def test_an_error_while_being_cancelled_by_a_user_is_a_cancellation(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """Q7: a cancelled job that fails in its clean-up is cancelled, not retried."""

    @jobs.register(max_attempts=5)
    async def clumsy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    handle = await clumsy.enqueue()
    async with serving() as loop:
        await eventually(lambda: loop.in_flight == 1)
        await handle.cancel()
        await eventually(lambda: loop.in_flight == 0)
    assert (await fetch(handle)).state is JobState.CANCELLED


@pytest.mark.parametrize("error", [False, True], ids=["cancelled", "raising"])
async def test_a_paused_queue_gives_its_running_jobs_back(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any, error: bool
) -> None:
    """Q7: pausing a queue with cancel_running stops its runs with that reason; no attempt is burnt."""
    told: list[CancelReason | None] = []

    @jobs.register(max_attempts=1)
    async def endless(ctx: JobCtx) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            told.append(ctx.cancel.reason)
            if error:
                raise ValueError("in the clean-up")

    handle = await endless.enqueue()
    async with serving() as loop:
        await eventually(lambda: loop.in_flight == 1)
        await jobs.storage.jobs.pause_queue("default", cancel_running=True)
        await eventually(lambda: told)
        await eventually(lambda: loop.in_flight == 0)
    job = await fetch(handle)
    assert told == [CancelReason.QUEUE_PAUSED]
    assert (job.state, job.attempt, job.error) == (JobState.QUEUED, 0, None)


async def test_a_resumed_queue_is_served_at_once(jobs: JobRegistry, serving: Callable[..., Any]) -> None:
    """Q7, W6: a paused queue is claimed from by nobody, and its resumption wakes an idle loop."""

    @jobs.register
    async def nothing() -> str:
        return "done"

    await jobs.storage.jobs.pause_queue("default")
    handle = await nothing.enqueue()
    async with serving(poll_interval=3600.0) as loop:
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.1)
        assert loop.in_flight == 0
        await jobs.storage.jobs.resume_queue("default")
        assert await handle.result(timeout=5) == "done"
