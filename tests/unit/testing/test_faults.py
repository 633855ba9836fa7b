"""Faults: a real store whose calls fail, take long or hang when the test says so."""

from __future__ import annotations

import inspect
import threading
from functools import partial

import anyio
import anyio.to_thread
import pytest

from workerctx import JobRegistry, JobState, WorkerConfig, WorkerLoop, connect
from workerctx.errors import InvalidRequest, StoreBusy, StoreUnavailable
from workerctx.queue import (
    ClaimRequest,
    EnqueueRequest,
    JobQueue,
    LeaseRenewer,
    RateLimits,
    Schedules,
    Storage,
    Wakeups,
    Workers,
)
from workerctx.testing import Faults, wait_until

PARTS = {"jobs": JobQueue, "rate_limits": RateLimits, "workers": Workers, "schedules": Schedules}


AHEAD = {"prepare_claim", "then"}
"""What would begin a call where no fault reaches it; see `test_nothing_is_begun_ahead`."""


def methods_of(protocol: type) -> list[str]:
    """The names of what a protocol lets its users call, read from the protocol itself."""
    names = [name for name, member in inspect.getmembers(protocol, callable) if not name.startswith("_")]
    return [name for name in names if name not in AHEAD]


@pytest.fixture
def faults():
    """No faults yet."""
    return Faults()


@pytest.fixture
async def storage(faults):
    """An open memory store behind the faults."""
    async with faults.wrap(connect("memory://")) as storage:
        yield storage


@pytest.fixture
def jobs():
    """A registry with one handler."""
    jobs = JobRegistry("memory://")

    @jobs.register(name="work")
    async def work() -> str:
        return "done"

    return jobs


class TestEveryCallOfTheContract:
    """What the protocols have, faults reach; the protocols say which that is."""

    @pytest.mark.parametrize(
        ("part", "name"), [(part, name) for part, protocol in PARTS.items() for name in methods_of(protocol)]
    )
    async def test_of_the_parts(self, storage, faults, part, name):
        """Every method of jobs, rate limits, workers and schedules fails when it should, before the store gets it."""
        with faults.fail(f"{part}.{name}") as fault, pytest.raises(StoreUnavailable):
            call = getattr(getattr(storage, part), name)()  # no argument is needed for what never arrives
            if not inspect.isawaitable(call):
                await call.__aenter__()
            await call
        assert [met.method for met in fault.calls] == [f"{part}.{name}"]

    @pytest.mark.parametrize("name", methods_of(Storage))
    async def test_of_the_storage(self, storage, faults, name):
        """The methods of the storage itself fail."""
        with faults.fail(name), pytest.raises(StoreUnavailable):
            await getattr(storage, name)()

    async def test_of_opening(self, faults):
        """Opening fails, and closing does not."""
        with faults.fail("open"), pytest.raises(StoreUnavailable):
            async with faults.wrap(connect("memory://")):
                pass
        storage = faults.wrap(connect("memory://"))
        async with storage:
            faults.fail()

    @pytest.mark.parametrize("name", methods_of(Wakeups))
    async def test_of_wakeups(self, storage, faults, name):
        """A wait for wake-ups fails."""
        async with storage.jobs.wakeups() as wakeups:
            with faults.fail(f"wakeups.{name}"), pytest.raises(StoreUnavailable):
                await getattr(wakeups, name)(0.01)

    @pytest.mark.parametrize("name", methods_of(LeaseRenewer))
    async def test_of_the_renewer(self, storage, faults, name):
        """Renewing fails in its thread, and so does opening the renewer."""
        with storage.open_renewer() as renewer:
            with faults.fail(f"renewer.{name}"), pytest.raises(StoreUnavailable):
                getattr(renewer, name)()
        with faults.fail("renewer.open"), pytest.raises(StoreUnavailable), storage.open_renewer():
            pass

    async def test_nothing_is_begun_ahead(self, faults, tmp_path):
        """Behind faults nothing but its owner begins a call, so that every one of them meets the faults."""
        async with faults.wrap(connect(f"sqlite:///{tmp_path}/jobs.db")) as storage:
            assert storage.jobs.prepare_claim(ClaimRequest(worker_id="worker")) is None
            async with storage.jobs.wakeups() as wakeups:
                assert wakeups.then(None) is None

    def test_the_protocols_have_no_other_form_of_method(self):
        """A method that is not async is one of those that are known to be different."""
        protocols = {**PARTS, "wakeups": Wakeups, "renewer": LeaseRenewer, "storage": Storage}
        sync = {
            f"{part}.{name}"
            for part, protocol in protocols.items()
            for name in methods_of(protocol)
            if not inspect.iscoroutinefunction(getattr(protocol, name))
        }
        assert sync == {"jobs.subscribe", "jobs.wakeups", "renewer.renew", "storage.open_renewer"}


class TestRules:
    """Which calls a fault takes, and what it does to them."""

    async def test_without_a_fault_nothing_happens(self, storage):
        """Calls reach the store, and what is no call is that of the real one."""
        outcome = await storage.jobs.enqueue(EnqueueRequest("work"))
        assert (await storage.jobs.get(outcome.id)).state is JobState.QUEUED
        assert storage.url == "memory://"
        assert "memory://" in repr(storage)

    async def test_the_nth_call(self, storage, faults):
        """`skip` and `times` count the calls that match."""
        faults.fail("jobs.enqueue", skip=1, times=1, error=StoreBusy("held"))
        await storage.jobs.enqueue(EnqueueRequest("a"))
        await storage.jobs.counts()
        with pytest.raises(StoreBusy, match="held"):
            await storage.jobs.enqueue(EnqueueRequest("b"))
        await storage.jobs.enqueue(EnqueueRequest("c"))
        assert [job.kind for job in (await storage.jobs.list()).jobs] == ["a", "c"]

    async def test_a_condition(self, storage, faults):
        """`when` sees the arguments."""
        fault = faults.fail("jobs.enqueue", when=lambda call: call.args[0].kind == "bad")
        await storage.jobs.enqueue(EnqueueRequest("good"))
        with pytest.raises(StoreUnavailable):
            await storage.jobs.enqueue(EnqueueRequest("bad"))
        (call,) = fault.calls
        assert call.kwargs == {}

    async def test_an_answer_that_is_lost(self, storage, faults):
        """The store does what it was asked, and the caller gets an error."""
        with faults.fail("jobs.enqueue", answer_lost=True), pytest.raises(StoreUnavailable):
            await storage.jobs.enqueue(EnqueueRequest("work"))
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1

    async def test_a_lifted_fault_is_over(self, storage, faults):
        """After the block, or `lift`, calls are served."""
        with faults.fail():
            with pytest.raises(StoreUnavailable):
                await storage.now()
        await storage.now()
        faults.fail()
        faults.lift()
        await storage.now()

    async def test_a_delay(self, storage, faults, virtual_time):
        """A call waits, in the time of the event loop."""
        virtual_time()
        with faults.delay("now", seconds=30):
            await storage.now()
        assert virtual_time() >= 30

    async def test_several_faults_come_one_after_the_other(self, storage, faults, virtual_time):
        """A call waits first and fails then."""
        virtual_time()
        faults.delay("now", seconds=30)
        faults.fail("now")
        with pytest.raises(StoreUnavailable):
            await storage.now()
        assert virtual_time() >= 30

    async def test_a_call_hangs_until_the_fault_is_lifted(self, storage, faults):
        """`met` tells that it hangs; `lift` lets it go on, from any thread."""
        fault = faults.hang("jobs.enqueue")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.jobs.enqueue, EnqueueRequest("work"))
            with anyio.fail_after(10):
                await fault.met()
            assert (await storage.jobs.counts())[JobState.QUEUED] == 0
            await anyio.to_thread.run_sync(fault.lift)
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1

    async def test_a_hung_call_can_be_cancelled(self, storage, faults):
        """A timeout ends a call that hangs; the store never got it."""
        faults.hang("jobs.enqueue")
        with anyio.move_on_after(0.01) as scope:
            await storage.jobs.enqueue(EnqueueRequest("work"))
        assert scope.cancelled_caught
        assert (await storage.jobs.counts())[JobState.QUEUED] == 0

    async def test_a_hung_renewal_blocks_its_thread_only(self, storage, faults):
        """A renewal hangs in its thread until it is lifted, and waits for a delay."""
        fault = faults.hang("renewer.renew")
        with storage.open_renewer() as renewer:
            thread = threading.Thread(target=renewer.renew, args=([], 10.0))
            thread.start()
            with anyio.fail_after(10):
                await fault.met()
            assert thread.is_alive()
            fault.lift()
            await anyio.to_thread.run_sync(thread.join)
            faults.delay("renewer.renew", seconds=0.01)
            await anyio.to_thread.run_sync(partial(renewer.renew, [], 10.0))

    async def test_what_is_misspelt_is_refused(self, faults):
        """A name that no call has, and negative seconds, are refused by name."""
        with pytest.raises(InvalidRequest, match=r"'jobs.clam'.*jobs\.claim"):
            faults.fail("jobs.clam")
        with pytest.raises(InvalidRequest, match="-1"):
            faults.delay(seconds=-1)


class TestWorkers:
    """What faults are for: worker loops in bad weather."""

    async def test_a_loop_outlives_an_outage(self, jobs, faults):
        """W4: while the store fails the loop is not ready; afterwards it runs the job."""
        with faults.inject(jobs):
            async with jobs:
                handle = await jobs.find("work").enqueue()
                with faults.fail("jobs.*", "workers.*", "renewer.*", "wakeups.*") as outage:
                    async with WorkerLoop(jobs, WorkerConfig(poll_interval=0.05)) as loop:
                        with anyio.fail_after(10):
                            await outage.met(3)
                            await wait_until(lambda: not loop.context.is_ready)
                        outage.lift()
                        assert await handle.result(timeout=10) == "done"

    async def test_a_registry_that_is_open_already(self, jobs, faults):
        """Faults can come and go while the registry is open."""
        async with jobs:
            with faults.inject(jobs):
                faults.fail("jobs.enqueue")
                with pytest.raises(StoreUnavailable):
                    await jobs.find("work").enqueue()
            await jobs.find("work").enqueue()

    async def test_the_store_can_be_changed_behind_them(self, jobs, faults):
        """A registry is pointed elsewhere while faults are around it, and meets them there."""
        with faults.inject(jobs), jobs.override("memory://elsewhere"):
            async with jobs:
                assert jobs.storage.url == "memory://elsewhere"
                with faults.fail("jobs.enqueue"), pytest.raises(StoreUnavailable):
                    await jobs.find("work").enqueue()


async def test_waiting_has_a_bound():
    """`wait_until` says what did not come true."""
    calls = []

    async def third_time() -> bool:
        calls.append(1)
        return len(calls) >= 3

    async def never() -> bool:
        return False

    await wait_until(third_time)
    assert len(calls) == 3
    with pytest.raises(TimeoutError, match=r"never did not come true within 0\.01 seconds"):
        await wait_until(never, timeout=0.01)
