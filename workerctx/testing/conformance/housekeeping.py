"""Looking at a store and tidying it up."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from workerctx.errors import (
    InvalidRequest,
    JobNotFound,
    UniqueKeyTaken,
    WrongState,
)
from workerctx.queue.model import FINAL_STATES, JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    add,
    dead_job,
    ids,
    state_of,
    succeeded_job,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


async def one_of_each(storage: Storage) -> dict[JobState, str]:
    """Make a job in every state and return their ids."""
    made = {JobState.SUCCEEDED: await succeeded_job(storage), JobState.DEAD: await dead_job(storage)}
    made[JobState.CANCELLED] = await add(storage)
    await storage.jobs.cancel(made[JobState.CANCELLED])
    made[JobState.RUNNING] = await add(storage)
    await take(storage, lease_ttl=10_000)
    made[JobState.QUEUED] = await add(storage)
    made[JobState.SCHEDULED] = await add(storage, delay=5_000)
    made[JobState.BLOCKED] = await add(storage, depends_on=[made[JobState.RUNNING]])
    return made


@pytest.mark.anyio
class TestListing:
    """Many jobs at a glance."""

    async def test_by_state(self, storage: Storage) -> None:
        """Every state can be listed and counted."""
        made = await one_of_each(storage)
        for state, job_id in made.items():
            page = await storage.jobs.list(state=state)
            assert (ids(page.jobs), page.next_cursor) == ([job_id], None)
            assert page.jobs[0].state is state
        assert await storage.jobs.counts() == dict.fromkeys(JobState, 1)
        assert ids((await storage.jobs.list()).jobs) == sorted(made.values())

    @pytest.mark.parametrize(
        ("options", "wanted"),
        [
            ({"kind": "b"}, {"kind": "b"}),
            ({"queue": "other"}, {"queue": "other"}),
            ({"tenant_id": "acme"}, {"tenant_id": "acme"}),
            ({"workflow_id": "wf"}, {"workflow_id": "wf"}),
            ({"unique_key": "k"}, {"unique_key": "k"}),
            ({"kind": "b", "queue": "other", "tenant_id": "x"}, {"kind": "b", "tenant_id": "x"}),
        ],
        ids=["kind", "queue", "tenant", "workflow", "key", "several"],
    )
    async def test_filters(self, storage: Storage, options: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Each filter narrows the listing, and all given filters must match."""
        await add(storage, "a")
        job_id = await add(storage, **{"kind": "a", **options})
        await storage.jobs.cancel(job_id)
        assert ids((await storage.jobs.list(**wanted)).jobs) == [job_id]
        assert ids((await storage.jobs.list(**wanted, state=JobState.CANCELLED)).jobs) == [job_id]
        assert ids((await storage.jobs.list(**wanted, state=JobState.DEAD)).jobs) == []

    async def test_old_holders_of_a_key_are_listed(self, storage: Storage) -> None:
        """A key lists the jobs that have had it, not only the active one."""
        made = [await succeeded_job(storage, unique_key="k") for _ in range(3)]
        made.append(await add(storage, unique_key="k"))
        assert ids((await storage.jobs.list(unique_key="k")).jobs) == made

    async def test_pages(self, storage: Storage) -> None:
        """Pages together hold every job once, in the order of the ids."""
        outcomes = await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(25))
        found: list[str] = []
        sizes: list[int] = []
        cursor: str | None = None
        while True:
            page = await storage.jobs.list(limit=10, cursor=cursor)
            found += ids(page.jobs)
            sizes.append(len(page.jobs))
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == [outcome.id for outcome in outcomes]
        assert sizes == [10, 10, 5]

    async def test_ids_stand_in_the_order_of_their_characters(self, storage: Storage) -> None:
        """Pages of chosen ids follow their code points, in no language's alphabet, whatever kinds they are of."""
        chosen = ["b", "B-1", "a", "_", "B1", "Z", "é", "aa", "\U0001f600"]
        await storage.jobs.enqueue_bulk(EnqueueRequest(f"kind {n % 3}", job_id=each) for n, each in enumerate(chosen))
        found: list[str] = []
        while len(page := (await storage.jobs.list(limit=2, cursor=found[-1] if found else None)).jobs) == 2:
            found += ids(page)
        assert found + ids(page) == sorted(chosen)

    async def test_a_full_last_page(self, storage: Storage) -> None:
        """A last page that happens to be full says that it is the last."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(10))
        assert (await storage.jobs.list(limit=10)).next_cursor is None
        with pytest.raises(InvalidRequest):
            await storage.jobs.list(limit=0)

    async def test_due_jobs_are_queued(self, storage: Storage) -> None:
        """A delayed job that has become due is listed and counted as queued, whether or not anybody claims."""
        job_id = await add(storage, delay=10)
        await advance(storage, 11)
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1
        assert ids((await storage.jobs.list(state=JobState.QUEUED)).jobs) == [job_id]
        assert ids((await storage.jobs.list(state=JobState.SCHEDULED)).jobs) == []
        assert await state_of(storage, job_id) is JobState.QUEUED

    async def test_counts_by_queue(self, storage: Storage) -> None:
        """Counts can be asked for one queue, and the queues tell theirs."""
        await add(storage, queue="a")
        await add(storage, queue="a", delay=60)
        await dead_job(storage, queue="b")
        counts = await storage.jobs.counts(queue="a")
        assert {state: count for state, count in counts.items() if count} == {
            JobState.QUEUED: 1,
            JobState.SCHEDULED: 1,
        }
        assert set(counts) == set(JobState)
        assert await storage.jobs.counts(queue="nobody") == dict.fromkeys(JobState, 0)
        infos = await storage.jobs.queues()
        assert [(info.name, info.paused, info.counts) for info in infos] == [
            ("a", False, {JobState.QUEUED: 1, JobState.SCHEDULED: 1}),
            ("b", False, {JobState.DEAD: 1}),
        ]

    async def test_an_unknown_job(self, storage: Storage) -> None:
        """A job that does not exist cannot be got."""
        with pytest.raises(JobNotFound, match="nobody"):
            await storage.jobs.get("nobody")


@pytest.mark.anyio
class TestRetryByHand:
    """A second chance."""

    @pytest.mark.parametrize("end", ["dead", "cancelled"])
    async def test_putting_back(self, storage: Storage, end: str) -> None:
        """A dead or cancelled job is put back, due now, with all its attempts."""
        job_id = await add(storage, max_attempts=1, unique_key="k")
        if end == "dead":
            await storage.jobs.fail((await take_lease(storage)).id, "boom")
        else:
            await storage.jobs.cancel(job_id)
        await storage.jobs.retry(job_id)
        job = await storage.jobs.get(job_id)
        assert (job.state, job.attempt, job.finished_at) == (JobState.QUEUED, 0, None)
        assert (await storage.jobs.enqueue(EnqueueRequest("work", unique_key="k"))).id == job_id
        job, lease = await take(storage)
        assert (job.id, job.attempt) == (job_id, 1)
        await storage.jobs.complete(lease.id, "at last")
        assert await storage.jobs.result(job_id) == "at last"

    async def test_again_and_again(self, storage: Storage) -> None:
        """Deliveries of earlier lives do not count against a job that is put back."""
        job_id = await dead_job(storage, max_attempts=1)
        for _ in range(8):
            await storage.jobs.retry(job_id)
            await storage.jobs.fail((await take_lease(storage)).id, "boom")
        assert await state_of(storage, job_id) is JobState.DEAD

    async def test_only_what_failed(self, storage: Storage) -> None:
        """No other job can be put back, and nothing is changed by trying."""
        made = await one_of_each(storage)
        for state in set(JobState) - {JobState.DEAD, JobState.CANCELLED}:
            with pytest.raises(WrongState) as caught:
                await storage.jobs.retry(made[state])
            assert caught.value.state == state
            assert await state_of(storage, made[state]) is state
        with pytest.raises(JobNotFound):
            await storage.jobs.retry("nobody")

    async def test_a_taken_key(self, storage: Storage) -> None:
        """Q8: a job whose key another active job has meanwhile stays where it is."""
        job_id = await dead_job(storage, unique_key="k")
        holder = await add(storage, unique_key="k")
        with pytest.raises(UniqueKeyTaken) as caught:
            await storage.jobs.retry(job_id)
        assert caught.value.holder == holder
        assert await state_of(storage, job_id) is JobState.DEAD


@pytest.mark.anyio
class TestDelete:
    """Jobs that are no longer wanted."""

    async def test_everything_but_running(self, storage: Storage) -> None:
        """A job can be deleted unless it is running."""
        made = await one_of_each(storage)
        running = made.pop(JobState.RUNNING)
        for job_id in made.values():
            await storage.jobs.delete(job_id)
            with pytest.raises(JobNotFound):
                await storage.jobs.get(job_id)
        with pytest.raises(WrongState):
            await storage.jobs.delete(running)
        with pytest.raises(JobNotFound):
            await storage.jobs.delete(made[JobState.DEAD])
        counts = await storage.jobs.counts()
        assert {state: count for state, count in counts.items() if count} == {JobState.RUNNING: 1}
        assert await storage.jobs.claim("worker-1") is None
        await advance(storage, 6_000)
        assert await storage.jobs.claim("worker-1") is None


@pytest.mark.anyio
class TestPrune:
    """Retention."""

    async def test_only_old_finished_jobs(self, storage: Storage) -> None:
        """Q2: prune removes what finished before the retention and nothing else, however old."""
        old = await one_of_each(storage)
        await advance(storage, 100)
        young = await succeeded_job(storage)
        assert await storage.jobs.prune(200) == 0
        assert await storage.jobs.prune(timedelta.max) == 0
        assert await storage.jobs.prune(timedelta(seconds=50)) == 3
        kept = {old[state] for state in set(JobState) - FINAL_STATES} | {young}
        assert set(ids((await storage.jobs.list()).jobs)) - {old[JobState.QUEUED]} == kept - {old[JobState.QUEUED]}
        assert await storage.jobs.prune(50) == 0

    async def test_chosen_states(self, storage: Storage) -> None:
        """Each final state can have its own retention."""
        made = await one_of_each(storage)
        await advance(storage, 100)
        assert await storage.jobs.prune(50, states=[JobState.SUCCEEDED, JobState.CANCELLED]) == 2
        assert await state_of(storage, made[JobState.DEAD]) is JobState.DEAD

    async def test_no_retention(self, storage: Storage) -> None:
        """A retention of 0 removes everything that has finished."""
        await succeeded_job(storage)
        await advance(storage, 1)
        assert await storage.jobs.prune(0) == 1

    async def test_many(self, storage: Storage) -> None:
        """Prune goes on until all that is old is gone."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", workflow_id="wf") for _ in range(3500))
        await storage.jobs.cancel_workflow("wf")
        kept = await add(storage)
        await advance(storage, 10)
        assert await storage.jobs.prune(5) == 3500
        assert ids((await storage.jobs.list()).jobs) == [kept]

    async def test_a_job_that_was_put_back(self, storage: Storage) -> None:
        """A job that was dead long ago and was put back is not pruned."""
        job_id = await dead_job(storage)
        await advance(storage, 100)
        await storage.jobs.retry(job_id)
        assert await storage.jobs.prune(50) == 0
        assert await state_of(storage, job_id) is JobState.QUEUED

    async def test_what_cannot_be_meant(self, storage: Storage) -> None:
        """Q13: a negative retention, or pruning jobs that are alive, is refused."""
        await add(storage)
        with pytest.raises(InvalidRequest):
            await storage.jobs.prune(-1)
        with pytest.raises(InvalidRequest):
            await storage.jobs.prune(0, states=[JobState.QUEUED])
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1
