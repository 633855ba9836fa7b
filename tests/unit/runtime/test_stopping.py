"""W3: how a loop stops, whenever and however it is told to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import InvalidTransition, WorkerFailed
from workerctx.lifecycle import Outcome, Shutdown, Start, Stop
from workerctx.queue import CancelReason, JobState
from workerctx.service import JobCtx

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.runtime import WorkerLoop
    from workerctx.service import JobRegistry


@pytest.fixture
def told() -> list[CancelReason | None]:
    """What handlers were told."""
    return []


@pytest.fixture
def patient(jobs: JobRegistry, told: list[CancelReason | None]) -> Any:
    """A handler that runs until it is told to stop, and then finishes."""

    @jobs.register(max_attempts=1, name="patient")
    async def patient(ctx: JobCtx) -> str:
        told.append(None)
        told[-1] = await ctx.cancel.wait()
        assert ctx.stopping
        return "finished in peace"

    return patient


@pytest.fixture
def endless(jobs: JobRegistry) -> Any:
    """A handler that runs until it is cancelled."""

    @jobs.register(max_attempts=1, name="endless")
    async def endless(ctx: JobCtx, number: int = 0) -> None:
        await anyio.sleep_forever()

    return endless


async def test_a_stop_tells_handlers_at_once_and_lets_them_finish(
    patient: Any, serving: Callable[..., Any], told: Any, eventually: Any, fetch: Any
) -> None:
    """W3: handlers hear the reason `shutdown` at once, well before the grace is over, and their results are stored."""
    handle = await patient.enqueue()
    async with serving(grace=3600) as loop:
        await eventually(lambda: told == [None])
        loop.shutdown("deploy")
        await loop.context.wait_stopping()
    assert told == [CancelReason.SHUTDOWN]
    assert (await fetch(handle)).result == "finished in peace"
    assert (loop.context.outcome, loop.context.reason) == (Outcome.CLEAN, "deploy")


async def test_nothing_is_claimed_after_a_stop(
    jobs: JobRegistry, patient: Any, serving: Callable[..., Any], told: Any, eventually: Any, count: Any
) -> None:
    """W3: jobs that wait when the stop comes are left as they were."""
    for _ in range(20):
        await patient.enqueue()
    async with serving(concurrency=2) as loop:
        await eventually(lambda: told == [None, None])
        loop.shutdown()
    assert len(told) == 2
    assert (await count(JobState.SUCCEEDED), await count(JobState.QUEUED)) == (2, 18)
    waiting = (await jobs.storage.jobs.list(state=JobState.QUEUED)).jobs
    assert {(job.attempt, job.deliveries) for job in waiting} == {(0, 0)}


async def test_the_deadline_cancels_and_gives_back(
    endless: Any, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """W3: what has not finished within the grace is cancelled and released, and no attempt is burnt."""
    handle = await endless.enqueue()
    async with serving(grace=0.1) as loop:
        await eventually(lambda: loop.in_flight == 1)
        loop.shutdown()
    job = await fetch(handle)
    assert (job.state, job.attempt, job.deliveries, job.error) == (JobState.QUEUED, 0, 0, None)
    assert loop.context.outcome is Outcome.CANCELLED


async def test_a_handler_that_answers_the_deadline_with_an_error_is_given_back(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """W3: a run that was cancelled by the shutdown and raises something of its own burns no attempt either."""

    @jobs.register(max_attempts=1)
    async def wrapping() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as exc:
            raise RuntimeError("the connection broke off") from exc

    handle = await wrapping.enqueue()
    async with serving(grace=0) as loop:
        await eventually(lambda: loop.in_flight == 1)
        loop.shutdown()
    job = await fetch(handle)
    assert (job.state, job.attempt, job.error) == (JobState.QUEUED, 0, None)


async def test_a_handler_that_checks_in_a_thread_is_given_back(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """W3: a sync handler that obeys `ctx.cancel.check()` at a shutdown is given back without a burnt attempt."""

    @jobs.register(max_attempts=1)
    def loops(ctx: JobCtx) -> None:
        while True:
            ctx.cancel.check()
            threading.Event().wait(0.005)

    handle = await loops.enqueue()
    async with serving() as loop:
        await eventually(lambda: loop.in_flight == 1)
        loop.shutdown()
    job = await fetch(handle)
    assert (job.state, job.attempt, job.error) == (JobState.QUEUED, 0, None)


async def test_prefetched_jobs_are_given_back_at_a_stop(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], count: Any
) -> None:
    """W3: a stop in the middle of a flood loses nothing, runs nothing twice, and burns nothing."""
    runs: list[int] = []

    @jobs.register(max_attempts=1)
    async def quick(number: int) -> None:
        runs.append(number)
        if len(runs) == 1500:
            loop.shutdown()

    loop = make_loop(concurrency=8)
    await jobs.enqueue_bulk([quick.request(number) for number in range(5000)])
    with anyio.fail_after(20):
        await loop.run()
    done = await count(JobState.SUCCEEDED)
    assert done == len(runs) == len(set(runs))
    assert 1500 <= done < 5000
    assert await count(JobState.RUNNING) == 0
    left = (await jobs.storage.jobs.list(state=JobState.QUEUED, limit=5000)).jobs
    assert {(job.attempt, job.deliveries) for job in left} == {(0, 0)}
    with anyio.fail_after(20):
        await make_loop().drain()
    assert sorted(runs) == list(range(5000))


async def test_a_stop_from_a_thread_in_a_flood(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], count: Any
) -> None:
    """W3: a stop that comes from another thread at any moment burns no attempt and loses nothing."""
    runs: list[int] = []

    @jobs.register(max_attempts=1)
    async def quick(number: int) -> None:
        runs.append(number)

    await jobs.enqueue_bulk([quick.request(number) for number in range(6000)])
    for pause in (0.001, 0.004, 0.009, 0.016, 0.025):
        loop = make_loop(concurrency=8)
        stopper = threading.Thread(
            target=lambda loop=loop, pause=pause: (threading.Event().wait(pause), loop.shutdown())
        )
        with anyio.fail_after(20):
            async with loop:
                stopper.start()
                await loop.context.wait_stopping()
        stopper.join()
    assert len(runs) == len(set(runs)) == await count(JobState.SUCCEEDED)
    assert await count(JobState.DEAD, JobState.SCHEDULED, JobState.RUNNING) == 0


async def test_a_stop_while_idle_is_prompt_and_takes_the_name_off_the_list(
    jobs: JobRegistry, endless: Any, serving: Callable[..., Any], eventually: Any
) -> None:
    """W3: an idle loop ends at once, whatever its grace, and deregisters."""

    async def registered() -> bool:
        return bool(await jobs.storage.workers.list())

    async with serving(grace=3600, poll_interval=3600.0) as loop:
        await eventually(registered)
        with anyio.fail_after(5):
            loop.shutdown()
            await loop.context.wait_stopping()
    assert await jobs.storage.workers.list() == [] or not await registered()
    assert loop.context.outcome is Outcome.CLEAN


async def test_stop_before_run(endless: Any, make_loop: Callable[..., WorkerLoop], jobs: JobRegistry) -> None:
    """W3, L6: a loop that was stopped before it ran refuses to run, and touches nothing."""
    loop = make_loop()
    loop.shutdown()
    with pytest.raises(InvalidTransition):
        await loop.run()
    assert loop.context.outcome is Outcome.NEVER_STARTED
    assert not await jobs.storage.workers.list()


async def test_a_second_run_is_refused_and_harms_nobody(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """W3: a loop runs once; a second run, during the first or after it, is refused and changes nothing."""

    @jobs.register
    async def double(number: int) -> int:
        return number * 2

    async with serving() as loop:
        with pytest.raises(InvalidTransition):
            await loop.run()
        handle = await double.enqueue(4)
        assert await handle.result(timeout=5) == 8
        assert loop.context.is_running
    with pytest.raises(InvalidTransition):
        await loop.run()


async def test_a_stop_during_start_up_returns_cleanly(registry: JobRegistry, hurried: Any, anyio_backend: str) -> None:
    """W3: a stop that comes while the store is being opened ends `run` without an error."""
    from workerctx.runtime import WorkerLoop

    @registry.register
    async def nothing() -> None:
        pass

    loop = WorkerLoop(registry, hurried())

    async def stop_soon() -> None:
        await anyio.lowlevel.checkpoint()
        loop.shutdown("changed my mind")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_soon)
            await loop.run()
    assert loop.context.is_finished


async def test_a_stop_by_a_listener_of_the_start(endless: Any, make_loop: Callable[..., WorkerLoop]) -> None:
    """W3: a stop at the very moment of the start is obeyed."""
    loop = make_loop()
    loop.context.listen(lambda ctx, event: ctx.stop("at once"), Start)
    with anyio.fail_after(10):
        await loop.run()
    assert loop.context.outcome is Outcome.CLEAN


async def test_cancellation_from_outside_gives_jobs_back(
    endless: Any, make_loop: Callable[..., WorkerLoop], eventually: Any, fetch: Any, jobs: JobRegistry
) -> None:
    """W3, L0: a cancelled `run` releases its jobs, deregisters, and lets the cancellation go on."""
    handle = await endless.enqueue()
    loop = make_loop(grace=3600)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop.run)
            await eventually(lambda: loop.in_flight == 1)
            tasks.cancel_scope.cancel()
    job = await fetch(handle)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)
    assert loop.context.outcome is Outcome.CANCELLED
    assert not await jobs.storage.workers.list()


async def test_cancellation_in_a_flood_loses_nothing(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], count: Any, eventually: Any, caplog: Any
) -> None:
    """W3: a cancellation in the middle of a round neither loses outcomes nor tells them twice."""
    runs: list[int] = []

    @jobs.register(max_attempts=1)
    async def quick(number: int) -> None:
        runs.append(number)

    await jobs.enqueue_bulk([quick.request(number) for number in range(6000)])
    for goal in (10, 500, 1500, 3000):
        loop = make_loop(concurrency=8)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(loop.run)
                await eventually(lambda goal=goal: len(runs) >= goal)
                tasks.cancel_scope.cancel()
        assert await count(JobState.RUNNING) == 0
        assert await count(JobState.SUCCEEDED) == len(runs) == len(set(runs))
    assert "too late" not in caplog.text


async def test_a_handler_may_stop_its_worker(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], fetch: Any
) -> None:
    """W3: a handler that stops the worker is told `shutdown` like the others, and its result is stored."""

    @jobs.register
    async def last(ctx: JobCtx) -> str | None:
        ctx.worker.stop("enough")
        return ctx.cancel.reason

    handle = await last.enqueue()
    with anyio.fail_after(10):
        await make_loop().run()
    assert (await fetch(handle)).result == "shutdown"


async def test_a_token_stops_loops(endless: Any, make_loop: Callable[..., WorkerLoop], eventually: Any) -> None:
    """L38: a Shutdown token stops every loop that holds it."""
    token = Shutdown()
    loops = [make_loop(shutdown=token, grace=0) for _ in range(2)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for loop in loops:
                tasks.start_soon(loop.run)
            await eventually(lambda: all(loop.context.is_running for loop in loops))
            token.set("maintenance")
    assert [loop.context.reason for loop in loops] == ["maintenance"] * 2


@pytest.mark.parametrize("sync", [False, True])
async def test_keyboard_interrupt_in_a_handler(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], fetch: Any, sync: bool
) -> None:
    """W2: KeyboardInterrupt stops the loop, releases the jobs and comes out of `run`."""

    async def interrupt() -> None:
        raise KeyboardInterrupt

    def interrupt_in_thread() -> None:
        raise KeyboardInterrupt

    @jobs.register(max_attempts=1)
    async def endless() -> None:
        await anyio.sleep_forever()

    handler: Any = jobs.register(max_attempts=1, name="interrupt")(interrupt_in_thread if sync else interrupt)
    other = await endless.enqueue()
    handle = await handler.enqueue()
    loop = make_loop()
    with pytest.raises(KeyboardInterrupt), anyio.fail_after(10):
        await loop.run()
    for one in (handle, other):
        job = await fetch(one)
        assert (job.state, job.attempt, job.error) == (JobState.QUEUED, 0, None)
    assert loop.context.reason == "KeyboardInterrupt"


async def test_a_timeout_is_not_extended_by_a_stop(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """L27: a job whose timeout passes during the drain fails of it, and is not given back."""

    @jobs.register(max_attempts=1, timeout=0.15)
    async def slow() -> None:
        await anyio.sleep_forever()

    handle = await slow.enqueue()
    async with serving(grace=3600) as loop:
        await eventually(lambda: loop.in_flight == 1)
        loop.shutdown()
    job = await fetch(handle)
    assert (job.state, job.error.kind) == (JobState.DEAD, "TimeoutError")


async def test_a_failing_body_cancels_and_gives_back(
    endless: Any, make_loop: Callable[..., WorkerLoop], eventually: Any, fetch: Any
) -> None:
    """L0: an exception in the block around a loop ends it at once, comes out bare, and jobs are given back."""
    handle = await endless.enqueue()
    loop = make_loop(grace=3600)
    with pytest.raises(KeyError, match="body"), anyio.fail_after(10):
        async with loop:
            await eventually(lambda: loop.in_flight == 1)
            raise KeyError("body")
    job = await fetch(handle)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)
    assert loop.context.outcome is Outcome.FAILED


async def test_a_failed_loop_raises_and_gives_back(
    endless: Any, make_loop: Callable[..., WorkerLoop], eventually: Any, fetch: Any
) -> None:
    """L16: a loop whose infrastructure fails gives its jobs back and raises WorkerFailed."""
    handle = await endless.enqueue()
    loop = make_loop(grace=3600)
    with pytest.raises(WorkerFailed) as caught, anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with_failure = loop.context

            async def fail() -> None:
                await eventually(lambda: loop.in_flight == 1)
                with_failure.fail(OSError("disk on fire"))

            tasks.start_soon(fail)
            try:
                await loop.run()
            except WorkerFailed as exc:
                failure = exc
            tasks.cancel_scope.cancel()
        raise failure
    assert isinstance(caught.value.__cause__, OSError)
    job = await fetch(handle)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)


async def test_run_until_hands_back_the_result(jobs: JobRegistry, make_loop: Callable[..., WorkerLoop]) -> None:
    """`run_until` serves until the awaitable ends, hands back its result, and drains."""

    @jobs.register
    async def double(number: int) -> int:
        return number * 2

    async def script() -> int:
        handle = await double.enqueue(21)
        return await handle.result(timeout=5)

    loop = make_loop()
    with anyio.fail_after(10):
        assert await loop.run_until(script()) == 42
    assert loop.context.outcome is Outcome.CLEAN


async def test_run_until_ends_when_the_loop_is_stopped(endless: Any, make_loop: Callable[..., WorkerLoop]) -> None:
    """`run_until` does not wait for the grace when the loop is stopped first: it cancels the awaitable."""
    loop = make_loop(grace=3600)
    loop.context.listen(lambda ctx, event: ctx.stop("elsewhere"), Start)
    with anyio.fail_after(10):
        assert await loop.run_until(anyio.sleep_forever()) is None
    assert loop.context.reason == "elsewhere"


async def test_stop_listeners_see_the_reason_once(endless: Any, make_loop: Callable[..., WorkerLoop]) -> None:
    """L7: a loop's stop is one event, however often it is asked."""
    seen: list[str | None] = []
    loop = make_loop()
    loop.context.listen(lambda ctx, event: seen.append(event.reason), Stop)
    with anyio.fail_after(10):
        async with loop:
            assert loop.shutdown("one")
            assert not loop.shutdown("two")
    assert seen == ["one"]
