"""Events: what is told, in which order, and that telling holds up nobody."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx.errors import InvalidRequest, JobNotFound, LeaseLost
from workerctx.queue.events import (
    Cancelled,
    Completed,
    Failed,
    JobEvent,
    Lagged,
    LeaseExpired,
    Ready,
    Snoozed,
    Started,
)
from workerctx.queue.finish import ClaimRequest, CompleteLease
from workerctx.queue.handle import JobHandle
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    PATIENCE,
    Listener,
    StorageFactory,
    add,
    dead_job,
    prefetch,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from workerctx.queue.base import Storage


@asynccontextmanager
async def listening(storage: Storage) -> AsyncGenerator[Listener]:
    """Subscribe for the length of a block."""
    async with storage.jobs.subscribe() as stream:
        yield Listener(storage, stream)


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


@pytest.mark.anyio
class TestSubscribers:
    """Who hears what."""

    async def test_many_subscribers(self, storage: Storage) -> None:
        """Q10: each subscriber hears everything from its own beginning on, in the same order."""
        async with listening(storage) as early:
            first = await add(storage)
            async with listening(storage) as late:
                second = await add(storage)
                heard_late = [event.job_id for event in await late.heard() if isinstance(event, Ready)]
                heard_early = [event.job_id for event in await early.heard() if isinstance(event, Ready)]
        assert heard_late == [second]
        assert heard_early[:2] == [first, second]

    async def test_only_this_storage(self, storage_factory: StorageFactory) -> None:
        """Q10: a subscription yields what is done through its own Storage."""
        async with storage_factory() as here, storage_factory() as there, listening(here) as listener:
            await add(there)
            mine = await add(here)
            (ready,) = await listener.heard()
        assert isinstance(ready, Ready)
        assert ready.job_id == mine

    async def test_a_slow_subscriber(self, storage: Storage) -> None:
        """Q10: who does not read in time loses the oldest, learns how many, and holds up nobody."""
        async with storage.jobs.subscribe(capacity=10) as stream, listening(storage) as quick:
            outcomes = await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(25))
            assert len(await quick.heard()) == 25
            found: list[JobEvent | Lagged] = []
            with anyio.fail_after(PATIENCE):
                async for event in stream:
                    found.append(event)
                    if len(found) == 11:
                        break
        lagged, *kept = found
        # The mark that `quick` read up to is an event as well.
        assert lagged == Lagged(16)
        ids = [event.job_id for event in kept if isinstance(event, JobEvent)]
        assert ids[:-1] == [outcome.id for outcome in outcomes[16:]]

    async def test_a_cancelled_reader_loses_nothing(self, storage: Storage) -> None:
        """Q10: a read that is cancelled while it waits takes no event with it."""
        async with storage.jobs.subscribe() as stream:
            with anyio.move_on_after(0):
                await anext(aiter(stream))
            job_id = await add(storage)
            with anyio.fail_after(PATIENCE):
                event = await anext(aiter(stream))
        assert isinstance(event, Ready)
        assert event.job_id == job_id

    async def test_a_waiting_reader_is_woken(self, storage: Storage) -> None:
        """Q10: a subscriber that waits gets the event as soon as it is published."""
        heard: list[JobEvent | Lagged] = []

        async def read() -> None:
            async with storage.jobs.subscribe() as stream:
                subscribed.set()
                async for event in stream:
                    heard.append(event)
                    break

        subscribed = anyio.Event()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await subscribed.wait()
                await add(storage)
        assert len(heard) == 1

    async def test_a_subscription_needs_room(self, storage: Storage) -> None:
        """Q13: a subscription without any room is refused."""
        with pytest.raises(InvalidRequest):
            async with storage.jobs.subscribe(capacity=0):
                pass

    async def test_events_come_after_the_commit(self, storage: Storage) -> None:
        """Q10: whoever hears of a change finds it in the store."""
        seen: list[JobState] = []

        async def read() -> None:
            async with storage.jobs.subscribe() as stream:
                subscribed.set()
                async for event in stream:
                    assert isinstance(event, JobEvent)
                    seen.append((await storage.jobs.get(event.job_id)).state)
                    if len(seen) == 5:
                        break

        subscribed = anyio.Event()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await subscribed.wait()
                await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(5))
        assert seen == [JobState.QUEUED] * 5

    async def test_one_jobs_events(self, storage: Storage) -> None:
        """Q10: a job's handle yields the events of that job only."""
        job_id = await add(storage, priority=1)
        await add(storage)
        async with JobHandle(storage.jobs, job_id).events() as stream:
            claimed = await storage.jobs.claim_many("worker-1")
            await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in reversed(claimed)])
            with anyio.fail_after(PATIENCE):
                events = [await anext(aiter(stream)) for _ in range(2)]
        assert [type(event) for event in events] == [Started, Completed]
        assert all(isinstance(event, JobEvent) and event.job_id == job_id for event in events)
