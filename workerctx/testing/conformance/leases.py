"""Leases: what they protect, how they are kept, and how they end."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx.errors import InvalidRequest, LeaseExpired, LeaseLost
from workerctx.queue.events import LeaseExpired as LeaseExpiredEvent
from workerctx.queue.finish import (
    CompleteLease,
    FailLease,
    Finish,
    ReleaseLease,
    SnoozeLease,
    ThrottleLease,
)
from workerctx.queue.model import CancelReason, JobError, JobState, Lease, Renewed
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.retry import Constant
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import NO_WAIT, add, refused, state_of, take, take_lease

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


def all_finishes(lease_id: str) -> list[Finish]:
    """Return every way to end a lease."""
    return [
        CompleteLease(lease_id),
        FailLease(lease_id, JobError("Error", "late")),
        ReleaseLease(lease_id),
        SnoozeLease(lease_id, 1.0),
        ThrottleLease(lease_id, 1.0),
    ]


@pytest.mark.anyio
class TestFencing:
    """A finish counts only while its lease holds the job."""

    async def test_every_finish_is_guarded(self, storage: Storage) -> None:
        """Q1: a late finisher gets `LeaseLost` for whatever it says and changes nothing."""
        job_id = await add(storage, retry=NO_WAIT)
        old = await take_lease(storage, worker_id="worker-1", lease_ttl=5)
        await advance(storage, 6)
        await storage.jobs.reap_expired_leases()
        _, new = await take(storage, "worker-2")
        before = await storage.jobs.get(job_id)
        for finish in all_finishes(old.id):
            assert refused(await storage.jobs.finish_many([finish])) == [LeaseLost]
        for call in (
            storage.jobs.complete(old.id, "late"),
            storage.jobs.fail(old.id, "late", retryable=False),
            storage.jobs.release(old.id),
            storage.jobs.snooze(old.id, delay=99),
            storage.jobs.renew_lease(old.id),
            storage.jobs.progress(old.id, 99),
        ):
            with pytest.raises(LeaseLost):
                await call
        assert await storage.jobs.get(job_id) == before
        await storage.jobs.complete(new.id, "in time")
        assert (await storage.jobs.get(job_id)).result == "in time"

    async def test_a_finish_counts_once(self, storage: Storage) -> None:
        """Q1: a lease that was finished is lost."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.complete(lease.id, "first")
        for finish in all_finishes(lease.id):
            assert refused(await storage.jobs.finish_many([finish])) == [LeaseLost]
        job = await storage.jobs.get(job_id)
        assert (job.state, job.result) == (JobState.SUCCEEDED, "first")

    async def test_an_unknown_lease(self, storage: Storage) -> None:
        """Q1: a lease that was never granted is lost."""
        await add(storage)
        for unknown in ("", "nonsense", "0.1", "00000000-0000-7000-8000-000000000000.1"):
            with pytest.raises(LeaseLost):
                await storage.jobs.complete(unknown)
            with pytest.raises(LeaseLost):
                await storage.jobs.renew_lease(unknown)

    async def test_each_finish_of_a_batch_stands_alone(self, storage: Storage) -> None:
        """Q1: lost leases in a batch are reported at their place, and the others are finished."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", n, retry=NO_WAIT) for n in range(6))
        claimed = await storage.jobs.claim_many("worker-1", limit=6)
        leases = [lease.id for _, lease in claimed]
        await storage.jobs.complete(leases[1])
        outcomes = await storage.jobs.finish_many(
            [
                CompleteLease.of(leases[0], {"n": 0}),
                CompleteLease(leases[1]),
                FailLease(leases[2], JobError("Error", "boom"), retryable=False),
                ReleaseLease("nonsense"),
                ReleaseLease(leases[3]),
                SnoozeLease(leases[4], -1.0),
                SnoozeLease(leases[5], 60.0),
            ]
        )
        assert refused(outcomes) == [None, LeaseLost, None, LeaseLost, None, InvalidRequest, None]
        states = [await state_of(storage, job.id) for job, _ in claimed]
        assert states == [
            JobState.SUCCEEDED,
            JobState.SUCCEEDED,
            JobState.DEAD,
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.SCHEDULED,
        ]

    async def test_racing_finishers(self, storage: Storage) -> None:
        """Q1: of many who finish the same lease at the same time exactly one succeeds."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        won: list[int] = []

        async def finish(n: int) -> None:
            try:
                await storage.jobs.complete(lease.id, n)
            except LeaseLost:
                return
            won.append(n)

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(finish, n)
        assert len(won) == 1
        assert (await storage.jobs.get(job_id)).result == won[0]


@pytest.mark.anyio
class TestRenewal:
    """Keeping a job."""

    async def test_renewing_counts_from_now(self, storage: Storage) -> None:
        """Q11: a renewal sets the time from now on; it adds nothing to what was left."""
        await add(storage)
        lease = await take_lease(storage, lease_ttl=100)
        renewed = await storage.jobs.renew_lease(lease.id, extend_by=10)
        assert (renewed.id, renewed.job_id, renewed.worker_id) == (lease.id, lease.job_id, lease.worker_id)
        assert renewed.expires_at == pytest.approx(await storage.now() + 10, abs=5)
        await advance(storage, 16)
        assert len(await storage.jobs.reap_expired_leases()) == 2

    async def test_a_renewed_lease_lives(self, storage: Storage) -> None:
        """Q11: a lease that is renewed in time is not reaped."""
        await add(storage)
        lease = await take_lease(storage, lease_ttl=30)
        for _ in range(4):
            await advance(storage, 20)
            assert list(await storage.jobs.reap_expired_leases()) == []
            await storage.jobs.renew_lease(lease.id, extend_by=30)
        await storage.jobs.complete(lease.id)

    async def test_renewing_what_expired(self, storage: Storage) -> None:
        """Q11: renewing an expired lease is an error even though nobody has reaped it."""
        job_id = await add(storage, retry=Constant(base=100, jitter=False))
        lease = await take_lease(storage, lease_ttl=5)
        await advance(storage, 6)
        with pytest.raises(LeaseExpired):
            await storage.jobs.renew_lease(lease.id, extend_by=60)
        assert await storage.jobs.renew_leases([lease.id], extend_by=60) == Renewed(lost=(lease.id,))
        await storage.jobs.reap_expired_leases()
        with pytest.raises(LeaseLost):
            await storage.jobs.renew_lease(lease.id)
        assert await state_of(storage, job_id) is JobState.SCHEDULED

    async def test_many_at_once(self, storage: Storage) -> None:
        """Q11: one call renews what is held and names what is lost, in the order asked."""
        for _ in range(3):
            await add(storage)
        one, two, three = [lease.id for _, lease in await storage.jobs.claim_many("worker-1", lease_ttl=10)]
        await storage.jobs.complete(two)
        renewed = await storage.jobs.renew_leases(["nonsense", one, two, three], extend_by=60)
        assert renewed == Renewed(lost=("nonsense", two))
        await advance(storage, 30)
        assert list(await storage.jobs.reap_expired_leases()) == []
        assert await storage.jobs.renew_leases([], extend_by=60) == Renewed()

    @pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
    async def test_a_renewal_needs_time(self, storage: Storage, seconds: float) -> None:
        """Q13: a lease cannot be renewed for no time, or for ever."""
        await add(storage)
        lease = await take_lease(storage)
        with pytest.raises(InvalidRequest):
            await storage.jobs.renew_lease(lease.id, extend_by=seconds)
        with pytest.raises(InvalidRequest):
            await storage.jobs.renew_leases([lease.id], extend_by=seconds)
        await storage.jobs.complete(lease.id)

    async def test_the_renewer_works_in_a_thread(self, storage: Storage) -> None:
        """Q11: a renewer keeps leases from a thread without an event loop, and brings cancel requests along."""
        kept, cancelled = await add(storage), await add(storage)
        first = await take_lease(storage, lease_ttl=10)
        second = await take_lease(storage, lease_ttl=10)
        await storage.jobs.cancel(cancelled)
        found: list[Renewed] = []

        def renew() -> None:
            with storage.open_renewer() as renewer:
                found.extend(renewer.renew([first.id, second.id, "nonsense"], 60.0) for _ in range(2))

        thread = threading.Thread(target=renew)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        assert found == [Renewed(lost=("nonsense",), cancelled={second.id: CancelReason.USER})] * 2
        await advance(storage, 30)
        await storage.jobs.reap_expired_leases()
        assert await state_of(storage, kept) is JobState.RUNNING


@pytest.mark.anyio
class TestExpiry:
    """Workers that vanish."""

    async def test_only_expired_leases_are_reaped(self, storage: Storage) -> None:
        """Q11: a reap touches the leases that ran out and no other."""
        short, long = await add(storage), await add(storage)
        await take_lease(storage, lease_ttl=5)
        await take_lease(storage, lease_ttl=50)
        assert list(await storage.jobs.reap_expired_leases()) == []
        await advance(storage, 6)
        events = await storage.jobs.reap_expired_leases()
        assert {event.job_id for event in events} == {short}
        assert await state_of(storage, long) is JobState.RUNNING
        assert list(await storage.jobs.reap_expired_leases()) == []

    async def test_a_late_result_is_not_wasted(self, storage: Storage) -> None:
        """Q11: complete and fail on a lease that expired but was not reaped count."""
        done, failed = await add(storage), await add(storage)
        first, second = await take_lease(storage, lease_ttl=5), await take_lease(storage, lease_ttl=5)
        await advance(storage, 60)
        await storage.jobs.complete(first.id, "late")
        await storage.jobs.fail(second.id, "late", retryable=False)
        assert (await storage.jobs.get(done)).result == "late"
        assert await state_of(storage, failed) is JobState.DEAD
        assert list(await storage.jobs.reap_expired_leases()) == []

    async def test_short_leases(self, storage: Storage) -> None:
        """Q11: a lease of a fraction of a second lasts as long as it says."""
        await add(storage)
        lease = await take_lease(storage, lease_ttl=0.25)
        assert lease.ttl == 0.25
        assert lease.expires_at == pytest.approx(lease.granted_at + 0.25, abs=0.001)
        await advance(storage, 0.5)
        assert len(await storage.jobs.reap_expired_leases()) == 2

    async def test_a_short_lease_is_not_rounded_down(self, storage: Storage) -> None:
        """Q11: a lease of under a second does not expire at once."""
        await add(storage)
        await take_lease(storage, lease_ttl=0.9)
        assert list(await storage.jobs.reap_expired_leases()) == []

    async def test_a_reaped_job_waits_for_its_backoff(self, storage: Storage) -> None:
        """Q3: after a crash the job follows its retry policy."""
        job_id = await add(storage, retry=NO_WAIT)
        lease = await take_lease(storage, lease_ttl=5)
        await advance(storage, 6)
        first, second = await storage.jobs.reap_expired_leases()
        assert isinstance(first, LeaseExpiredEvent)
        assert (first.job_id, first.worker_id, first.lease_id) == (job_id, "worker-1", lease.id)
        assert second.job_id == job_id
        job, _ = await take(storage)
        assert (job.id, job.attempt, job.deliveries) == (job_id, 2, 2)

    async def test_many_expire_together(self, storage: Storage) -> None:
        """Q2: every job of a vanished worker comes back."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", n, retry=NO_WAIT) for n in range(50))
        await storage.jobs.claim_many("worker-1", limit=50, lease_ttl=5)
        await advance(storage, 6)
        assert len(await storage.jobs.reap_expired_leases()) == 100
        again = await storage.jobs.claim_many("worker-2", limit=100)
        assert sorted(job.payload for job, _ in again) == list(range(50))

    async def test_racing_reapers(self, storage: Storage) -> None:
        """Q1: of many who reap at the same time one takes each job."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", max_attempts=9) for _ in range(20))
        await storage.jobs.claim_many("worker-1", limit=20, lease_ttl=5)
        await advance(storage, 6)
        counts: list[int] = []

        async def reap() -> None:
            counts.append(len(await storage.jobs.reap_expired_leases()))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(reap)
        assert sum(counts) == 40
        page = await storage.jobs.list()
        assert {job.attempt for job in page.jobs} == {1}

    async def test_a_sibling_is_left_alone(self, storage: Storage) -> None:
        """W10: a worker that starts does not touch the running jobs of another one."""
        job_id = await add(storage)
        lease: Lease = await take_lease(storage, worker_id="worker-1")
        await storage.jobs.reap_expired_leases()
        assert await storage.jobs.claim("worker-2") is None
        assert (await storage.jobs.get(job_id)).lease_id == lease.id


@pytest.mark.anyio
class TestProgress:
    """How far a run is."""

    async def test_progress_is_seen(self, storage: Storage) -> None:
        """Any JSON value can be stored while a job runs, and read by others."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        for value in (0.5, {"done": 3, "of": 10}, "nearly"):
            await storage.jobs.progress(lease.id, value)
            assert (await storage.jobs.get(job_id)).progress == value
        with pytest.raises(InvalidRequest):
            await storage.jobs.progress(lease.id, object())
        await storage.jobs.complete(lease.id)
        with pytest.raises(LeaseLost):
            await storage.jobs.progress(lease.id, 1)
