"""Moving to another store, and from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from workerctx.errors import InvalidRequest, MoveRefused
from workerctx.queue.cargo import BATCH_BYTES, Arrived, Batch, moving_of
from workerctx.queue.finish import FailLease
from workerctx.queue.model import JobError, JobState, QueuedJob
from workerctx.queue.moving import give_back, move
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.retry import Linear
from workerctx.queue.schedule import Schedule
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    PATIENCE,
    Listener,
    StorageFactory,
    add,
    dead_job,
    state_of,
    succeeded_job,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from workerctx.queue.base import Storage

ELSEWHERE = "another-store"
"""Where batches go that nobody delivers."""


@attrs.frozen
class Pair:
    """Two places of the store, as different as two stores."""

    source: Storage
    target: Storage

    async def carry(self, **options: Any) -> tuple[Batch, Arrived]:
        """Carry one batch, which must be there."""
        batch = await take_out(self.source, await moving_of(self.target).identity(), **options)
        assert batch is not None, "there is nothing to take out"
        arrived = await moving_of(self.target).put_in(batch)
        await moving_of(self.source).clear_out(batch.id)
        return batch, arrived


@pytest.fixture
async def pair(storage_factory: StorageFactory) -> AsyncGenerator[Pair]:
    """Open two namespaces."""
    async with storage_factory("source") as source, storage_factory("target") as target:
        yield Pair(source, target)


async def take_out(storage: Storage, target: str = ELSEWHERE, **options: Any) -> Batch | None:
    """Take a batch out."""
    return await moving_of(storage).take_out(target, **options)


def kept(job: QueuedJob) -> dict[str, Any]:
    """Return what must be the same on both sides."""
    fields = {name: getattr(job, name) for name in QueuedJob.__struct_fields__}
    for name in ("worker_id", "run_at", "created_at", "claimed_at", "finished_at", "expires_at"):
        fields[name] = pytest.approx(fields[name], abs=1e-5) if name != "worker_id" else None
    return fields


async def live(storage: Storage) -> int:
    """Return how many jobs are there that have not ended."""
    return sum(count for state, count in (await storage.jobs.counts()).items() if not state.is_final)


@pytest.mark.anyio
class TestMoving:
    """Moving to another store, and from one."""

    async def test_a_job_stays_what_it_is(self, pair: Pair) -> None:
        """Q2: a job arrives with everything that was known of it, and can be claimed there and not here."""
        source, target = pair.source, pair.target
        job_id = await add(
            source,
            "resize",
            {"path": "Käse.jpg", "n": [1, None]},
            queue="images",
            priority=7,
            max_attempts=4,
            retry=Linear(base=0.0, cap=0.0, jitter=False),
            timeout=12.5,
            expires_at=await source.now() + 9000,
            unique_key="cheese",
            workflow_id="party",
            required_labels=["gpu", "big"],
            tenant_id="acme",
            headers={"trace": "1-2"},
        )
        job, lease = await take(source, queues=["images"], labels=["gpu", "big"])
        await source.jobs.progress(lease.id, {"done": 3})
        await source.jobs.fail(lease.id, JobError("Oops", "it broke", details={"why": 1}))
        before = await source.jobs.get(job_id)
        batch, arrived = await pair.carry()
        assert (arrived.jobs, dict(arrived.cancelled), arrived.again) == (1, {}, False)
        assert [job.id for job in batch.jobs] == [job_id]
        after = await target.jobs.get(job_id)
        assert {**kept(before), "worker_id": after.worker_id} == {**kept(after), "worker_id": after.worker_id}
        assert [failed.attempt for failed in after.error_history] == [1]
        assert await source.jobs.claim("w", queues=["images"], labels=["gpu", "big"]) is None
        again, _ = await take(target, queues=["images"], labels=["gpu", "big"])
        assert (again.id, again.attempt, again.deliveries) == (job_id, 2, job.deliveries + 1)

    async def test_every_state(self, pair: Pair) -> None:
        """Q2: waiting and dead jobs move; succeeded and cancelled ones on request; a dead one can be retried there."""
        source, target = pair.source, pair.target
        dead = await dead_job(source)
        done = await succeeded_job(source, {"answer": 42})
        gone = await add(source)
        await source.jobs.cancel(gone)
        queued = await add(source)
        later = await add(source, delay=500)
        batch, _ = await pair.carry()
        assert {job.id for job in batch.jobs} == {dead, queued, later}
        assert await take_out(source) is None
        batch, _ = await pair.carry(history=True)
        assert {job.id for job in batch.jobs} == {done, gone}
        states = [await state_of(target, each) for each in (dead, done, gone, queued, later)]
        assert [str(state) for state in states] == ["dead", "succeeded", "cancelled", "queued", "scheduled"]
        assert await target.jobs.result(done) == {"answer": 42}
        assert (await target.jobs.get(gone)).error is not None
        await target.jobs.retry(dead)
        assert await state_of(target, dead) is JobState.QUEUED
        await advance(target, 501)
        assert await state_of(target, later) is JobState.QUEUED
        counts = await source.jobs.counts()
        assert not any(counts.values())

    async def test_batches_are_bounded(self, pair: Pair) -> None:
        """Q2: a batch has about as many jobs as wanted, and one after the other takes all."""
        await pair.source.jobs.enqueue_bulk([EnqueueRequest("work", number) for number in range(25)])
        sizes: list[int] = []
        while await live(pair.source):
            sizes.append((await pair.carry(limit=10))[1].jobs)
        assert sizes == [10, 10, 5]
        assert await live(pair.target) == sum(sizes)

    async def test_large_jobs(self, pair: Pair) -> None:
        """Q13: a batch of large jobs has fewer of them, so that it fits into one message."""
        text = "x" * 1_000_000
        requests = [EnqueueRequest("work", text) for _ in range(2 * BATCH_BYTES // len(text))]
        await pair.source.jobs.enqueue_bulk(requests)
        batch, _ = await pair.carry()
        assert sum(len(job.payload_json) for job in batch.jobs) < BATCH_BYTES + 2 * len(text)
        assert await live(pair.target) == len(batch.jobs)

    async def test_running_jobs_stay(self, pair: Pair) -> None:
        """Q1: a running job is not taken out; its worker finishes it, or gives it back and then it moves."""
        source = pair.source
        first, second = await add(source), await add(source)
        one, other = await take_lease(source), await take_lease(source)
        assert await take_out(source) is None
        await source.jobs.complete(one.id, 1)
        await source.jobs.release(other.id)
        batch, _ = await pair.carry()
        assert [job.id for job in batch.jobs] == [second]
        assert await source.jobs.result(first) == 1

    async def test_twice_is_once(self, pair: Pair) -> None:
        """Q2: a batch stays in the outbox until it is cleared, and one that comes twice changes nothing."""
        source, target = pair.source, pair.target
        job_id = await add(source)
        here = await moving_of(target).identity()
        batch = await take_out(source, here)
        assert batch is not None
        await add(source)
        again = await take_out(source, here)
        assert again is not None
        assert (again.id, [job.id for job in again.jobs]) == (batch.id, [job_id])
        assert (await moving_of(target).put_in(batch)).jobs == 1
        lease = await take_lease(target)
        await target.jobs.complete(lease.id)
        repeated = await moving_of(target).put_in(again)
        assert (repeated.again, repeated.jobs) == (True, 0)
        assert await live(target) == 0
        await moving_of(source).clear_out(batch.id)
        await moving_of(source).clear_out(batch.id)
        following = await take_out(source, here)
        assert following is not None
        assert following.id != batch.id

    async def test_an_outbox_has_one_address(self, pair: Pair) -> None:
        """Q2: what was taken out for one store is not handed to another."""
        await add(pair.source)
        assert await take_out(pair.source, "first") is not None
        with pytest.raises(MoveRefused, match="first"):
            await take_out(pair.source, "second")

    async def test_an_id_that_is_taken(self, pair: Pair) -> None:
        """Q13: a batch of which a job is here already is refused as a whole."""
        source, target = pair.source, pair.target
        await add(target, job_id="mine")
        await add(source, job_id="mine")
        await add(source)
        batch = await take_out(source, "here")
        assert batch is not None
        with pytest.raises(MoveRefused, match="mine"):
            await moving_of(target).put_in(batch)
        assert await live(target) == 1
        await target.jobs.delete("mine")
        assert (await moving_of(target).put_in(batch)).jobs == len(batch.jobs)

    async def test_giving_back(self, pair: Pair) -> None:
        """Q2: what is on its way to a store that is gone can be put back, and moves elsewhere then."""
        source = pair.source
        parent = await add(source, "parent")
        child = await add(source, "child", depends_on=[parent])
        await source.schedules.put(Schedule(name="tick", request=EnqueueRequest("tick"), every=100.0))
        assert await moving_of(source).outbox() is None
        batch = await take_out(source, "gone")
        found = await moving_of(source).outbox()
        assert batch is not None
        assert found is not None
        assert (found.id, found.target, len(found.jobs)) == (batch.id, "gone", 2)
        assert await give_back(source) == len(batch.jobs)
        assert await give_back(source) == 0
        assert [await state_of(source, each) for each in (parent, child)] == [JobState.QUEUED, JobState.BLOCKED]
        assert [schedule.name for schedule in await source.schedules.list()] == ["tick"]
        assert (await move(source, pair.target)).jobs.total() == len(batch.jobs)

    async def test_identity(self, pair: Pair, storage_factory: StorageFactory) -> None:
        """Q19: a namespace has the same name for everyone who opens it, and another one has another."""
        async with storage_factory("source") as source:
            assert await moving_of(source).identity() == await moving_of(pair.source).identity()
        assert await moving_of(pair.target).identity() != await moving_of(pair.source).identity()

    async def test_due_jobs_wake_workers(self, pair: Pair) -> None:
        """Q10: who waits at the target for jobs is woken by those that arrive, and hears of them."""
        await add(pair.source, queue="mail")
        async with pair.target.jobs.wakeups(["mail"]) as wakeups, pair.target.jobs.subscribe() as events:
            listener = Listener(pair.target, events)
            await pair.carry()
            assert await wakeups.wait(5)
            assert await listener.words() == ["Ready"]


@pytest.mark.anyio
class TestMove:
    """The whole of a move."""

    async def test_all_of_it(self, pair: Pair) -> None:
        """Q2: a move carries everything, counts it, and leaves nothing that should go."""
        source, target = pair.source, pair.target
        await dead_job(source)
        await succeeded_job(source)
        await source.jobs.enqueue_bulk([EnqueueRequest("work", number) for number in range(20)])
        await source.schedules.put(Schedule(name="tick", request=EnqueueRequest("tick"), every=100.0))
        await source.jobs.pause_queue("off")
        told: list[int] = []
        report = await move(source, target, limit=8, tell=lambda report: told.append(report.batches))
        assert dict(report.jobs) == {JobState.QUEUED: 20, JobState.DEAD: 1}
        assert (report.schedules, report.is_complete, report.left, told) == (1, True, {}, [1, 2, 3])
        assert report.source_after is not None
        assert report.target_after is not None
        assert report.source_after[JobState.SUCCEEDED] == 1
        assert sum(report.source_after.values()) == 1
        assert report.target_after[JobState.QUEUED] == report.jobs[JobState.QUEUED]
        again = await move(source, target, history=True)
        assert dict(again.jobs) == {JobState.SUCCEEDED: 1}

    async def test_what_is_left(self, pair: Pair) -> None:
        """Q1: a move that need not wait says what is left, and another one goes on when it has ended."""
        await add(pair.source)
        lease = await take_lease(pair.source)
        report = await move(pair.source, pair.target, patience=0)
        assert (report.is_complete, report.left) == (False, {JobState.RUNNING: 1})
        await pair.source.jobs.finish_many([FailLease(lease.id, JobError("Oops", "no"), delay=0)])
        assert (await move(pair.source, pair.target, patience=0)).is_complete

    async def test_leases_of_the_dead(self, pair: Pair) -> None:
        """Q3: a job whose worker is gone moves once its lease has run out, with the attempt counted."""
        job_id = await add(pair.source, retry=NO_WAIT)
        await take_lease(pair.source, lease_ttl=5)
        await advance(pair.source, 6)
        assert (await move(pair.source, pair.target, patience=30)).is_complete
        assert (await pair.target.jobs.get(job_id)).attempt == 1

    async def test_to_itself(self, storage: Storage, storage_factory: StorageFactory) -> None:
        """Q13: a store is not moved to itself."""
        async with storage_factory() as other:
            with pytest.raises(InvalidRequest, match="same"):
                await move(storage, other)

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_a_batch_of_nothing(self, pair: Pair, limit: int) -> None:
        """Q13: a move whose batches hold no job is refused, and nothing is touched."""
        await add(pair.source)
        with anyio.fail_after(PATIENCE), pytest.raises(InvalidRequest, match="limit"):
            await move(pair.source, pair.target, limit=limit)
        assert await live(pair.source) == 1
        assert await moving_of(pair.source).outbox() is None
