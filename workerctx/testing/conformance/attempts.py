"""What counts as a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workerctx.queue.model import JobState
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    add,
    prefetch,
    state_of,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestAttempts:
    """What counts as a run."""

    async def test_attempts_count_runs(self, storage: Storage) -> None:
        """Q3: the first run is attempt 1, and `max_attempts` counts it."""
        job_id = await add(storage, max_attempts=3, retry=NO_WAIT)
        for attempt in (1, 2, 3):
            job, lease = await take(storage)
            assert job.attempt == attempt
            await storage.jobs.fail(lease.id, f"boom {attempt}")
        assert await storage.jobs.claim("worker-1") is None
        job = await storage.jobs.get(job_id)
        assert (job.state, job.attempt) == (JobState.DEAD, 3)
        assert [entry.attempt for entry in job.error_history] == [1, 2, 3]
        assert [entry.error.message for entry in job.error_history] == ["boom 1", "boom 2", "boom 3"]

    async def test_one_attempt_is_one_run(self, storage: Storage) -> None:
        """Q3: with max_attempts 1 a failed job is never tried again."""
        job_id = await add(storage, max_attempts=1)
        await storage.jobs.fail((await take_lease(storage)).id, "boom")
        assert await state_of(storage, job_id) is JobState.DEAD

    @pytest.mark.parametrize("attempts", [1, 3])
    async def test_a_crash_is_a_run(self, storage: Storage, attempts: int) -> None:
        """Q3: a lease that runs out during a run uses up an attempt, and the last one makes the job dead."""
        job_id = await add(storage, max_attempts=attempts, retry=NO_WAIT)
        for attempt in range(1, attempts + 1):
            job, _ = await take(storage, lease_ttl=5)
            assert job.attempt == attempt
            await advance(storage, 6)
            await storage.jobs.reap_expired_leases()
        job = await storage.jobs.get(job_id)
        assert job.state is JobState.DEAD
        assert job.error is not None
        assert "lease" in str(job.error)

    async def test_giving_back_is_no_run(self, storage: Storage) -> None:
        """Q3: release and snooze use up no attempt, however often they happen."""
        job_id = await add(storage, max_attempts=1)
        for n in range(12):
            job, lease = await take(storage)
            assert job.attempt == 1
            if n % 2:
                await storage.jobs.release(lease.id)
            else:
                await storage.jobs.snooze(lease.id, delay=0)
        assert (await storage.jobs.get(job_id)).attempt == 0
        await storage.jobs.complete((await take_lease(storage)).id)
        assert (await storage.jobs.get(job_id)).attempt == 1

    async def test_a_prefetched_run_counts_from_its_beginning(self, storage: Storage) -> None:
        """Q3: a prefetched job's attempt counts once its worker says that the run has begun."""
        job_id = await add(storage)
        job, lease = await prefetch(storage)
        assert job.attempt == 1
        assert (await storage.jobs.get(job_id)).attempt == 0
        await storage.jobs.finish_many([], began=[lease.id, "unknown"])
        await storage.jobs.finish_many([], began=[lease.id])
        assert (await storage.jobs.get(job_id)).attempt == 1

    async def test_a_prefetched_job_that_is_finished_has_run(self, storage: Storage) -> None:
        """Q3: completing or failing a prefetched job counts its run, without a word that it began."""
        done, failed = await add(storage), await add(storage, retry=NO_WAIT)
        await storage.jobs.complete((await prefetch(storage))[1].id)
        await storage.jobs.fail((await prefetch(storage))[1].id, "boom")
        assert (await storage.jobs.get(done)).attempt == 1
        assert (await storage.jobs.get(failed)).attempt == 1

    async def test_a_crash_before_the_run_is_no_run(self, storage: Storage) -> None:
        """Q3: a lease that runs out before its run began uses up no attempt."""
        job_id = await add(storage, max_attempts=1)
        await prefetch(storage, lease_ttl=5)
        await advance(storage, 6)
        await storage.jobs.reap_expired_leases()
        job = await storage.jobs.get(job_id)
        assert (job.state, job.attempt) == (JobState.QUEUED, 0)
        assert (await take(storage))[0].attempt == 1

    async def test_a_crash_after_the_word_is_a_run(self, storage: Storage) -> None:
        """Q3: once a prefetched run is known to have begun, its crash uses up the attempt."""
        job_id = await add(storage, max_attempts=1)
        _, lease = await prefetch(storage, lease_ttl=5)
        await storage.jobs.finish_many([], began=[lease.id])
        await advance(storage, 6)
        await storage.jobs.reap_expired_leases()
        assert await state_of(storage, job_id) is JobState.DEAD

    async def test_releasing_a_begun_prefetched_run(self, storage: Storage) -> None:
        """Q3: a graceful release uses up no attempt even when the run had begun."""
        job_id = await add(storage)
        _, lease = await prefetch(storage)
        await storage.jobs.finish_many([], began=[lease.id])
        await storage.jobs.release(lease.id)
        assert (await storage.jobs.get(job_id)).attempt == 0

    async def test_a_job_that_kills_its_workers(self, storage: Storage) -> None:
        """Q3: a job whose workers vanish before its run begins is dead after max_attempts + 3 deliveries."""
        job_id = await add(storage, max_attempts=2)
        for delivery in range(1, 6):
            job, _ = await prefetch(storage, lease_ttl=5)
            assert job.deliveries == delivery
            await advance(storage, 6)
            await storage.jobs.reap_expired_leases()
        assert await storage.jobs.claim("worker-1") is None
        job = await storage.jobs.get(job_id)
        assert (job.state, job.deliveries) == (JobState.DEAD, 5)
        assert job.error is not None
        assert "deliver" in str(job.error)
