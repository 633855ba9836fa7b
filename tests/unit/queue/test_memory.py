"""What the memory store promises beyond the common contract: sharing by name, virtual time, and lean claims."""

import gc
import threading
import tracemalloc
from contextlib import AsyncExitStack
from uuid import uuid4

import anyio
import pytest

from workerctx.errors import InvalidRequest, QueueError, StoreClosed
from workerctx.queue import EnqueueRequest, JobState, connect
from workerctx.queue.limits import RateLimit
from workerctx.queue.memory.limits import Bucket
from workerctx.queue.memory.line import Group
from workerctx.queue.memory.table import Table
from workerctx.queue.model import QueuedJob
from workerctx.queue.turns import PREFERENCE, Turns
from workerctx.testing import advance


class TestSharing:
    async def test_a_private_store(self):
        """Q19: every connect to memory:// makes a store of its own."""
        async with connect("memory://") as one, connect("memory://") as two:
            await one.jobs.enqueue(EnqueueRequest("work"))
            assert await two.jobs.claim("worker-1") is None

    async def test_a_private_store_survives_its_closing(self):
        """A Storage object that is opened again finds what it held."""
        storage = connect("memory://")
        async with storage:
            outcome = await storage.jobs.enqueue(EnqueueRequest("work"))
        async with storage:
            assert (await storage.jobs.get(outcome.id)).kind == "work"

    async def test_a_shared_store(self):
        """memory://name is one store wherever it is opened, and its clock is one."""
        url = f"memory://{uuid4().hex}"
        async with connect(url) as one, connect(url) as two, connect(f"{url}?namespace=b") as other:
            outcome = await one.jobs.enqueue(EnqueueRequest("work", delay=60))
            await advance(other, 61)
            claimed = await two.jobs.claim("worker-1")
        assert claimed is not None
        assert claimed[0].id == outcome.id

    @pytest.mark.parametrize("url", ["memory:///path", "memory://name/path", "memory://?synchronous=full"])
    async def test_what_memory_has_not(self, url):
        """Q13: a path or an unknown option is refused."""
        with pytest.raises(InvalidRequest):
            connect(url)

    async def test_opening_twice_at_once(self):
        """One Storage object is open once; the message tells what to do instead."""
        async with connect("memory://") as storage:
            with pytest.raises(QueueError, match="connect"):
                await storage.__aenter__()

    async def test_two_event_loops(self, anyio_backend):
        """L34: two loops in two threads share a store by name; a job and a result cross between them."""
        url = f"memory://{uuid4().hex}"
        results = []

        async def work():
            async with connect(url) as storage, storage.jobs.wakeups() as wakeups:
                while (claimed := await storage.jobs.claim("worker-1")) is None:
                    await wakeups.wait()
                await storage.jobs.complete(claimed[1].id, claimed[0].payload * 2)

        other = "trio" if anyio_backend == "asyncio" else "asyncio"
        thread = threading.Thread(target=lambda: anyio.run(work, backend=other))
        thread.start()
        with anyio.fail_after(10):
            async with connect(url) as storage:
                outcome = await storage.jobs.enqueue(EnqueueRequest("work", 21))
                results.append(await storage.jobs.result(outcome.id))
        thread.join()
        assert results == [42]

    async def test_closing_ends_subscriptions(self):
        """Q10: a subscription ends with its Storage, and a closed one cannot be subscribed to."""
        storage = connect("memory://")
        async with AsyncExitStack() as stack:
            async with storage:
                stream = await stack.enter_async_context(storage.jobs.subscribe())
            assert [event async for event in stream] == []
        with pytest.raises(StoreClosed):
            storage.jobs.subscribe()
        with pytest.raises(StoreClosed):
            await storage.jobs.result("nobody")


class TestTime:
    async def test_virtual_time(self):
        """Q11: the store follows the clock of its loop, so that virtual time moves due times and leases."""
        async with connect("memory://") as storage:
            loop_before, before = anyio.current_time(), await storage.now()
            loop_after, after = anyio.current_time(), await storage.now()
        assert after - before == pytest.approx(loop_after - loop_before, abs=0.01)

    async def test_a_scheduled_job_ends_the_wait(self):
        """W6: a waiter returns when the next job becomes due, without polling."""
        async with connect("memory://") as storage, storage.jobs.wakeups() as wakeups:
            await storage.jobs.enqueue(EnqueueRequest("work", delay=0.02))
            assert await wakeups.wait() is True
            with anyio.fail_after(10):
                while await storage.jobs.claim("worker-1") is None:
                    await wakeups.wait()

    async def test_a_due_job_that_nobody_takes_does_not_spin(self):
        """W6: a job that became due and was left alone does not end the next wait."""
        async with connect("memory://") as storage, storage.jobs.wakeups() as wakeups:
            await storage.jobs.enqueue(EnqueueRequest("unknown", delay=1))
            await wakeups.wait()
            await advance(storage, 2)
            await wakeups.wait()
            assert await storage.jobs.claim("worker-1", kinds=["known"]) is None
            await wakeups.wait(0.001)
            assert await wakeups.wait(0.02) is False

    async def test_the_end_of_a_pause_ends_the_wait(self):
        """W6: a waiter returns when its queue resumes by itself."""
        async with connect("memory://") as storage, storage.jobs.wakeups() as wakeups:
            await storage.jobs.enqueue(EnqueueRequest("work"))
            await storage.jobs.pause_queue("default", until=await storage.now() + 0.02)
            with anyio.fail_after(10):
                while await storage.jobs.claim("worker-1") is None:
                    await wakeups.wait()


async def test_virtual_time_on_trio():
    """Q11: under trio's mock clock a lease of an hour expires at once."""
    import trio
    from trio.testing import MockClock

    async def main():
        async with connect("memory://") as storage:
            await storage.jobs.enqueue(EnqueueRequest("work", max_attempts=1))
            claimed = await storage.jobs.claim("worker-1", lease_ttl=3600)
            assert claimed is not None
            await trio.sleep(3601)
            await storage.jobs.reap_expired_leases()
            return (await storage.jobs.counts())[JobState.DEAD]

    done = []
    clock = MockClock(autojump_threshold=0)
    thread = threading.Thread(target=lambda: done.append(trio.run(main, clock=clock)))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    assert done == [1]


class TestSize:
    async def test_a_queued_job_is_small(self):
        """A queued job with a payload of 200 bytes takes less than 1 kB."""
        count = 5000
        async with connect("memory://") as storage:
            gc.collect()
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                for _ in range(count // 500):
                    await storage.jobs.enqueue_bulk(EnqueueRequest("work", f"{n:0198}") for n in range(500))
                gc.collect()
                used = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
        assert used / count < 1000

    async def test_nothing_is_left_behind(self):
        """Jobs that were finished and pruned, cancelled, expired or deleted leave nothing in the indexes."""
        async with connect("memory://") as storage:
            now = await storage.now()
            for n in range(4):
                await storage.jobs.enqueue_bulk(
                    EnqueueRequest("work", n, delay=n % 2, expires_at=now + 50, unique_key=f"{n}-{i}", workflow_id="wf")
                    for i in range(1500)
                )
                await storage.jobs.cancel_workflow("wf")
                await storage.jobs.clear_workflow("wf")
                await advance(storage, 1)
                await storage.jobs.prune(0)
            table = storage._session.store.table
            assert (table.jobs, table.unique, table.workflows, table.held, table._children) == ({}, {}, {}, {}, {})
            assert sum(len(group.ready) + len(group.later) for group in table.line("default").all()) < 3000
            assert len(table._expiring) < 3000

    async def test_a_batch_of_claims_visits_only_what_it_takes(self):
        """Q18: a claim touches the places that it takes, not the crowd of another kind or a later time."""
        async with connect("memory://") as storage:
            await storage.jobs.enqueue_bulk(
                [
                    *(EnqueueRequest("unknown", priority=9) for _ in range(2000)),
                    *(EnqueueRequest("work", priority=9, delay=500) for _ in range(2000)),
                    *(EnqueueRequest("work") for _ in range(100)),
                ]
            )
            looked = CountingDict(storage._session.store.table.jobs)
            line = storage._session.store.table.line("default")
            for group in line.all():
                group._jobs = looked
            assert len(await storage.jobs.claim_many("worker-1", kinds=["work"], limit=10)) == 10
        assert looked.count < 30


class CountingDict(dict):
    count = 0

    def get(self, key, default=None):
        self.count += 1
        return super().get(key, default)


class TestLine:
    def group(self, count):
        table = Table()
        for n in range(count):
            table.put(QueuedJob(id=str(n), kind="work", run_at=float(n)))
        return table, table.line("default").group("work", frozenset())

    def test_void_places_are_swept(self):
        """A group whose jobs went away without being claimed does not grow."""
        table, group = self.group(5000)
        for n in range(4900):
            table.drop(table.jobs[str(n)])
        assert len(group.ready) < 2500
        assert group.head() == (0, 4900.0, "4900")

    def test_empty_groups_are_dropped(self):
        """A kind that has no jobs any more costs later claims nothing."""
        table, group = self.group(1)
        assert isinstance(group, Group)
        line = table.line("default")
        group.head()
        group.pop()
        assert line.open_to(None, frozenset()) == []
        assert line.groups == {}


class TestBucket:
    def test_precision(self):
        """W8: a limit of a million calls at a large store time is exact."""
        bucket = Bucket(RateLimit("x", 1_000_000, 1_000_000.0))
        now = 1.8e9
        assert bucket.take(999_999, now) == 0
        assert bucket.take(1, now) == 0
        assert bucket.take(1, now) == pytest.approx(1.0)

    def test_a_clock_that_goes_back(self):
        """W8: a reading that is older than the one before neither fills nor drains."""
        bucket = Bucket(RateLimit("x", 2, 2.0))
        assert bucket.take(1, 1000.0) == 0
        assert bucket.take(1, 999.0) == 0
        assert bucket.take(1, 998.0) > 0


class TestTurns:
    def test_the_share_of_each_queue(self):
        """Q5: of queues that never run dry each is served so many times as often as the next."""
        turns = Turns(["a", "b", "c"])
        served = [turns.next(["a", "b", "c"]) for _ in range(21 * 10)]
        assert [served.count(queue) for queue in "abc"] == [PREFERENCE**2 * 10, PREFERENCE * 10, 10]
        assert served[0] == "a"

    def test_weights(self):
        """Q5: with weights, each queue is served as often as its weight, 1 unless it is named."""
        turns = Turns(["a", "b", "c"], {"a": 2, "b": 3})
        served = [turns.next(["a", "b", "c"]) for _ in range(6 * 10)]
        assert [served.count(queue) for queue in "abc"] == [20, 30, 10]

    def test_a_lone_queue_is_always_served(self):
        """Q5: a queue whose neighbours are empty gets every turn."""
        turns = Turns(["a", "b"])
        assert [turns.next(["b"]) for _ in range(5)] == ["b"] * 5
