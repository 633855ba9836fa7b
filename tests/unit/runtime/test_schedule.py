"""Schedules that worker loops declare and fire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from workerctx.queue import EnqueueRequest, Misfire, Schedule, connect
from workerctx.runtime import WorkerConfig, WorkerLoop
from workerctx.runtime.schedule import Ticker
from workerctx.service import JobRegistry
from workerctx.testing import advance, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue import Storage
    from workerctx.testing import Faults


def five_minutes(**options: object) -> Schedule:
    """Every five minutes, with a job that nobody runs."""
    return Schedule(name="chore", request=EnqueueRequest("chore"), every=300, **options)  # type: ignore[arg-type]


async def enqueued(storage: Storage) -> int:
    """Return how many jobs there are."""
    return len((await storage.jobs.list(limit=1000)).jobs)


async def test_a_tick_fires_once_however_many_workers_look(virtual_time: Callable[[], float]) -> None:
    """W11: two tickers share a store for an hour, and each tick is one job."""
    async with connect("memory://") as storage, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(Ticker(storage, [five_minutes()]).run, "worker")
        await anyio.sleep(3600)
        assert await enqueued(storage) == 12
        tasks.cancel_scope.cancel()


async def test_what_an_operator_switched_off_stays_off(virtual_time: Callable[[], float]) -> None:
    """A schedule that was paused in the store is not switched on by a worker that declares it, changed or not."""
    async with connect("memory://") as storage:
        await storage.schedules.put(five_minutes())
        await storage.schedules.enable("chore", enabled=False)
        for declared in (five_minutes(), five_minutes(misfire=Misfire.SKIP)):
            with anyio.move_on_after(1000):
                await Ticker(storage, [declared]).run("worker")
            stored = await storage.schedules.get("chore")
            assert (stored.enabled, stored.misfire) == (False, declared.misfire)
        assert await enqueued(storage) == 0


async def test_a_restart_of_the_same_release_leaves_the_next_tick_alone(virtual_time: Callable[[], float]) -> None:
    """Declaring an unchanged schedule again does not start it afresh."""
    async with connect("memory://") as storage:
        for _ in range(12):
            with anyio.move_on_after(100):
                await Ticker(storage, [five_minutes()]).run("worker")
        assert await enqueued(storage) == 4


async def test_a_schedule_that_another_process_adds_is_noticed(virtual_time: Callable[[], float]) -> None:
    """W6: a new schedule fires although the ticker was asleep when it came."""
    async with connect("memory://") as storage, anyio.create_task_group() as tasks:
        tasks.start_soon(Ticker(storage, []).run, "worker")
        await anyio.sleep(100)
        await storage.schedules.put(five_minutes())
        await anyio.sleep(1200)
        assert await enqueued(storage) == 4
        tasks.cancel_scope.cancel()


async def test_a_store_that_fails_for_a_while_is_asked_again(unreliable: Any, faults: Faults, caplog: Any) -> None:
    """W4: an outage is logged, and schedules fire again after it."""
    outage = faults.fail("schedules.fire_due")
    request = EnqueueRequest("chore")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            Ticker(unreliable.storage, [Schedule(name="chore", request=request, every=0.05)]).run, "worker"
        )
        await outage.met()
        outage.lift()
        await wait_until(lambda: _some(unreliable.storage))
        tasks.cancel_scope.cancel()
    assert caplog.text.count("worker 'worker' could not fire schedules and goes on trying") == 1


async def _some(storage: Storage) -> bool:
    return await enqueued(storage) > 0


async def test_a_loop_declares_and_fires_its_registry_s_schedules() -> None:
    """W11: a handler with a schedule runs by the clock in a worker of its registry."""
    jobs = JobRegistry("memory://")
    ran: list[int] = []

    @jobs.schedule(every=3600, args=(7,))
    @jobs.register
    async def chore(number: int) -> None:
        ran.append(number)

    loop = WorkerLoop(jobs, WorkerConfig(poll_interval=0.05))
    async with jobs, loop:
        storage = jobs.storage
        await wait_until(lambda: _declared(storage))
        await advance(storage, 3700)
        await storage.schedules.fire_due()
        await wait_until(lambda: bool(ran))
    assert ran == [7]


async def _declared(storage: Storage) -> bool:
    return any(schedule.next_fire_at is not None for schedule in await storage.schedules.list())
