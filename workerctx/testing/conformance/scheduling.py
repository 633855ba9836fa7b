"""Jobs that come again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx.errors import InvalidRequest, ScheduleNotFound
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.schedule import Misfire, Schedule
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import StorageFactory, add, payloads, take

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


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
