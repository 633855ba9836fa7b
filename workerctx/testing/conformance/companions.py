"""Rate limits and workers."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx.errors import InvalidRequest, Throttled, UnknownScope, WorkerNotFound
from workerctx.queue.limits import Granted, RateLimit
from workerctx.queue.retry import LONGEST_WAIT
from workerctx.queue.workers import WorkerCommand, WorkerInfo
from workerctx.testing.clock import advance

if TYPE_CHECKING:
    from workerctx.queue.base import Storage
    from workerctx.testing.conformance.support import StorageFactory


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

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ((10, 1000.0), (10, 10_000.0)),
            ((10, 1000.0), (10, 100.0)),
            ((10, 1000.0), (100, 1000.0)),
            ((10, 1.0), (100, 1000.0)),
            ((1, 1.0), (100, 1000.0)),
        ],
        ids=["slower", "faster", "more", "more-and-slower", "few"],
    )
    async def test_another_rate_of_a_drained_limit(
        self, storage: Storage, before: tuple[int, float], after: tuple[int, float]
    ) -> None:
        """W8: a drained limit opens when it was to, one call first, whatever its rate becomes meanwhile."""
        await storage.rate_limits.configure("slack", capacity=before[0], per=before[1])
        await storage.rate_limits.drain("slack", retry_after=500)
        await storage.rate_limits.configure("slack", capacity=after[0], per=after[1])
        throttled = await storage.rate_limits.acquire("slack")
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == pytest.approx(500, abs=3)
        await advance(storage, throttled.retry_after)
        assert await grants(storage, "slack", 2) == 1

    async def test_fewer_calls_of_a_drained_limit(self, storage: Storage) -> None:
        """W8: a drained limit whose capacity is lowered opens when as many calls as are too many have come back."""
        await storage.rate_limits.configure("slack", capacity=10, per=1.0)
        await storage.rate_limits.drain("slack", retry_after=500)
        await storage.rate_limits.configure("slack", capacity=1, per=100.0)
        throttled = await storage.rate_limits.acquire("slack")
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == pytest.approx(500 + 900, abs=3)

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

    @pytest.mark.parametrize(
        ("rates", "taken", "left"),
        [
            ([(1000, 3600.0), (100, 3600.0)], 100, 0),
            ([(100, 3600.0), (1000, 3600.0)], 100, 900),
            ([(10, 1000.0), (10, 100_000.0)], 4, 6),
            ([(10, 100_000.0), (10, 1000.0)], 4, 6),
            ([(1000, 3600.0), (100, 3600.0), (1000, 3600.0)], 500, 500),
            ([(1, 1e8), (1000, 1e6)], 1, 999),
            ([(1_000_000, 3600.0), (1, 1e11)], 1_000_000, 0),
        ],
        ids=["less", "more", "slower", "faster", "back", "much-more", "much-less"],
    )
    async def test_another_rate(self, storage: Storage, rates: list[tuple[int, float]], taken: int, left: int) -> None:
        """W8: as many calls stay used up as were, whatever the rate becomes."""
        for number, (capacity, per) in enumerate(rates):
            await storage.rate_limits.configure("slack", capacity=capacity, per=per)
            if number == 0:
                assert isinstance(await storage.rate_limits.acquire("slack", amount=taken), Granted)
        if left:
            assert isinstance(await storage.rate_limits.acquire("slack", amount=left), Granted)
        throttled = await storage.rate_limits.acquire("slack")
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after <= LONGEST_WAIT

    async def test_it_refills_at_the_new_rate(self, storage: Storage) -> None:
        """W8: calls that were taken before a change of the rate come back at the new one."""
        await storage.rate_limits.configure("slack", capacity=4, per=400)
        assert await grants(storage, "slack", 4) == 4
        await advance(storage, 100)
        await storage.rate_limits.configure("slack", capacity=3, per=3000)
        throttled = await storage.rate_limits.acquire("slack")
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == pytest.approx(1000, rel=0.05)
        await advance(storage, 2100)
        assert await grants(storage, "slack", 4) == 2

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

    async def test_a_worker_is_described_in_texts(self, storage: Storage) -> None:
        """Q13: a worker whose description no store can keep is refused."""
        for strange in (WorkerInfo(id="a\ud800"), WorkerInfo(id="a", hostname="\ud800")):
            with pytest.raises(InvalidRequest):
                await storage.workers.register(strange)
        assert not await storage.workers.list()

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

    @pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
    async def test_silence_is_a_number_of_seconds(self, storage: Storage, seconds: float) -> None:
        """Q13: reaping workers that are silent for a negative or endless time is refused, and all of them stay."""
        await storage.workers.register(WorkerInfo(id="worker-1"))
        with pytest.raises(InvalidRequest, match="older_than"):
            await storage.workers.reap(seconds)
        assert len(await storage.workers.list()) == 1

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
