"""Pause, resume, heartbeats and commands from elsewhere."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio

from workerctx.lifecycle import HeartBeat
from workerctx.queue import JobState, WorkerCommand, WorkerInfo
from workerctx.runtime import WorkerConfig, WorkerLoop
from workerctx.service import JobRegistry
from workerctx.testing import advance, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_a_paused_loop_begins_nothing_and_resumes(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, count: Any
) -> None:
    """L21: while paused no new job begins, what runs goes on, and `resume` picks up at once."""
    gate, begun = anyio.Event(), 0

    @jobs.register
    async def work(number: int) -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    async with serving(concurrency=2) as loop:
        for number in range(6):
            await work.enqueue(number)
        await eventually(lambda: begun == 2)
        loop.context.pause("maintenance")
        assert not loop.context.is_ready
        gate.set()

        async def two_are_done() -> bool:
            return bool(await count(JobState.SUCCEEDED) == 2)

        await eventually(two_are_done)
        assert (begun, await count(JobState.QUEUED), await count(JobState.RUNNING)) == (2, 4, 0)
        loop.context.resume()

        async def all_are_done() -> bool:
            return bool(await count(JobState.SUCCEEDED) == 6)

        await eventually(all_are_done)


async def test_pauses_in_a_flood_give_waiting_jobs_back(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, count: Any
) -> None:
    """L21: prefetched jobs are given back at a pause, from whatever thread it comes; nothing burns or runs twice."""
    runs: list[int] = []

    @jobs.register(max_attempts=1)
    async def quick(number: int) -> None:
        runs.append(number)

    await jobs.enqueue_bulk([quick.request(number) for number in range(6000)])
    async with serving(concurrency=8) as loop:
        for goal in (100, 1000, 3000):
            await eventually(lambda goal=goal: len(runs) >= goal)
            pauser = threading.Thread(target=loop.context.pause)
            pauser.start()
            pauser.join()

            async def nothing_is_held() -> bool:
                return bool(await count(JobState.RUNNING) == 0)

            await eventually(nothing_is_held)
            assert len(runs) == await count(JobState.SUCCEEDED)
            loop.context.resume()

        async def all_are_done() -> bool:
            return bool(await count(JobState.SUCCEEDED) == 6000)

        await eventually(all_are_done)
    assert sorted(runs) == list(range(6000))


async def test_stop_while_paused(jobs: JobRegistry, serving: Callable[..., Any], count: Any) -> None:
    """W3: a paused loop stops like any other and leaves the waiting jobs."""

    @jobs.register
    async def work() -> None:
        pass

    async with serving() as loop:
        loop.context.pause()
        await work.enqueue()
        loop.shutdown()
    assert await count(JobState.QUEUED) == 1


async def test_a_loop_is_registered_and_beats(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], eventually: Any
) -> None:
    """L9, L28: a loop is on the list with what it serves, beats, and says how many jobs it runs."""
    beats: list[HeartBeat] = []
    gate = anyio.Event()

    @jobs.register
    async def work() -> None:
        await gate.wait()

    loop = make_loop(concurrency=3, queues=("default", "mail"), labels=("gpu",))
    loop.context.listen(lambda ctx, event: beats.append(event), HeartBeat)
    with anyio.fail_after(20):
        async with loop:
            await work.enqueue()
            await eventually(lambda: any(beat.in_flight == 1 for beat in beats))

            async def shown() -> bool:
                return [worker.in_flight for worker in await jobs.storage.workers.list()] == [1]

            await eventually(shown)
            (worker,) = await jobs.storage.workers.list()
            assert (worker.id, worker.host_id, worker.concurrency) == (loop.worker_id, loop.host_id, 3)
            assert (worker.queues, worker.labels, worker.kinds) == (("default", "mail"), ("gpu",), jobs.kinds)
            loop.context.pause()

            async def paused() -> bool:
                return [worker.state for worker in await jobs.storage.workers.list()] == ["paused"]

            await eventually(paused)
            loop.shutdown()
            seen = len(beats)
            await eventually(lambda: len(beats) > seen)
            gate.set()
    assert not await jobs.storage.workers.list()


async def test_a_loop_that_was_reaped_from_the_list_comes_back(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any
) -> None:
    """W4: a live worker that was taken off the list registers again."""

    @jobs.register
    async def work() -> None:
        pass

    async def listed() -> bool:
        return bool(await jobs.storage.workers.list())

    async with serving() as loop:
        await eventually(listed)
        await jobs.storage.workers.deregister(loop.worker_id)
        await eventually(listed)


async def test_commands_from_elsewhere(jobs: JobRegistry, serving: Callable[..., Any], eventually: Any) -> None:
    """A loop obeys pause, resume and stop that were sent through the store; what it is already harms nobody."""

    @jobs.register
    async def work() -> None:
        pass

    async def listed() -> bool:
        return bool(await jobs.storage.workers.list())

    async with serving() as loop:
        await eventually(listed)
        workers = jobs.storage.workers
        await workers.send(loop.worker_id, WorkerCommand.RESUME)
        await workers.send(loop.worker_id, WorkerCommand.PAUSE)
        await workers.send(loop.worker_id, WorkerCommand.PAUSE)
        await eventually(lambda: loop.context.is_paused)
        await workers.send(loop.worker_id, WorkerCommand.RESUME)
        await eventually(lambda: loop.context.is_running)
        await workers.send(loop.worker_id, WorkerCommand.STOP)
        await eventually(lambda: loop.context.is_stopped)
    assert loop.context.reason == "remote command"


async def test_a_command_is_seen_to_be_obeyed_at_once(virtual_time: Callable[[], float]) -> None:
    """W10: the list shows a worker paused as soon as it is, not at its next heartbeat."""
    jobs = JobRegistry("memory://")

    @jobs.register
    async def nothing() -> None: ...

    async with jobs, WorkerLoop(jobs, WorkerConfig(heartbeat=20, lease_ttl=60)) as loop:
        workers = jobs.storage.workers

        async def paused() -> bool:
            return [worker.state for worker in await workers.list()] == ["paused"]

        await wait_until(lambda: _only(workers, loop.worker_id))
        await workers.send(loop.worker_id, WorkerCommand.PAUSE)
        await wait_until(lambda: loop.context.is_paused, 60)
        began = virtual_time()
        await wait_until(paused)
        assert virtual_time() - began < 1


async def test_a_worker_that_was_silent_for_a_minute_is_taken_off_the_list(jobs: Any, serving: Any) -> None:
    """W10: a new worker forgets one that was killed, and leaves its jobs to the leases."""

    @jobs.register
    async def nothing() -> None: ...

    workers = jobs.storage.workers
    await workers.register(WorkerInfo(id="killed"))
    await advance(jobs.storage, 61)
    async with serving() as loop:
        await wait_until(lambda: _only(workers, loop.worker_id))


async def _only(workers: Any, worker_id: str) -> bool:
    return [worker.id for worker in await workers.list()] == [worker_id]
