"""Which jobs come first: by priority, by time, and by the turns of queues."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workerctx.queue.request import EnqueueRequest
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    add,
    claim_all,
    kinds,
    payloads,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestOrder:
    """Who comes first."""

    async def test_first_in_first_out(self, storage: Storage) -> None:
        """Q5: equal jobs run in the order in which they were enqueued."""
        for n in range(20):
            await add(storage, payload=n)
        assert payloads(await claim_all(storage, limit=7)) == list(range(20))

    async def test_priority_then_time(self, storage: Storage) -> None:
        """Q5: higher priority first, then the earlier time, then the older job, across kinds and labels."""
        now = await storage.now()
        for kind, priority, run_at, labels in [
            ("f", 0, now - 10, ()),
            ("e", 0, now - 20, ("gpu",)),
            ("c", 5, now - 10, ()),
            ("d", 5, now - 10, ("gpu",)),
            ("b", 5, now - 20, ()),
            ("g", -1, now - 99, ()),
            ("a", 9, now - 1, ("gpu", "eu")),
        ]:
            await add(storage, kind, priority=priority, run_at=run_at, required_labels=labels)
        assert kinds(await claim_all(storage, labels=["gpu", "eu"])) == list("abcdefg")

    async def test_one_by_one_is_the_same_order(self, storage: Storage) -> None:
        """Q5: single claims follow the same order as batches."""
        for kind, priority in (("c", 1), ("a", 3), ("b", 2)):
            await add(storage, kind, priority=priority)
        assert [(await take(storage))[0].kind for _ in range(3)] == ["a", "b", "c"]

    async def test_delayed_jobs_take_their_place(self, storage: Storage) -> None:
        """Q5: among jobs that have become due meanwhile, priority comes first, then the time."""
        await add(storage, "d", delay=10)
        await add(storage, "c", delay=5)
        await add(storage, "b", delay=20, priority=1)
        await add(storage, "a", delay=30, priority=2)
        await add(storage, "later", delay=500, priority=99)
        await advance(storage, 60)
        assert kinds(await claim_all(storage, limit=2)) == ["a", "b", "c", "d"]

    async def test_a_released_job_keeps_its_place(self, storage: Storage) -> None:
        """Q5: a job that is given back stands where it stood."""
        for kind in "abc":
            await add(storage, kind)
        await storage.jobs.release((await take_lease(storage)).id)
        assert kinds(await claim_all(storage)) == ["a", "b", "c"]

    async def test_a_retried_job_goes_to_the_back(self, storage: Storage) -> None:
        """Q5: a job that failed is due later than those that wait already."""
        for kind in "abc":
            await add(storage, kind, retry=NO_WAIT)
        await storage.jobs.fail((await take_lease(storage)).id, "boom")
        assert kinds(await claim_all(storage)) == ["b", "c", "a"]


@pytest.mark.anyio
class TestQueues:
    """Several queues."""

    async def test_queues_are_apart(self, storage: Storage) -> None:
        """Only the queues that a claim names are looked into."""
        await add(storage, "a", queue="one")
        await add(storage, "b", queue="two")
        assert await storage.jobs.claim("worker-1") is None
        assert kinds(await claim_all(storage, queues=["two"])) == ["b"]
        assert kinds(await claim_all(storage, queues=["one", "two"])) == ["a"]

    async def test_the_first_queue_comes_first(self, storage: Storage) -> None:
        """Q5: the order of the queues is an order of preference, whatever the age of the jobs."""
        await add(storage, "low", queue="low", priority=9)
        await add(storage, "high", queue="high")
        assert (await take(storage, queues=["high", "low"]))[0].kind == "high"

    @pytest.mark.parametrize("limit", [1, 3, 20])
    async def test_no_queue_starves(self, storage: Storage, limit: int) -> None:
        """Q5: a queue that never runs dry is preferred, and yet the last one gets its share."""
        for queue in ("a", "b", "c"):
            await storage.jobs.enqueue_bulk(EnqueueRequest(queue, queue=queue) for _ in range(200))
        served: list[str] = []
        while len(served) < 120:
            served += kinds(await storage.jobs.claim_many("worker-1", queues=["a", "b", "c"], limit=limit))
        assert served.count("a") > served.count("b") > served.count("c") > 0

    @pytest.mark.parametrize("limit", [1, 3, 20])
    async def test_weighted_queues(self, storage: Storage, limit: int) -> None:
        """Q5: queues that never run dry are served as often as their weights say, whatever their order."""
        for queue in ("a", "b", "c"):
            await storage.jobs.enqueue_bulk(EnqueueRequest(queue, queue=queue) for _ in range(80))
        served: list[str] = []
        while len(served) < 60:
            served += kinds(
                await storage.jobs.claim_many("worker-1", queues=["a", "b", "c"], weights={"b": 4}, limit=limit)
            )
        shares = {queue: served[:60].count(queue) for queue in "abc"}
        assert shares == pytest.approx({"a": 10, "b": 40, "c": 10}, abs=5)

    async def test_weights_keep_nothing_back(self, storage: Storage) -> None:
        """Q5: a queue of little weight gets all that the others leave."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", queue="b") for _ in range(10))
        claimed = await storage.jobs.claim_many("worker-1", queues=["a", "b"], weights={"a": 99}, limit=10)
        assert len(claimed) == 10

    async def test_a_full_claim_needs_no_second_queue(self, storage: Storage) -> None:
        """A claim is filled from whatever queue has jobs."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", queue="b") for _ in range(10))
        assert len(await storage.jobs.claim_many("worker-1", queues=["a", "b", "c"], limit=10)) == 10
