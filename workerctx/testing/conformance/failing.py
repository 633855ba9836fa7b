"""Runs that fail, or want to come back later."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from workerctx.errors import LeaseLost, Throttled, UnknownScope
from workerctx.queue.finish import FailLease, ThrottleLease
from workerctx.queue.limits import Granted
from workerctx.queue.model import ERROR_HISTORY, JobError, JobState
from workerctx.queue.retry import Constant, Exponential, Linear
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import NO_WAIT, add, dead_job, refused, state_of, take, take_lease

if TYPE_CHECKING:
    from workerctx.queue.base import Storage
    from workerctx.queue.retry import RetryPolicy


@pytest.mark.anyio
class TestBackoff:
    """How long a failed job waits."""

    @pytest.mark.parametrize(
        ("policy", "waits"),
        [
            (Constant(10.0, jitter=False), [10, 10, 10]),
            (Linear(10.0, 25.0, jitter=False), [10, 20, 25]),
            (Exponential(10.0, 35.0, jitter=False), [10, 20, 35]),
            (Constant(0.0), [0, 0, 0]),
        ],
        ids=["constant", "linear", "exponential", "none"],
    )
    async def test_retry_n_waits_its_backoff(self, storage: Storage, policy: RetryPolicy, waits: list[float]) -> None:
        """Q4: retry n waits what the policy says for n, and the first retry is number 1."""
        job_id = await add(storage, retry=policy, max_attempts=9)
        for wait in waits:
            lease = await take_lease(storage)
            failed_at = await storage.now()
            await storage.jobs.fail(lease.id, "boom")
            job = await storage.jobs.get(job_id)
            assert job.run_at == pytest.approx(failed_at + wait, abs=2)
            assert job.state is (JobState.SCHEDULED if wait else JobState.QUEUED)
            await advance(storage, wait)

    async def test_jitter(self, storage: Storage) -> None:
        """Q4: with jitter, the default, a job waits between nothing and its backoff."""
        policy = Constant(1000.0)
        waits: set[float] = set()
        for _ in range(10):
            job_id = await add(storage, retry=policy)
            lease = await take_lease(storage)
            now = await storage.now()
            await storage.jobs.fail(lease.id, "boom")
            wait = (await storage.jobs.get(job_id)).run_at - now
            assert -1 <= wait <= 1001
            waits.add(round(wait, 3))
        assert len(waits) > 1

    @pytest.mark.parametrize("delay", [0.0, 42.0])
    async def test_the_handlers_word_wins(self, storage: Storage, delay: float) -> None:
        """Q4: a delay that the run asked for replaces the policy's, zero included, and burns the attempt."""
        job_id = await add(storage, retry=Constant(500.0, jitter=False))
        lease = await take_lease(storage)
        now = await storage.now()
        await storage.jobs.fail(lease.id, "boom", delay=delay)
        job = await storage.jobs.get(job_id)
        assert job.run_at == pytest.approx(now + delay, abs=2)
        assert job.attempt == 1

    async def test_not_retryable(self, storage: Storage) -> None:
        """Q4: a failure that is not retryable is the end, whatever attempts are left."""
        job_id = await add(storage, max_attempts=9)
        await storage.jobs.fail((await take_lease(storage)).id, "no use", retryable=False, delay=1)
        job = await storage.jobs.get(job_id)
        assert (job.state, job.attempt) == (JobState.DEAD, 1)
        assert job.finished_at == pytest.approx(await storage.now(), abs=5)

    async def test_not_retried_before_its_time(self, storage: Storage) -> None:
        """Q4: a failed job is invisible until its wait is over."""
        await add(storage, retry=Constant(60, jitter=False))
        await storage.jobs.fail((await take_lease(storage)).id, "boom")
        await advance(storage, 40)
        assert await storage.jobs.claim("worker-1") is None
        await advance(storage, 21)
        assert (await take(storage))[0].attempt == 2


@pytest.mark.anyio
class TestErrors:
    """What is remembered of a failure."""

    async def test_a_text(self, storage: Storage) -> None:
        """A plain text is kept as the message."""
        job_id = await add(storage)
        await storage.jobs.fail((await take_lease(storage)).id, "boom")
        error = (await storage.jobs.get(job_id)).error
        assert error is not None
        assert error.message == "boom"

    async def test_a_whole_error(self, storage: Storage) -> None:
        """Kind, message, traceback and details of an error come back as they were."""
        job_id = await add(storage)
        error = JobError("ValueError", "böse", "Traceback ...", {"field": ["a", 1]})
        await storage.jobs.fail((await take_lease(storage)).id, error)
        job = await storage.jobs.get(job_id)
        assert job.error == error
        assert job.error_history[0].at == pytest.approx(await storage.now(), abs=5)

    async def test_success_hides_the_error_but_not_the_history(self, storage: Storage) -> None:
        """A job that succeeded in the end has no error, and its history still tells of the failures."""
        job_id = await add(storage, retry=NO_WAIT)
        await storage.jobs.fail((await take_lease(storage)).id, "boom")
        await storage.jobs.complete((await take_lease(storage)).id, 1)
        job = await storage.jobs.get(job_id)
        assert (job.state, job.error, len(job.error_history)) == (JobState.SUCCEEDED, None, 1)

    async def test_the_history_is_bounded(self, storage: Storage) -> None:
        """Only the newest failures are remembered."""
        job_id = await add(storage, retry=NO_WAIT, max_attempts=ERROR_HISTORY + 5)
        for attempt in range(1, ERROR_HISTORY + 4):
            await storage.jobs.fail((await take_lease(storage)).id, f"boom {attempt}")
        history = (await storage.jobs.get(job_id)).error_history
        assert len(history) == ERROR_HISTORY
        assert history[-1].error.message == f"boom {ERROR_HISTORY + 3}"


@pytest.mark.anyio
class TestSnooze:
    """Not now."""

    @pytest.mark.parametrize("delay", [30, timedelta(seconds=30)], ids=["seconds", "timedelta"])
    async def test_snoozing(self, storage: Storage, delay: float | timedelta) -> None:
        """Q4: a snoozed job comes back after its time with its attempts as they were."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.snooze(lease.id, delay=delay)
        job = await storage.jobs.get(job_id)
        assert (job.state, job.attempt, job.error) == (JobState.SCHEDULED, 0, None)
        assert job.run_at == pytest.approx(await storage.now() + 30, abs=5)
        with pytest.raises(LeaseLost):
            await storage.jobs.complete(lease.id)
        await advance(storage, 31)
        assert (await take(storage))[0].attempt == 1

    async def test_a_release_is_claimable_at_once(self, storage: Storage) -> None:
        """A released job is there for the next claim, with no trace of its holder."""
        job_id = await add(storage)
        await storage.jobs.release((await take_lease(storage)).id)
        job = await storage.jobs.get(job_id)
        assert (job.state, job.worker_id, job.lease_id) == (JobState.QUEUED, None, None)
        assert (await take(storage, "worker-2"))[0].id == job_id


@pytest.mark.anyio
class TestThrottle:
    """Limits that a run met."""

    async def test_throttling_burns_nothing(self, storage: Storage) -> None:
        """Q4: a throttled job waits and has used up no attempt, however often that happens."""
        job_id = await add(storage, max_attempts=1)
        for _ in range(10):
            job, lease = await take(storage)
            assert job.attempt == 1
            assert refused(await storage.jobs.finish_many([ThrottleLease(lease.id, 20.0)])) == [None]
            assert await state_of(storage, job_id) is JobState.SCHEDULED
            await advance(storage, 21)
        assert (await storage.jobs.get(job_id)).attempt == 0

    async def test_a_scope_is_drained(self, storage: Storage) -> None:
        """Q4: a throttle with a scope empties that limit for everybody, in the same step."""
        await storage.rate_limits.configure("slack", capacity=10, per=10)
        await add(storage)
        lease = await take_lease(storage)
        assert isinstance(await storage.rate_limits.acquire("slack"), Granted)
        await storage.jobs.finish_many([ThrottleLease(lease.id, 60.0, "slack")])
        throttled = await storage.rate_limits.acquire("slack")
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == pytest.approx(60, abs=3)
        await advance(storage, 61)
        assert isinstance(await storage.rate_limits.acquire("slack"), Granted)

    async def test_a_lost_throttle_drains_nothing(self, storage: Storage) -> None:
        """Q1: a late finisher's throttle changes neither the job nor the limit."""
        await storage.rate_limits.configure("slack", capacity=10, per=10)
        await add(storage, retry=NO_WAIT)
        lease = await take_lease(storage, lease_ttl=5)
        await advance(storage, 6)
        await storage.jobs.reap_expired_leases()
        outcomes = await storage.jobs.finish_many([ThrottleLease(lease.id, 60.0, "slack")])
        assert refused(outcomes) == [LeaseLost]
        assert isinstance(await storage.rate_limits.acquire("slack"), Granted)

    async def test_an_unknown_scope(self, storage: Storage) -> None:
        """A throttle that names a limit nobody configured is refused alone and leaves the job with its holder."""
        first, second = await add(storage), await add(storage)
        one, two = await take_lease(storage), await take_lease(storage)
        outcomes = await storage.jobs.finish_many(
            [ThrottleLease(one.id, 60.0, "nobody"), FailLease(two.id, JobError.of("boom"), retryable=False)]
        )
        assert refused(outcomes) == [UnknownScope, None]
        assert await state_of(storage, first) is JobState.RUNNING
        assert await state_of(storage, second) is JobState.DEAD


@pytest.mark.anyio
class TestDeadJobs:
    """What a dead job still tells."""

    async def test_the_reason_is_kept(self, storage: Storage) -> None:
        """Q14: a job that cannot be run is dead with the reason, not lost and not retried."""
        job_id = await dead_job(storage, "the payload does not fit: $.width is missing")
        job = await storage.jobs.get(job_id)
        assert job.state is JobState.DEAD
        assert job.error is not None
        assert "$.width" in job.error.message
        assert await storage.jobs.claim("worker-1") is None
