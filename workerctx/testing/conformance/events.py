"""Events: what is told, in which order, and that telling holds up nobody."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workerctx.errors import InvalidRequest, JobNotFound, LeaseLost
from workerctx.queue.events import (
    Cancelled,
    Completed,
    Failed,
    JobEvent,
    LeaseExpired,
    Ready,
    Snoozed,
    Started,
)
from workerctx.queue.finish import ClaimRequest, CompleteLease
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    add,
    dead_job,
    listening,
    prefetch,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestEvents:
    """One event for each thing that happened."""

    async def test_a_jobs_life(self, storage: Storage) -> None:
        """Q10: enqueue, claim and completion are told once each, with what belongs to them."""
        async with listening(storage) as listener:
            job_id = await add(storage, "resize", queue="images", workflow_id="wf")
            lease = await take_lease(storage, queues=["images"])
            await storage.jobs.complete(lease.id, {"size": 3})
            ready, started, completed = await listener.heard()
        for event in (ready, started, completed):
            assert isinstance(event, JobEvent)
            assert (event.job_id, event.kind, event.queue, event.workflow_id) == (job_id, "resize", "images", "wf")
            assert event.at == pytest.approx(lease.granted_at, abs=5)
        assert isinstance(ready, Ready)
        assert isinstance(started, Started)
        assert (started.worker_id, started.lease_id, started.attempt) == ("worker-1", lease.id, 1)
        assert isinstance(completed, Completed)
        assert completed.outputs == {"size": 3}

    async def test_failures(self, storage: Storage) -> None:
        """Q10: a failure tells whether the job was really put back."""
        async with listening(storage) as listener:
            await add(storage, max_attempts=2, retry=NO_WAIT)
            await storage.jobs.fail((await take_lease(storage)).id, "one")
            await storage.jobs.fail((await take_lease(storage)).id, "two")
            await dead_job(storage, "three", max_attempts=9)
            failures = [event for event in await listener.heard() if isinstance(event, Failed)]
        assert [(failed.error.message, failed.attempt, failed.retryable) for failed in failures] == [
            ("one", 1, True),
            ("two", 2, False),
            ("three", 1, False),
        ]
        assert failures[0].run_at is not None
        assert failures[1].run_at is None

    async def test_finishing_comes_before_claiming(self, storage: Storage) -> None:
        """Q10: what one transaction did is told in the order in which it did it."""
        async with listening(storage) as listener:
            await add(storage)
            await add(storage)
            lease = await take_lease(storage)
            await storage.jobs.finish_and_claim([CompleteLease(lease.id)], ClaimRequest(worker_id="worker-1"))
            assert await listener.words() == ["Ready", "Ready", "Started", "Completed", "Started"]

    async def test_a_retry_is_not_ready_again(self, storage: Storage) -> None:
        """Q10: a job that is tried again is told as failed, not as ready once more."""
        async with listening(storage) as listener:
            await add(storage, retry=NO_WAIT)
            await storage.jobs.fail((await take_lease(storage)).id, "boom")
            assert await listener.words() == ["Ready", "Started", "Failed"]

    async def test_a_dead_job_that_is_put_back(self, storage: Storage) -> None:
        """Q10: a job that an operator puts back is ready again."""
        async with listening(storage) as listener:
            job_id = await dead_job(storage)
            await listener.heard()
            await storage.jobs.retry(job_id)
            (ready,) = await listener.heard()
        assert isinstance(ready, Ready)
        assert ready.job_id == job_id

    async def test_a_job_that_comes_too_late(self, storage: Storage) -> None:
        """Q10, Q7: what is added to a cancelled workflow is told as cancelled and never as ready."""
        await storage.jobs.cancel_workflow("flow")
        async with listening(storage) as listener:
            job_id = await add(storage, workflow_id="flow")
            (cancelled,) = await listener.heard()
        assert isinstance(cancelled, Cancelled)
        assert (cancelled.job_id, cancelled.workflow_id) == (job_id, "flow")

    async def test_giving_back(self, storage: Storage) -> None:
        """Q10: release and snooze are told as `Snoozed`, with the time."""
        async with listening(storage) as listener:
            await add(storage)
            await storage.jobs.release((await take_lease(storage)).id)
            await storage.jobs.snooze((await take_lease(storage)).id, delay=60)
            snoozes = [event for event in await listener.heard() if isinstance(event, Snoozed)]
        assert len(snoozes) == 2
        assert snoozes[1].run_at == pytest.approx(await storage.now() + 60, abs=5)

    async def test_cancelling(self, storage: Storage) -> None:
        """Q10: a waiting job's cancel is told at once, a running one's when it has stopped."""
        async with listening(storage) as listener:
            waiting, running = await add(storage, delay=60), await add(storage)
            lease = await take_lease(storage)
            await listener.heard()
            await storage.jobs.cancel(waiting)
            (cancelled,) = await listener.heard()
            assert isinstance(cancelled, Cancelled)
            assert (cancelled.job_id, bool(cancelled.reason)) == (waiting, True)
            await storage.jobs.cancel(running)
            assert await listener.heard() == []
            await storage.jobs.fail(lease.id, "interrupted")
            (cancelled,) = await listener.heard()
            assert isinstance(cancelled, Cancelled)
            assert cancelled.job_id == running

    async def test_success_beats_cancel_in_events(self, storage: Storage) -> None:
        """Q10: a cancelled run that succeeds is told as completed and never as cancelled."""
        async with listening(storage) as listener:
            job_id = await add(storage)
            lease = await take_lease(storage)
            await storage.jobs.cancel(job_id)
            await storage.jobs.complete(lease.id)
            assert await listener.words() == ["Ready", "Started", "Completed"]

    async def test_a_crash(self, storage: Storage) -> None:
        """Q10: a lease that ran out is told, and then what became of the job; the reap returns the same."""
        async with listening(storage) as listener:
            await add(storage, max_attempts=2, retry=NO_WAIT)
            await take(storage, lease_ttl=5)
            await advance(storage, 6)
            first = await storage.jobs.reap_expired_leases()
            await take(storage, lease_ttl=5)
            await advance(storage, 6)
            second = await storage.jobs.reap_expired_leases()
            heard = await listener.heard()
        expired, failed = first
        assert isinstance(expired, LeaseExpired)
        assert isinstance(failed, Failed)
        assert (failed.retryable, failed.attempt) == (True, 1)
        _, dead = second
        assert isinstance(dead, Failed)
        assert (dead.retryable, dead.attempt, "lease" in str(dead.error)) == (False, 2, True)
        told = [event for event in heard if isinstance(event, (LeaseExpired, Failed))]
        assert told == [*first, *second]

    async def test_a_crash_before_the_run(self, storage: Storage) -> None:
        """Q10: a job whose run never began is ready again."""
        await add(storage)
        await prefetch(storage, lease_ttl=5)
        await advance(storage, 6)
        events = await storage.jobs.reap_expired_leases()
        assert [type(event) for event in events] == [LeaseExpired, Ready]

    async def test_a_poisonous_job_is_told(self, storage: Storage) -> None:
        """Q10: a job that dies of too many deliveries is told as failed for good."""
        async with listening(storage) as listener:
            job_id = await add(storage, max_attempts=1)
            for _ in range(4):
                await prefetch(storage, lease_ttl=5)
                await advance(storage, 6)
                await storage.jobs.reap_expired_leases()
            await listener.heard()
            assert await storage.jobs.claim("worker-1") is None
            await storage.jobs.reap_expired_leases()
            failures = [event for event in await listener.heard() if isinstance(event, Failed)]
        assert [(failed.job_id, failed.retryable) for failed in failures] == [(job_id, False)]

    async def test_dependencies(self, storage: Storage) -> None:
        """Q10: a blocked job is ready when its parent has completed, or cancelled when it failed."""
        async with listening(storage) as listener:
            parent = await add(storage, "parent")
            child = await add(storage, "child", depends_on=[parent])
            lease = await take_lease(storage)
            assert await listener.words() == ["Ready", "Started"]
            await storage.jobs.complete(lease.id)
            completed, ready = await listener.heard()
            assert isinstance(completed, Completed)
            assert isinstance(ready, Ready)
            assert ready.job_id == child
            last = await add(storage, "last", depends_on=[child])
            await storage.jobs.cancel(child)
            cancelled = await listener.heard()
        assert [event.job_id for event in cancelled if isinstance(event, Cancelled)] == [child, last]

    async def test_an_expired_job_is_told(self, storage: Storage) -> None:
        """Q18: a job that is cancelled because its time has passed is told with the reason ``expired``."""
        async with listening(storage) as listener:
            await add(storage, expires_at=await storage.now() + 5)
            await advance(storage, 6)
            await storage.jobs.reap_expired_leases()
            ready, cancelled = await listener.heard()
        assert isinstance(ready, Ready)
        assert isinstance(cancelled, Cancelled)
        assert cancelled.reason == "expired"

    async def test_nothing_happened(self, storage: Storage) -> None:
        """Q10: a refused, lost, deduplicated or empty operation is not told."""
        await add(storage, unique_key="k", delay=999)
        lost = await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.complete(lease.id)
        async with listening(storage) as listener:
            await storage.jobs.enqueue(EnqueueRequest("work", unique_key="k"))
            with pytest.raises(InvalidRequest):
                await storage.jobs.enqueue_bulk([EnqueueRequest("work"), EnqueueRequest("work", depends_on=["nobody"])])
            with pytest.raises(LeaseLost):
                await storage.jobs.complete(lease.id)
            with pytest.raises(JobNotFound):
                await storage.jobs.cancel("nobody")
            assert await storage.jobs.cancel(lost) is False
            assert await storage.jobs.claim("worker-1") is None
            await storage.jobs.reap_expired_leases()
            assert await listener.heard() == []

    async def test_started_and_ended_balance(self, storage: Storage) -> None:
        """Q10: every run that was told as started is told to have ended."""
        async with listening(storage) as listener:
            await storage.jobs.enqueue_bulk(EnqueueRequest("work", n, retry=NO_WAIT) for n in range(20))
            while claimed := await storage.jobs.claim_many("worker-1", limit=7):
                for job, lease in claimed:
                    if job.attempt < 3 and job.payload % 3 == 0:
                        await storage.jobs.fail(lease.id, "boom")
                    elif job.deliveries < 3 and job.payload % 3 == 1:
                        await storage.jobs.fail(lease.id, "boom", retryable=False)
                    else:
                        await storage.jobs.complete(lease.id)
            heard = await listener.heard()
        started = sum(isinstance(event, Started) for event in heard)
        ended = sum(isinstance(event, (Completed, Failed)) for event in heard)
        assert started == ended > 20
