"""Rate limits, workers and schedules."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx.errors import InvalidRequest, ScheduleNotFound, Throttled, UnknownScope, WorkerNotFound
from workerctx.queue.limits import Granted, RateLimit
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.schedule import Misfire, Schedule
from workerctx.queue.workers import WorkerCommand, WorkerInfo
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import StorageFactory, add, payloads, take

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


async def grants(storage: Storage, scope: str, tries: int) -> int:
    """Try to acquire some times and return how often it was granted."""
    outcomes = [await storage.rate_limits.acquire(scope) for _ in range(tries)]
    return sum(isinstance(outcome, Granted) for outcome in outcomes)


@pytest.mark.anyio
class TestRateLimits:
    """Limits that hold across the cluster."""

    @pytest.mark.parametrize(("capacity", "per"), [(1, 1000.0), (3, 1000.0), (7, 3600.0), (50, 6000.0)], ids=str)
    async def test_the_burst_is_exact(self, storage: Storage, capacity: int, per: float) -> None:
        """W8: a limit grants its capacity and not one more."""
        await storage.rate_limits.configure("slack", capacity=capacity, per=per)
        assert await grants(storage, "slack", capacity + 5) == capacity

    async def test_racing_acquirers(self, storage_factory: StorageFactory) -> None:
        """W8: the capacity is exact when many ask at once, also through several Storages."""
        granted: list[Granted | Throttled] = []
        async with storage_factory() as here, storage_factory() as there:
            await here.rate_limits.configure("slack", capacity=10, per=1000)

            async def ask(storage: Storage) -> None:
                granted.append(await storage.rate_limits.acquire("slack"))

            async with anyio.create_task_group() as tasks:
                for storage in (here, there) * 15:
                    tasks.start_soon(ask, storage)
        assert sum(isinstance(outcome, Granted) for outcome in granted) == 10

    async def test_how_long_to_wait(self, storage: Storage) -> None:
        """W8: a refusal says after how many seconds it is worth trying again, and then it is."""
        await storage.rate_limits.configure("slack", capacity=2, per=200)
        assert await grants(storage, "slack", 2) == 2
        throttled = await storage.rate_limits.acquire("slack")
        assert isinstance(throttled, Throttled)
        assert throttled.scope == "slack"
        assert throttled.retry_after == pytest.approx(100, abs=3)
        await advance(storage, throttled.retry_after)
        assert await grants(storage, "slack", 3) == 1

    async def test_it_refills_up_to_its_capacity(self, storage: Storage) -> None:
        """W8: calls come back evenly, and never more than the capacity."""
        await storage.rate_limits.configure("slack", capacity=4, per=400)
        assert await grants(storage, "slack", 9) == 4
        await advance(storage, 205)
        assert await grants(storage, "slack", 9) == 2
        await advance(storage, 100_000)
        assert await grants(storage, "slack", 9) == 4

    async def test_several_at_once(self, storage: Storage) -> None:
        """W8: several calls are taken together or not at all."""
        await storage.rate_limits.configure("slack", capacity=5, per=500)
        assert isinstance(await storage.rate_limits.acquire("slack", amount=3), Granted)
        throttled = await storage.rate_limits.acquire("slack", amount=3)
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == pytest.approx(100, abs=3)
        assert isinstance(await storage.rate_limits.acquire("slack", amount=2), Granted)
        for amount in (0, -1, 6):
            with pytest.raises(InvalidRequest):
                await storage.rate_limits.acquire("slack", amount=amount)

    async def test_drain(self, storage: Storage) -> None:
        """W8: a drained limit grants nothing until the time is over, and then refills at its rate."""
        await storage.rate_limits.configure("slack", capacity=10, per=1000)
        await storage.rate_limits.drain("slack", retry_after=60)
        throttled = await storage.rate_limits.acquire("slack")
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == pytest.approx(60, abs=3)
        await advance(storage, 50)
        assert await grants(storage, "slack", 1) == 0
        await advance(storage, 11)
        assert await grants(storage, "slack", 5) == 1

    async def test_a_shorter_drain_does_not_open(self, storage: Storage) -> None:
        """W8: a drain never shortens the one before."""
        await storage.rate_limits.configure("slack", capacity=10, per=10)
        await storage.rate_limits.drain("slack", retry_after=500)
        await storage.rate_limits.drain("slack", retry_after=1)
        await advance(storage, 100)
        assert await grants(storage, "slack", 1) == 0

    async def test_unknown_scopes(self, storage: Storage) -> None:
        """W8: a limit that nobody configured is an error, not a free pass and not a wait."""
        with pytest.raises(UnknownScope, match="slack"):
            await storage.rate_limits.acquire("slack")
        with pytest.raises(UnknownScope):
            await storage.rate_limits.drain("slack", retry_after=1)

    async def test_reconfiguring(self, storage: Storage) -> None:
        """W8: another capacity holds from now on, and what is used up is not given back."""
        await storage.rate_limits.configure("slack", capacity=3, per=3000)
        assert await grants(storage, "slack", 3) == 3
        await storage.rate_limits.configure("slack", capacity=3, per=3000)
        assert await grants(storage, "slack", 3) == 0
        await storage.rate_limits.configure("other", capacity=5, per=60)
        assert list(await storage.rate_limits.list()) == [
            RateLimit("other", 5, 60.0),
            RateLimit("slack", 3, 3000.0),
        ]

    async def test_limits_are_apart(self, storage: Storage) -> None:
        """W8: one scope's use does not touch another's."""
        for scope in ("a", "b"):
            await storage.rate_limits.configure(scope, capacity=2, per=1000)
        assert await grants(storage, "a", 5) == 2
        assert await grants(storage, "b", 5) == 2

    @pytest.mark.parametrize(
        ("scope", "capacity", "per"),
        [("", 1, 1.0), ("slack", 0, 1.0), ("slack", 1, 0.0), ("slack", 1, -1.0), ("slack", 1, math.nan)],
    )
    async def test_what_cannot_be_meant(self, storage: Storage, scope: str, capacity: int, per: float) -> None:
        """Q13: a limit without name, room or time is refused."""
        with pytest.raises(InvalidRequest):
            await storage.rate_limits.configure(scope, capacity=capacity, per=per)
        assert not await storage.rate_limits.list()

    @pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
    async def test_a_drain_needs_seconds(self, storage: Storage, seconds: float) -> None:
        """Q13: a drain for a negative or endless time is refused."""
        await storage.rate_limits.configure("slack", capacity=1, per=1)
        with pytest.raises(InvalidRequest):
            await storage.rate_limits.drain("slack", retry_after=seconds)


@pytest.mark.anyio
class TestWorkers:
    """Who is there."""

    async def test_registration(self, storage: Storage) -> None:
        """A registered worker is listed with what it said of itself and the store's times."""
        info = WorkerInfo(
            id="worker-1",
            host_id="host",
            hostname="box",
            pid=7,
            queues=("a", "b"),
            labels=("gpu",),
            kinds=("resize",),
            concurrency=4,
        )
        await storage.workers.register(info)
        await storage.workers.register(WorkerInfo(id="worker-0"))
        first, second = await storage.workers.list()
        assert (first.id, second.id) == ("worker-0", "worker-1")
        assert (second.queues, second.labels, second.kinds, second.concurrency) == (
            ("a", "b"),
            ("gpu",),
            ("resize",),
            4,
        )
        assert (second.host_id, second.hostname, second.pid) == ("host", "box", 7)
        now = await storage.now()
        assert second.started_at == pytest.approx(now, abs=5)
        assert second.heartbeat_at == pytest.approx(now, abs=5)

    async def test_registering_again_replaces(self, storage: Storage) -> None:
        """A worker that registers twice is there once, as it said last."""
        await storage.workers.register(WorkerInfo(id="worker-1", concurrency=1))
        await storage.workers.register(WorkerInfo(id="worker-1", concurrency=2))
        assert [worker.concurrency for worker in await storage.workers.list()] == [2]

    async def test_heartbeats(self, storage: Storage) -> None:
        """A heartbeat carries state and load, and keeps the worker from being reaped."""
        await storage.workers.register(WorkerInfo(id="worker-1"))
        await advance(storage, 50)
        assert list(await storage.workers.heartbeat("worker-1", state="paused", in_flight=3)) == []
        (worker,) = await storage.workers.list()
        assert (worker.state, worker.in_flight) == ("paused", 3)
        assert worker.heartbeat_at - worker.started_at == pytest.approx(50, abs=5)
        assert not await storage.workers.reap(30)

    async def test_silent_workers_are_reaped(self, storage: Storage) -> None:
        """Workers that have been silent too long are removed, returned, and told when they come back."""
        await storage.workers.register(WorkerInfo(id="silent"))
        await advance(storage, 60)
        await storage.workers.register(WorkerInfo(id="lively"))
        assert [worker.id for worker in await storage.workers.reap(30)] == ["silent"]
        assert [worker.id for worker in await storage.workers.list()] == ["lively"]
        assert not await storage.workers.reap(30)
        with pytest.raises(WorkerNotFound, match="silent"):
            await storage.workers.heartbeat("silent")

    async def test_commands(self, storage: Storage) -> None:
        """Commands are handed out with the next heartbeat, oldest first, once."""
        await storage.workers.register(WorkerInfo(id="worker-1"))
        await storage.workers.register(WorkerInfo(id="worker-2"))
        await storage.workers.send("worker-1", WorkerCommand.PAUSE)
        await storage.workers.send("worker-1", WorkerCommand.STOP)
        assert list(await storage.workers.heartbeat("worker-2")) == []
        assert list(await storage.workers.heartbeat("worker-1")) == [WorkerCommand.PAUSE, WorkerCommand.STOP]
        assert list(await storage.workers.heartbeat("worker-1")) == []

    async def test_a_new_life_has_no_old_commands(self, storage: Storage) -> None:
        """A worker that registers again does not obey what its predecessor was told."""
        await storage.workers.register(WorkerInfo(id="worker-1"))
        await storage.workers.send("worker-1", WorkerCommand.STOP)
        await storage.workers.register(WorkerInfo(id="worker-1"))
        assert list(await storage.workers.heartbeat("worker-1")) == []

    async def test_unknown_workers(self, storage: Storage) -> None:
        """A worker that is not registered can neither beat nor be told anything; leaving twice is harmless."""
        with pytest.raises(WorkerNotFound):
            await storage.workers.heartbeat("nobody")
        with pytest.raises(WorkerNotFound):
            await storage.workers.send("nobody", WorkerCommand.STOP)
        await storage.workers.register(WorkerInfo(id="worker-1"))
        for _ in range(2):
            await storage.workers.deregister("worker-1")
        assert not await storage.workers.list()


def tick(**options: object) -> Schedule:
    """Return a schedule that ticks every 100 seconds."""
    fields: dict[str, object] = {"name": "tick", "request": EnqueueRequest("tick", 1), "every": 100.0, **options}
    return Schedule(**fields)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - checked by attrs


async def align(storage: Storage, period: float = 100.0) -> None:
    """Move the clock to just after a multiple of the period."""
    await advance(storage, period - await storage.now() % period + 0.001)


@pytest.mark.anyio
class TestSchedules:
    """Jobs that come again."""

    async def test_a_tick(self, storage: Storage) -> None:
        """W11: a schedule does not fire when it is put, and fires once at each tick."""
        await align(storage)
        await storage.schedules.put(tick())
        fired = await storage.schedules.fire_due()
        assert list(fired.outcomes) == []
        assert fired.next_due == pytest.approx(100, abs=5)
        for _ in range(3):
            await advance(storage, 100)
            ((name, outcome),) = (await storage.schedules.fire_due()).outcomes
            assert (name, outcome.deduped) == ("tick", False)
            assert list((await storage.schedules.fire_due()).outcomes) == []
            job, _ = await take(storage)
            assert (job.id, job.kind, job.payload) == (outcome.id, "tick", 1)

    async def test_once_in_the_cluster(self, storage_factory: StorageFactory) -> None:
        """W11: however many processes look at the same time, a tick fires once."""
        fired: list[str] = []
        async with storage_factory() as here, storage_factory() as there:
            await align(here)
            await here.schedules.put(tick())
            await here.schedules.fire_due()
            await advance(here, 100)

            async def look(storage: Storage) -> None:
                fired.extend(name for name, _ in (await storage.schedules.fire_due()).outcomes)

            async with anyio.create_task_group() as tasks:
                for storage in (here, there) * 4:
                    tasks.start_soon(look, storage)
            assert fired == ["tick"]
            assert (await here.jobs.counts())[JobState.QUEUED] == 1

    @pytest.mark.parametrize(("policy", "jobs"), [(Misfire.ONE, 1), (Misfire.ALL, 5), (Misfire.SKIP, 1)])
    async def test_missed_ticks(self, storage: Storage, policy: Misfire, jobs: int) -> None:
        """W11: missed ticks follow the schedule's policy; one that is just due counts under each."""
        await align(storage)
        await storage.schedules.put(tick(misfire=policy))
        await storage.schedules.fire_due()
        await advance(storage, 500)
        assert len((await storage.schedules.fire_due()).outcomes) == jobs
        assert list((await storage.schedules.fire_due()).outcomes) == []

    async def test_skipping(self, storage: Storage) -> None:
        """W11: under skip a tick that is noticed long after its time is gone."""
        await align(storage, 1000)
        await storage.schedules.put(tick(misfire=Misfire.SKIP, every=1000.0))
        await storage.schedules.fire_due()
        await advance(storage, 1500)
        fired = await storage.schedules.fire_due()
        assert list(fired.outcomes) == []
        assert fired.next_due == pytest.approx(500, abs=5)

    async def test_a_disabled_schedule(self, storage: Storage) -> None:
        """W11: a disabled schedule fires nothing, and what it missed is not made up for."""
        await align(storage)
        await storage.schedules.put(tick(misfire=Misfire.ALL))
        await storage.schedules.fire_due()
        await storage.schedules.enable("tick", enabled=False)
        assert (await storage.schedules.get("tick")).enabled is False
        await advance(storage, 550)
        fired = await storage.schedules.fire_due()
        assert (list(fired.outcomes), fired.next_due) == ([], None)
        await storage.schedules.enable("tick")
        assert list((await storage.schedules.fire_due()).outcomes) == []
        await advance(storage, 100)
        assert len((await storage.schedules.fire_due()).outcomes) == 1

    async def test_putting_again(self, storage: Storage) -> None:
        """W11: the same timing goes on where it was, a changed one starts afresh."""
        await align(storage)
        await storage.schedules.put(tick())
        await storage.schedules.fire_due()
        await advance(storage, 100)
        await storage.schedules.put(tick(request=EnqueueRequest("tick", "new")))
        assert len((await storage.schedules.fire_due()).outcomes) == 1
        assert (await take(storage))[0].payload == "new"
        await advance(storage, 100)
        await storage.schedules.put(tick(every=1000.0))
        assert list((await storage.schedules.fire_due()).outcomes) == []

    async def test_unique_keys_hold(self, storage: Storage) -> None:
        """W11: a tick whose job is still active under its unique key adds none."""
        await align(storage)
        await storage.schedules.put(tick(request=EnqueueRequest("tick", unique_key="k")))
        await storage.schedules.fire_due()
        await advance(storage, 100)
        ((_, first),) = (await storage.schedules.fire_due()).outcomes
        await advance(storage, 100)
        ((_, second),) = (await storage.schedules.fire_due()).outcomes
        assert (second.id, second.deduped) == (first.id, True)

    async def test_several_schedules(self, storage: Storage) -> None:
        """W11: every schedule keeps its own time, and the next look is due with the earliest."""
        await align(storage, 1000)
        await storage.schedules.put(tick(name="slow", every=300.0, request=EnqueueRequest("slow", "slow")))
        await storage.schedules.put(tick(name="fast", every=100.0, request=EnqueueRequest("fast", "fast")))
        await storage.schedules.fire_due()
        names: list[str] = []
        for _ in range(6):
            await advance(storage, 100)
            names += [name for name, _ in (await storage.schedules.fire_due()).outcomes]
        assert (names.count("fast"), names.count("slow")) == (6, 2)
        claimed = await storage.jobs.claim_many("worker-1")
        assert sorted(payloads(claimed)) == ["fast"] * 6 + ["slow"] * 2

    async def test_cron(self, storage: Storage) -> None:
        """W11: a cron expression ticks in its time zone."""
        await storage.schedules.put(
            tick(every=None, cron="30 4 * * *", timezone="Europe/Berlin", request=EnqueueRequest("tick"))
        )
        await storage.schedules.fire_due()
        schedule = await storage.schedules.get("tick")
        now = await storage.now()
        assert schedule.next_fire_at is not None
        assert schedule.next_fire_at == schedule.next_after(now)
        await advance(storage, schedule.next_fire_at - now + 1)
        assert len((await storage.schedules.fire_due()).outcomes) == 1
        after = await storage.schedules.get("tick")
        assert after.last_fired_at == pytest.approx(schedule.next_fire_at, abs=0.001)

    async def test_looking(self, storage: Storage) -> None:
        """A schedule comes back as it was put, and a deleted one is gone."""
        request = EnqueueRequest("tick", {"a": 1}, queue="q", priority=3, max_attempts=2, headers={"h": "1"})
        await storage.schedules.put(tick(name="b", request=request, misfire=Misfire.SKIP))
        await storage.schedules.put(tick(name="a", every=None, cron="0 0 * * *", timezone="Asia/Tokyo"))
        first, second = await storage.schedules.list()
        assert (first.name, first.cron, first.every, first.timezone) == ("a", "0 0 * * *", None, "Asia/Tokyo")
        assert (second.name, second.every, second.misfire, second.enabled) == ("b", 100.0, Misfire.SKIP, True)
        stored = second.request
        assert (stored.kind, stored.payload_json, stored.queue) == ("tick", request.payload_json, "q")
        assert (stored.priority, stored.max_attempts, stored.headers) == (3, 2, {"h": "1"})
        for _ in range(2):
            await storage.schedules.delete("a")
        with pytest.raises(ScheduleNotFound, match="a"):
            await storage.schedules.get("a")
        with pytest.raises(ScheduleNotFound):
            await storage.schedules.enable("a")

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({"name": ""}, id="no name"),
            pytest.param({"every": None}, id="no timing"),
            pytest.param({"every": 0.0}, id="every nothing"),
            pytest.param({"cron": "* * * * *"}, id="two timings"),
            pytest.param({"every": None, "cron": "61 * * * *"}, id="minute 61"),
            pytest.param({"every": None, "cron": "0 0 30 2 *"}, id="30 February"),
            pytest.param({"timezone": "Mars/Olympus"}, id="unknown zone"),
            pytest.param({"request": EnqueueRequest("tick", job_id="fixed")}, id="an id"),
            pytest.param({"request": EnqueueRequest("tick", depends_on=["other"])}, id="a parent"),
        ],
    )
    async def test_what_cannot_be_meant(self, storage: Storage, options: dict[str, object]) -> None:
        """Q13: a schedule that is not valid never reaches the store."""
        with pytest.raises(InvalidRequest):
            await storage.schedules.put(tick(**options))
        assert not await storage.schedules.list()

    async def test_ticks_are_ordinary_jobs(self, storage: Storage) -> None:
        """W11: a tick's job is claimed in its place among the others."""
        await align(storage)
        await storage.schedules.put(tick(request=EnqueueRequest("tick", "tick", priority=5)))
        await storage.schedules.fire_due()
        await add(storage, payload="older")
        await advance(storage, 100)
        await storage.schedules.fire_due()
        assert payloads(await storage.jobs.claim_many("worker-1")) == ["tick", "older"]
