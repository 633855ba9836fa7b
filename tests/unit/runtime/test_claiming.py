"""W1, W6: what a loop claims, when, and what it gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from workerctx.lifecycle import Idle
from workerctx.queue import EnqueueRequest, JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.lifecycle import Event, WorkerContext
    from workerctx.runtime import WorkerLoop
    from workerctx.service import JobRegistry


class Gate:
    """A handler's body that says how many are inside and waits to be opened."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.entered = 0
        self.opened = anyio.Event()

    async def __call__(self) -> None:
        self.inside += 1
        self.entered += 1
        self.most = max(self.most, self.inside)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1


async def test_no_more_is_claimed_than_free_slots_can_start(
    jobs: JobRegistry, serving: Callable[..., Any], count: Any, eventually: Any
) -> None:
    """W1: with every slot busy nothing else stays claimed, and each claimed run has begun in the store."""
    gate = Gate()

    @jobs.register
    async def wait(number: int) -> None:
        await gate()

    await jobs.enqueue_bulk([wait.request(number) for number in range(50)])
    async with serving(concurrency=3) as loop:
        await eventually(lambda: gate.inside == 3)
        for _ in range(20):
            assert await count(JobState.RUNNING) == 3
        running = (await jobs.storage.jobs.list(state=JobState.RUNNING)).jobs
        assert [job.attempt for job in running] == [1, 1, 1]
        assert loop.in_flight == 3
        gate.opened.set()
        await eventually(lambda: gate.entered == 50)
    assert gate.most == 3
    assert await count(JobState.SUCCEEDED) == 50


async def test_surplus_goes_back_within_the_window(
    jobs: JobRegistry, serving: Callable[..., Any], count: Any, eventually: Any
) -> None:
    """W1: quick jobs are prefetched; when slow ones follow, the surplus is released and burns no attempt."""
    gate = Gate()
    quick_runs = 0

    @jobs.register
    async def quick(number: int) -> None:
        nonlocal quick_runs
        quick_runs += 1

    @jobs.register
    async def slow(number: int) -> None:
        await gate()

    await jobs.enqueue_bulk(
        [quick.request(number) for number in range(3000)] + [slow.request(number) for number in range(500)]
    )
    async with serving(concurrency=4) as loop:
        await eventually(lambda: gate.inside == 4)

        async def only_four_are_held() -> bool:
            return bool(await count(JobState.RUNNING) == 4)

        await eventually(only_four_are_held)
        assert loop.in_flight == 4
        held_back = (await jobs.storage.jobs.list(state=JobState.QUEUED, limit=5000)).jobs
        assert len(held_back) == 3500 - quick_runs - 4
        assert {(job.attempt, job.deliveries) for job in held_back} == {(0, 0)}
        gate.opened.set()
        await eventually(lambda: gate.entered == 500)
    assert quick_runs == 3000
    assert await count(JobState.SUCCEEDED) == 3500


async def test_surplus_can_be_taken_by_another_loop(
    jobs: JobRegistry, serving: Callable[..., Any], count: Any, eventually: Any
) -> None:
    """W1: what one loop has prefetched and cannot start is run by a sibling that is free."""
    gate, done = Gate(), 0

    @jobs.register
    async def quick(number: int) -> None:
        nonlocal done
        done += 1

    @jobs.register
    async def slow(number: int) -> None:
        await gate()

    await jobs.enqueue_bulk(
        [quick.request(number) for number in range(1000)]
        + [slow.request(0), slow.request(1)]
        + [quick.request(number) for number in range(1000)]
    )
    async with serving(concurrency=2):
        await eventually(lambda: gate.inside == 2)
        async with serving(concurrency=2):
            await eventually(lambda: done == 2000)
        gate.opened.set()
    assert await count(JobState.SUCCEEDED) == 2002


async def test_prefetch_of_zero_claims_for_free_slots_only(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]]
) -> None:
    """W1: with prefetch=0 a claim never takes more than the free slots."""
    held: list[int] = []

    @jobs.register
    async def look(number: int) -> None:
        held.append((await jobs.storage.jobs.counts())[JobState.RUNNING])

    await jobs.enqueue_bulk([look.request(number) for number in range(40)])
    await burst(concurrency=3, prefetch=0)
    assert len(held) == 40
    assert max(held) <= 3


async def test_a_run_that_begins_later_is_counted_while_it_runs(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any
) -> None:
    """W1: a prefetched job that a slot takes is flagged as begun in the store while it still runs."""
    gate = Gate()

    @jobs.register
    async def quick(number: int) -> None:
        pass

    @jobs.register
    async def slow() -> None:
        await gate()

    await jobs.enqueue_bulk([quick.request(number) for number in range(2000)] + [slow.request()])
    async with serving(concurrency=4):
        await eventually(lambda: gate.inside == 1)

        async def begun() -> bool:
            running = (await jobs.storage.jobs.list(state=JobState.RUNNING)).jobs
            return [job.attempt for job in running] == [1]

        await eventually(begun)
        gate.opened.set()


async def test_pick_up_is_pushed(jobs: JobRegistry, serving: Callable[..., Any]) -> None:
    """W6: an idle loop takes a new job at once although it polls once an hour."""

    @jobs.register
    async def double(number: int) -> int:
        return number * 2

    async with serving(poll_interval=3600.0) as loop:
        await loop.context.wait_started()
        for number in range(20):
            handle = await double.enqueue(number)
            assert await handle.result(timeout=5) == number * 2


async def test_delayed_jobs_and_retries_need_no_poll(jobs: JobRegistry, serving: Callable[..., Any]) -> None:
    """W6: a job that becomes due later is taken when it is due although the loop polls once an hour."""

    @jobs.register
    async def double(number: int) -> int:
        return number * 2

    async with serving(poll_interval=3600.0):
        handle = await jobs.enqueue(double.request(4).with_options(delay=0.2))
        assert await jobs.handle(handle.id).result(timeout=5) == 8


async def test_unknown_kinds_are_left_alone(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """Q6: a job of a kind that nobody here knows stays in the queue, unclaimed, and holds nobody up."""

    @jobs.register
    async def known() -> str:
        return "done"

    foreign = await jobs.enqueue(EnqueueRequest("somebody.elses", priority=9))
    ours = await known.enqueue()
    await burst()
    assert (await fetch(ours)).result == "done"
    job = await fetch(foreign)
    assert (job.state, job.attempt, job.deliveries) == (JobState.QUEUED, 0, 0)


async def test_labels_and_queues_choose_the_worker(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """Q6: a loop takes from its own queues, and only what its labels allow."""

    @jobs.register
    async def render() -> str:
        return "done"

    gpu = await jobs.enqueue(render.request().with_options(required_labels=("gpu",), queue="video"))
    mail = await jobs.enqueue(render.request().with_options(queue="mail"))
    await burst(queues=("video",))
    assert (await fetch(gpu)).state is JobState.QUEUED
    await burst(queues=("video",), labels=("gpu", "big"))
    assert (await fetch(gpu)).state is JobState.SUCCEEDED
    assert (await fetch(mail)).state is JobState.QUEUED


async def test_two_loops_share_a_store_and_run_each_job_once(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], count: Any
) -> None:
    """Q1: two loops on one store run each job exactly once between them."""
    runs: list[int] = []

    @jobs.register
    async def note(number: int) -> None:
        runs.append(number)
        if number % 7 == 0:
            await anyio.lowlevel.checkpoint()

    await jobs.enqueue_bulk([note.request(number) for number in range(2000)])
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(make_loop().drain)
    # The first to find nothing stops; what the other still holds is finished by that one.
    assert sorted(runs) == list(range(2000))
    assert await count(JobState.SUCCEEDED) == 2000


async def test_idle_is_told_once_per_period(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, make_loop: Callable[..., WorkerLoop]
) -> None:
    """L9: Idle comes when there is nothing to do, once, and again only after there was something."""
    periods: list[Event] = []

    @jobs.register
    async def nothing() -> None:
        pass

    def listener(ctx: WorkerContext, event: Event) -> None:
        periods.append(event)

    loop = make_loop(poll_interval=0.01)
    loop.context.listen(listener, Idle)
    with anyio.fail_after(20):
        async with loop:
            await eventually(lambda: len(periods) == 1)
            handle = await nothing.enqueue()
            await handle.result(timeout=5)
            await eventually(lambda: len(periods) == 2)
            await anyio.sleep(0.05)  # several polls that find nothing
            assert len(periods) == 2


async def test_burst_leaves_what_is_not_due(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], fetch: Any
) -> None:
    """A burst runs what there is, follow-up jobs among it, and leaves jobs that are not due."""
    seen: list[int] = []

    @jobs.register
    async def countdown(number: int) -> None:
        seen.append(number)
        if number:
            await countdown.enqueue(number - 1)

    later = await jobs.enqueue(countdown.request(100).with_options(delay=3600))
    await countdown.enqueue(5)
    loop = make_loop()
    with anyio.fail_after(20):
        await loop.drain()
    assert seen == [5, 4, 3, 2, 1, 0]
    assert (await fetch(later)).state is JobState.SCHEDULED
    assert loop.context.is_finished
    assert loop.context.outcome is not None
    assert loop.context.outcome.value == "clean"


async def test_a_burst_over_an_empty_queue_ends(burst: Callable[..., Awaitable[WorkerLoop]], jobs: JobRegistry) -> None:
    """A burst with nothing to do ends by itself."""

    @jobs.register
    async def nothing() -> None:
        pass

    loop = await burst()
    assert loop.context.reason == "burst: nothing is left to do"
