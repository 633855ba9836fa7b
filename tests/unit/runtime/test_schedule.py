"""Schedules that worker loops declare and fire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from workerctx.errors import StoreUnavailable
from workerctx.queue import EnqueueRequest, Misfire, Schedule, connect
from workerctx.runtime import WorkerConfig, WorkerLoop
from workerctx.runtime.schedule import Ticker
from workerctx.service import JobRegistry
from workerctx.testing import advance, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue import Constant, Storage
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


BERLIN = ZoneInfo("Europe/Berlin")


async def ticks_around(storage: Storage, change: float, *schedules: Schedule) -> dict[str, list[str]]:
    """Let a ticker run from two hours before a change of the clocks to three after it; the ticks in local time."""
    await advance(storage, change - 7200 - await storage.now())
    with anyio.move_on_after(5 * 3600):
        await Ticker(storage, schedules).run("worker")
    found: dict[str, list[str]] = {schedule.name: [] for schedule in schedules}
    for job in (await storage.jobs.list(limit=1000)).jobs:
        found[job.kind].append(datetime.fromtimestamp(job.run_at, BERLIN).strftime("%H:%M"))
    return found


def next_change(*, to_summer: bool) -> float:
    """Return when the clocks in Berlin are changed next: at 01:00 UTC on the last Sunday of March or October."""
    now = datetime.now(UTC)
    for year in (now.year, now.year + 1):
        end = datetime(year, 3 if to_summer else 10, 31, 1, tzinfo=UTC)
        change = end - timedelta(days=(end.weekday() + 1) % 7)
        if change > now + timedelta(hours=3):
            return change.timestamp()
    raise AssertionError("there is one in every year")


def nightly(name: str, cron: str) -> Schedule:
    """A schedule in Berlin whose jobs are of a kind of the same name."""
    return Schedule(name=name, request=EnqueueRequest(name), cron=cron, timezone="Europe/Berlin")


@pytest.mark.usefixtures("virtual_time")
async def test_the_night_with_an_hour_too_few() -> None:
    """W11: what is due in the hour that is left out runs right after it, once; what runs each half hour goes on."""
    async with connect("memory://") as storage:
        ticks = await ticks_around(
            storage,
            next_change(to_summer=True),
            nightly("fixed", "30 2 * * *"),
            nightly("later", "15 3 * * *"),
            nightly("often", "*/30 * * * *"),
        )
    assert ticks["fixed"] == ["03:00"]
    assert ticks["later"] == ["03:15"]
    assert ticks["often"][:6] == ["00:30", "01:00", "01:30", "03:00", "03:30", "04:00"]


@pytest.mark.usefixtures("virtual_time")
async def test_the_night_with_an_hour_too_many() -> None:
    """W11: what is due in the hour that comes twice runs once; what runs each half hour runs in both."""
    async with connect("memory://") as storage:
        ticks = await ticks_around(
            storage,
            next_change(to_summer=False),
            nightly("fixed", "30 2 * * *"),
            nightly("often", "*/30 * * * *"),
        )
    assert ticks["fixed"] == ["02:30"]
    assert ticks["often"][:7] == ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00", "03:30"]


@pytest.mark.parametrize(("misfire", "runs"), [(Misfire.SKIP, 0), (Misfire.ONE, 1), (Misfire.ALL, 3)])
async def test_ticks_that_no_worker_was_there_to_see(misfire: Misfire, runs: int) -> None:
    """W11: a worker that comes back makes up for missed ticks as the schedule says."""
    jobs = JobRegistry("memory://")
    ran: list[str] = []

    @jobs.schedule(every=86400, misfire=misfire)
    @jobs.register
    async def chore() -> None:
        ran.append("chore")

    @jobs.register
    async def last() -> None:
        ran.append("last")

    async with jobs:
        with anyio.fail_after(20):
            storage = jobs.storage
            async with WorkerLoop(jobs, WorkerConfig(poll_interval=0.05)):
                await wait_until(lambda: _declared(storage))
            # Three ticks pass, and the latest of them an hour ago.
            await advance(storage, 3 * 86400 - (await storage.now()) % 86400 + 3600)
            async with WorkerLoop(jobs, WorkerConfig(poll_interval=0.05)):
                await wait_until(lambda: _is_made_up_for(storage))
                await (await last.with_options(priority=-1).enqueue()).result(timeout=10)
    assert ran == ["chore"] * runs + ["last"]


async def _is_made_up_for(storage: Storage) -> bool:
    (schedule,) = await storage.schedules.list()
    return schedule.next_fire_at is not None and schedule.next_fire_at > await storage.now()


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


class TestBurst:
    """W11: a loop that runs until there is nothing left to do, as a cron job starts it."""

    async def test_every_schedule_is_declared(self, jobs: JobRegistry, make_loop: Callable[..., WorkerLoop]) -> None:
        """Also when there is nothing else to do."""
        _hourly(jobs, 5)
        await make_loop(jobs).drain()
        assert len(await jobs.storage.schedules.list()) == 5

    async def test_ticks_that_are_due_are_fired_and_run(
        self, jobs: JobRegistry, make_loop: Callable[..., WorkerLoop]
    ) -> None:
        """By the run that finds them, in an empty queue."""
        ran = _hourly(jobs, 3)
        await make_loop(jobs).drain()
        await advance(jobs.storage, 3700)
        await make_loop(jobs).drain()
        assert sorted(ran) == [0, 1, 2]

    async def test_the_job_of_a_worker_that_died_is_run(
        self, jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], at_once: Constant
    ) -> None:
        """Its lease has run out, and nobody else is there to see that."""
        ran: list[int] = []

        @jobs.register(max_attempts=2, retry=at_once)
        async def once() -> None:
            ran.append(1)

        await jobs.enqueue(once.request())
        assert await jobs.storage.jobs.claim("a worker that dies", lease_ttl=5.0) is not None
        await advance(jobs.storage, 10)
        await make_loop(jobs, reap_interval=60.0).drain()
        assert ran == [1]

    async def test_a_store_that_cannot_fire_fails_the_run(
        self, unreliable: Any, faults: Faults, make_loop: Callable[..., WorkerLoop]
    ) -> None:
        """Instead of an end that looks as if nothing had been due."""
        _hourly(unreliable, 1)
        faults.fail("schedules.fire_due")
        with pytest.raises(StoreUnavailable):
            await make_loop(unreliable).drain()


def _hourly(jobs: JobRegistry, number: int) -> list[int]:
    """Register handlers with a schedule each; returns a list that they put themselves on."""
    ran: list[int] = []

    @jobs.register
    async def tick(index: int) -> None:
        ran.append(index)

    for index in range(number):
        jobs.schedule(every=3600, name=f"tick {index}", args=(index,))(tick)
    return ran
