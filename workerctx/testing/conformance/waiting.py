"""Waiting for jobs and for results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import JobCancelled, JobFailed, JobNotFound
from workerctx.queue.finish import ClaimRequest
from workerctx.queue.handle import JobHandle
from workerctx.queue.model import JobState
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    PATIENCE,
    StorageFactory,
    add,
    dead_job,
    succeeded_job,
    take_lease,
)
from workerctx.testing.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from workerctx.queue.base import Storage
    from workerctx.queue.model import Claimed


@pytest.mark.anyio
class TestResult:
    """What a job returned."""

    @pytest.mark.parametrize("outputs", [None, 0, "text", [1, {"a": None}], {"size": 3}])
    async def test_outputs(self, storage: Storage, outputs: Any) -> None:
        """Any JSON value that a run returned is its result."""
        job_id = await succeeded_job(storage, outputs)
        assert await storage.jobs.result(job_id) == outputs
        job = await storage.jobs.get(job_id)
        assert (job.state, job.result, job.error) == (JobState.SUCCEEDED, outputs, None)
        assert job.finished_at is not None

    async def test_a_dead_job(self, storage: Storage) -> None:
        """The result of a dead job is `JobFailed` with its last error."""
        job_id = await dead_job(storage, "boom")
        with pytest.raises(JobFailed, match="boom"):
            await storage.jobs.result(job_id)

    async def test_a_cancelled_job(self, storage: Storage) -> None:
        """The result of a cancelled job is `JobCancelled` with the reason."""
        job_id = await add(storage)
        await storage.jobs.cancel(job_id)
        with pytest.raises(JobCancelled) as caught:
            await storage.jobs.result(job_id)
        assert caught.value.job_id == job_id
        assert caught.value.reason

    async def test_an_unknown_job(self, storage: Storage) -> None:
        """There is no result of a job that does not exist."""
        with pytest.raises(JobNotFound):
            await storage.jobs.result("nobody")

    async def test_in_time(self, storage: Storage) -> None:
        """A wait with a timeout ends when the job does not, and leaves the job alone."""
        job_id = await add(storage)
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError):
                await storage.jobs.result(job_id, timeout=timeout)
        await storage.jobs.complete((await take_lease(storage)).id, 1)
        assert await storage.jobs.result(job_id, timeout=PATIENCE) == 1
        assert await storage.jobs.result(job_id, timeout=0) == 1

    async def test_many_wait(self, storage_factory: StorageFactory) -> None:
        """Q10: any number of waiters, also through another Storage, get the result once it is there."""
        results: list[Any] = []
        async with storage_factory() as here, storage_factory() as there:
            job_id = await add(here)
            lease = await take_lease(here)
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:

                    async def wait(storage: Storage) -> None:
                        results.append(await JobHandle(storage.jobs, job_id).result())

                    for storage in (here, there) * 3:
                        tasks.start_soon(wait, storage)
                    await anyio.wait_all_tasks_blocked()
                    await here.jobs.complete(lease.id, "done")
        assert results == ["done"] * 6

    async def test_a_waiter_survives_a_retry(self, storage: Storage) -> None:
        """A failure that is not the last one does not end the wait."""
        job_id = await add(storage)
        results: list[Any] = []

        async def wait() -> None:
            results.append(await storage.jobs.result(job_id))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await storage.jobs.fail((await take_lease(storage)).id, "boom", delay=0)
                await storage.jobs.complete((await take_lease(storage)).id, 2)
        assert results == [2]

    async def test_deleted_meanwhile(self, storage: Storage) -> None:
        """Who waits for a job that is deleted learns that it is gone."""
        job_id = await add(storage)

        async def wait() -> None:
            with pytest.raises(JobNotFound):
                await storage.jobs.result(job_id)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await storage.jobs.delete(job_id)

    async def test_a_handle(self, storage: Storage) -> None:
        """A handle gives the status and the result of its job, and cancels it."""
        handle = JobHandle(storage.jobs, await add(storage))
        assert await handle.status() is JobState.QUEUED
        assert (await handle.get()).id == handle.id
        assert await handle.cancel() is True
        assert await handle.cancel() is False
        assert await handle.status() is JobState.CANCELLED


@pytest.mark.anyio
class TestWakeups:
    """Idle workers."""

    async def test_enqueueing_wakes(self, storage: Storage) -> None:
        """A worker that waits is woken by a job in one of its queues."""
        await _wakes(storage, lambda: add(storage, queue="a"))

    async def test_another_storage_wakes(self, storage_factory: StorageFactory) -> None:
        """A job that is enqueued through another Storage wakes as well."""
        async with storage_factory() as here, storage_factory() as there:
            await _wakes(here, lambda: add(there, queue="a"))

    async def test_a_wakeup_before_the_wait_is_kept(self, storage: Storage) -> None:
        """A wake-up that comes between two waits ends the next one at once."""
        async with storage.jobs.wakeups(["a"]) as wakeups:
            await add(storage, queue="a")
            with anyio.fail_after(PATIENCE):
                while not await wakeups.wait():
                    pass

    async def test_other_queues_do_not_wake(self, storage: Storage) -> None:
        """A job in a queue that a worker does not serve leaves it asleep."""
        async with storage.jobs.wakeups(["a"]) as wakeups:
            await add(storage, queue="b")
            assert await wakeups.wait(0.05) is False

    async def test_no_queues_means_all(self, storage: Storage) -> None:
        """Who waits for no queue in particular is woken by each."""
        async with storage.jobs.wakeups() as wakeups:
            await add(storage, queue="b")
            with anyio.fail_after(PATIENCE):
                while not await wakeups.wait():
                    pass

    async def test_a_wait_ends_by_itself(self, storage: Storage) -> None:
        """A wait with a timeout returns without a wake-up."""
        async with storage.jobs.wakeups(["a"]) as wakeups:
            with anyio.fail_after(PATIENCE):
                assert await wakeups.wait(0) is False
                assert await wakeups.wait(0.02) is False

    async def test_finished_jobs_wake_who_asked(self, storage: Storage) -> None:
        """A waiter for finished jobs is woken by each end of a job, and another one is not."""
        job_id = await add(storage, queue="b")
        async with (
            storage.jobs.wakeups(["a"], finished=True) as finished,
            storage.jobs.wakeups(["a"]) as plain,
        ):
            await storage.jobs.cancel(job_id)
            with anyio.fail_after(PATIENCE):
                while not await finished.wait():
                    pass
            assert await plain.wait(0.02) is False

    async def test_a_wakeup_begins_a_claim(self, storage_factory: StorageFactory) -> None:
        """Where a store can have a wake-up begin a claim, its result is what any claim gets."""
        async with storage_factory() as here, storage_factory() as there:
            async with here.jobs.wakeups(["a"]) as wakeups:
                request = ClaimRequest(worker_id="worker-1", queues=["a"], limit=10)
                claim = here.jobs.prepare_claim(request)
                wakeups.then(claim)
                job_id = await add(there, queue="a")
                with anyio.fail_after(PATIENCE):
                    claimed: Sequence[Claimed] = ()
                    while not claimed:
                        await wakeups.wait(0.5)
                        if claim is None:
                            _, claimed = await here.jobs.finish_and_claim((), request)
                        else:
                            claimed = await claim.result()
                            claim = here.jobs.prepare_claim(request)
                            wakeups.then(claim)
                if claim is not None:
                    claim.drop()
            ((job, lease),) = claimed
            assert (job.id, job.attempt, lease.worker_id) == (job_id, 1, "worker-1")
            await here.jobs.complete(lease.id)

    async def test_no_wakeup_is_lost_behind_a_claim(self, storage_factory: StorageFactory) -> None:
        """A job that came after a wake-up had begun the claim ends the next wait."""
        async with storage_factory() as here, storage_factory() as there:
            async with here.jobs.wakeups(["a"]) as wakeups:
                request = ClaimRequest(worker_id="worker-1", queues=["a"], limit=10)
                claim = here.jobs.prepare_claim(request)
                wakeups.then(claim)
                first = await add(there, queue="a")

                async def is_claimed() -> bool:
                    return (await there.jobs.get(first)).state is JobState.RUNNING

                if claim is not None:
                    await wait_until(is_claimed, timeout=PATIENCE)
                second = await add(here, queue="a")  # the waiter has heard of it when this returns
                assert await wakeups.wait(PATIENCE)
                if claim is None:
                    _, claimed = await here.jobs.finish_and_claim((), request)
                else:
                    claimed = await claim.result()
                    assert await wakeups.wait(0)
                    claimed = [*claimed, *(await here.jobs.finish_and_claim((), request))[1]]
            assert [job.id for job, _ in claimed] == [first, second]

    async def test_a_claim_that_is_dropped_gives_its_jobs_back(self, storage_factory: StorageFactory) -> None:
        """What a wake-up has claimed for nobody can be claimed at once, and no run of it counts."""
        async with storage_factory() as here, storage_factory() as there:
            async with here.jobs.wakeups(["a"]) as wakeups:
                claim = here.jobs.prepare_claim(ClaimRequest(worker_id="worker-1", queues=["a"]))
                wakeups.then(claim)
                await add(there, queue="a")
                with anyio.fail_after(PATIENCE):
                    while not await wakeups.wait(0.5):
                        pass
                if claim is not None:
                    claim.drop()
                    claim.drop()
            taken: list[Claimed] = []

            async def take() -> bool:
                taken.extend(await there.jobs.claim_many("worker-2", queues=["a"]))
                return bool(taken)

            await wait_until(take, timeout=PATIENCE)
            assert [job.attempt for job, _ in taken] == [1]
            assert await here.jobs.claim("worker-1", queues=["a"]) is None

    async def test_a_claim_that_is_dropped_in_time_is_not_made(self, storage: Storage) -> None:
        """A wake-up does nothing for who does not want it any more."""
        async with storage.jobs.wakeups(["a"]) as wakeups:
            claim = storage.jobs.prepare_claim(ClaimRequest(worker_id="worker-1", queues=["a"]))
            wakeups.then(claim)
            if claim is not None:
                claim.drop()
            job_id = await add(storage, queue="a")
            with anyio.fail_after(PATIENCE):
                while not await wakeups.wait():
                    pass
            assert (await storage.jobs.get(job_id)).deliveries == 0

    @pytest.mark.parametrize("how", ["release", "retry", "resume", "unblock", "wake", "wake all"])
    async def test_what_else_wakes(self, storage: Storage, how: str) -> None:
        """Whatever makes a job claimable again wakes those who wait for it, and so does `wake`."""
        jobs = storage.jobs
        job_id = await add(storage, queue="a")
        await add(storage, queue="a", depends_on=[job_id])
        lease = await take_lease(storage, queues=["a"])
        if how == "retry":
            await jobs.fail(lease.id, "boom", retryable=False)
        if how == "resume":
            await jobs.pause_queue("a")
        actions: dict[str, Callable[[], Awaitable[object]]] = {
            "release": lambda: jobs.release(lease.id),
            "retry": lambda: jobs.retry(job_id),
            "resume": lambda: jobs.resume_queue("a"),
            "unblock": lambda: jobs.complete(lease.id),
            "wake": lambda: jobs.wake("a"),
            "wake all": jobs.wake,
        }
        await _wakes(storage, actions[how])

    async def test_a_delayed_job_is_found_in_time(self, storage: Storage) -> None:
        """A worker that waits and looks finds a delayed job soon after it has become due."""
        await add(storage, queue="a", delay=30)
        async with storage.jobs.wakeups(["a"]) as wakeups:
            await advance(storage, 31)
            with anyio.fail_after(PATIENCE):
                while await storage.jobs.claim("worker-1", queues=["a"]) is None:
                    await wakeups.wait(0.5)


async def _wakes(storage: Storage, action: Callable[[], Awaitable[object]]) -> None:
    woken: list[bool] = []

    async def wait() -> None:
        async with storage.jobs.wakeups(["a"]) as wakeups:
            ready.set()
            while not await wakeups.wait():
                pass
            woken.append(True)

    ready = anyio.Event()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await ready.wait()
            await anyio.wait_all_tasks_blocked()
            await action()
    assert woken == [True]
