"""Opening and closing, the clock, and what separates one namespace from another."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from workerctx.errors import (
    InvalidRequest,
    JobNotFound,
    LeaseLost,
    StoreClosed,
    UnknownScope,
)
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.schedule import Schedule
from workerctx.queue.workers import WorkerInfo
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    StorageFactory,
    add,
    state_of,
    take,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestNamespaces:
    """Stores within a store."""

    async def test_nothing_crosses(self, storage_factory: StorageFactory) -> None:
        """Q19: jobs, keys, ids, pauses, limits, workers and schedules of one namespace are not in another."""
        async with storage_factory() as one, storage_factory(namespace="two") as two:
            assert one.namespace != two.namespace
            job_id = await add(one, job_id="same", unique_key="k", workflow_id="wf")
            await one.rate_limits.configure("slack", capacity=1, per=1)
            await one.workers.register(WorkerInfo(id="worker-1"))
            await one.schedules.put(Schedule(name="tick", request=EnqueueRequest("tick"), every=10))
            assert await two.jobs.claim("worker-1") is None
            with pytest.raises(JobNotFound):
                await two.jobs.get(job_id)
            with pytest.raises(JobNotFound):
                await two.jobs.cancel(job_id)
            with pytest.raises(UnknownScope):
                await two.rate_limits.acquire("slack")
            assert not await two.workers.list()
            assert not await two.schedules.list()
            assert not (await two.jobs.list()).jobs
            assert not await two.jobs.queues()
            assert sum((await two.jobs.counts()).values()) == 0
            assert await two.jobs.cancel_workflow("wf") == 0
            await two.jobs.pause_queue("default")
            assert await add(two, job_id="same", unique_key="k") == "same"
            _, lease = await take(one)
            for call in (two.jobs.complete, two.jobs.release, two.jobs.renew_lease):
                with pytest.raises(LeaseLost):
                    await call(lease.id)
            with pytest.raises(LeaseLost):
                await two.jobs.progress(lease.id, 1)
            with pytest.raises(LeaseLost):
                await two.jobs.fail(lease.id, "boom", retryable=False)
            assert (await two.jobs.renew_leases([lease.id])).lost == (lease.id,)
            await two.jobs.prune(0)
            await one.jobs.complete(lease.id)
            assert await state_of(one, "same") is JobState.SUCCEEDED
            assert await state_of(two, "same") is JobState.QUEUED

    async def test_expiry_does_not_cross(self, storage_factory: StorageFactory) -> None:
        """Q19: a reap in one namespace leaves the leases of another alone."""
        async with storage_factory() as one, storage_factory(namespace="two") as two:
            job_id = await add(one, retry=NO_WAIT)
            await take(one, lease_ttl=5)
            await advance(one, 6)
            await two.jobs.reap_expired_leases()
            assert await state_of(one, job_id) is JobState.RUNNING
            assert len(await one.jobs.reap_expired_leases()) == 2


@pytest.mark.anyio
class TestStorage:
    """Opening and closing."""

    async def test_what_was_stored_is_there_again(self, storage_factory: StorageFactory) -> None:
        """Q2, Q15: jobs, leases and settings survive closing; opening twice is harmless."""
        async with storage_factory() as storage:
            job_id = await add(storage, payload={"x": 1})
            running = await add(storage, priority=1)
            _, lease = await take(storage)
            await storage.jobs.pause_queue("other")
            await storage.rate_limits.configure("slack", capacity=2, per=60)
            await storage.schedules.put(Schedule(name="tick", request=EnqueueRequest("tick"), every=10))
        async with storage_factory() as storage, storage_factory() as again:
            assert (await again.jobs.get(job_id)).payload == {"x": 1}
            await storage.jobs.complete(lease.id, "done")
            assert await again.jobs.result(running) == "done"
            assert [info.name for info in await again.jobs.queues() if info.paused] == ["other"]
            assert [limit.scope for limit in await again.rate_limits.list()] == ["slack"]
            assert [schedule.name for schedule in await again.schedules.list()] == ["tick"]

    async def test_it_is_open_inside_its_block(self, storage_factory: StorageFactory) -> None:
        """A storage refuses to work before it is opened, after it was closed, and to be opened twice at a time."""
        storage = storage_factory()
        with pytest.raises(StoreClosed):
            await storage.jobs.enqueue(EnqueueRequest("work"))
        with pytest.raises(StoreClosed):
            storage.open_renewer()
        for _ in range(2):
            async with storage:
                await add(storage)
                with pytest.raises(StoreClosed, match="already"):
                    await storage.__aenter__()
        with pytest.raises(StoreClosed):
            await storage.jobs.get("gone")

    async def test_it_knows_its_name(self, storage: Storage) -> None:
        """A Storage tells where it is and which part of it it is."""
        assert "://" in storage.url
        assert storage.namespace.endswith("default")

    async def test_time_can_be_moved(self, storage_factory: StorageFactory) -> None:
        """Q11: the clock moves forward by what it is told, for everyone, and never back."""
        async with storage_factory() as here, storage_factory() as there:
            before = await here.now()
            await advance(here, timedelta(hours=1))
            for storage in (here, there):
                assert await storage.now() == pytest.approx(before + 3600, abs=10)
            for seconds in (-1.0, math.nan, math.inf):
                with pytest.raises(InvalidRequest):
                    await advance(here, seconds)
            await add(there, delay=30)
            await advance(here, 31)
            await take(there)

    async def test_time_passes(self, storage: Storage) -> None:
        """Q11: store time never goes back."""
        readings = [await storage.now() for _ in range(20)]
        assert readings == sorted(readings)
