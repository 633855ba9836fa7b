"""Jobs that wait for jobs."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workerctx.errors import InvalidRequest
from workerctx.queue.finish import CompleteLease
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.workflow import Workflow
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    add,
    claim_all,
    dead_job,
    kinds,
    state_of,
    succeeded_job,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


async def finish(storage: Storage, job_id: str, outputs: object = None) -> None:
    """Claim everything that is ready, complete one job and give the others back."""
    for job, lease in await storage.jobs.claim_many("worker-1"):
        if job.id == job_id:
            await storage.jobs.complete(lease.id, outputs)
        else:
            await storage.jobs.release(lease.id)
    assert await state_of(storage, job_id) is JobState.SUCCEEDED


@pytest.mark.anyio
class TestDependencies:
    """Parents and children."""

    async def test_a_child_waits(self, storage: Storage) -> None:
        """A job is blocked until its parent has succeeded, and is ready as soon as it has."""
        parent = await add(storage, "parent")
        child = await add(storage, "child", depends_on=[parent])
        assert await state_of(storage, child) is JobState.BLOCKED
        lease = await take_lease(storage)
        assert await storage.jobs.claim("worker-1") is None
        await storage.jobs.complete(lease.id, {"size": 3})
        assert await state_of(storage, child) is JobState.QUEUED
        job, _ = await take(storage)
        assert (job.id, job.depends_on) == (child, (parent,))
        assert job.upstream_outputs == {parent: {"size": 3}}

    async def test_all_parents_count(self, storage: Storage) -> None:
        """A job with several parents waits for the last one and gets the outputs of all of them."""
        parents = [await add(storage, f"p{n}") for n in range(3)]
        child = await add(storage, "child", depends_on=[*parents, parents[0]])
        for n, parent in enumerate(parents):
            assert await state_of(storage, child) is JobState.BLOCKED
            await finish(storage, parent, n)
        job, _ = await take(storage)
        assert job.upstream_outputs == dict(zip(parents, range(3), strict=True))

    async def test_a_parent_that_is_named_twice(self, storage: Storage) -> None:
        """Q9: it is one parent, also when the job that waits for it is put back."""
        parent = await add(storage, "parent")
        child = await add(storage, "child", depends_on=[parent, parent])
        await storage.jobs.cancel(child)
        await storage.jobs.retry(child)
        assert await state_of(storage, child) is JobState.BLOCKED
        await storage.jobs.complete((await take_lease(storage)).id)
        assert await state_of(storage, child) is JobState.QUEUED

    async def test_outputs_of_direct_parents_only(self, storage: Storage) -> None:
        """A job gets what its parents returned, and not what theirs did."""
        a = await add(storage)
        b = await add(storage, depends_on=[a])
        await add(storage, depends_on=[b])
        await finish(storage, a, "a")
        await finish(storage, b, "b")
        assert (await take(storage))[0].upstream_outputs == {b: "b"}

    async def test_a_parent_that_has_succeeded(self, storage: Storage) -> None:
        """A job whose parents have all succeeded already is ready at once."""
        parent = await succeeded_job(storage, [1, 2])
        child = await add(storage, depends_on=[parent])
        assert await state_of(storage, child) is JobState.QUEUED
        assert (await take(storage))[0].upstream_outputs == {parent: [1, 2]}

    async def test_a_retry_of_the_parent_changes_nothing(self, storage: Storage) -> None:
        """A parent that failed and will be tried again keeps its children waiting."""
        parent = await add(storage, retry=NO_WAIT)
        child = await add(storage, depends_on=[parent])
        await storage.jobs.fail((await take_lease(storage)).id, "boom")
        assert await state_of(storage, child) is JobState.BLOCKED
        await finish(storage, parent)
        assert await state_of(storage, child) is JobState.QUEUED

    async def test_a_delayed_child(self, storage: Storage) -> None:
        """A job that is no longer blocked still waits for its own time."""
        parent = await add(storage)
        child = await add(storage, depends_on=[parent], delay=60)
        await finish(storage, parent)
        assert await state_of(storage, child) is JobState.SCHEDULED
        await advance(storage, 61)
        assert (await take(storage))[0].id == child

    async def test_labels_and_options_are_kept(self, storage: Storage) -> None:
        """A job that was blocked keeps its labels, priority and attempts."""
        parent = await add(storage)
        await add(storage, "child", depends_on=[parent], required_labels=["gpu"], priority=3, max_attempts=2)
        await finish(storage, parent)
        assert await storage.jobs.claim("worker-1") is None
        job, _ = await take(storage, labels=["gpu"])
        assert (job.priority, job.max_attempts) == (3, 2)

    async def test_outputs_survive_a_retry(self, storage: Storage) -> None:
        """Each run of a child gets its parents' outputs."""
        parent = await succeeded_job(storage, "out")
        await add(storage, depends_on=[parent], retry=NO_WAIT)
        await storage.jobs.fail((await take_lease(storage)).id, "boom")
        assert (await take(storage))[0].upstream_outputs == {parent: "out"}

    async def test_an_unknown_parent(self, storage: Storage) -> None:
        """Q13: a job cannot wait for one that does not exist, nor for itself."""
        with pytest.raises(InvalidRequest, match="nobody"):
            await add(storage, depends_on=["nobody"])
        with pytest.raises(InvalidRequest, match="me"):
            await add(storage, job_id="me", depends_on=["me"])
        assert sum((await storage.jobs.counts()).values()) == 0

    async def test_a_parent_within_the_batch(self, storage: Storage) -> None:
        """A batch may hold parents and their children, parents first."""
        parent, child = await storage.jobs.enqueue_bulk(
            [EnqueueRequest("a", job_id="a"), EnqueueRequest("b", depends_on=["a"])]
        )
        assert parent.id == "a"
        assert await state_of(storage, child.id) is JobState.BLOCKED

    async def test_a_parent_that_was_there_already(self, storage: Storage) -> None:
        """Q8: a child of a request that met its unique key waits for the job that holds the key."""
        holder = await add(storage, "holder", unique_key="k")
        parent, child = await storage.jobs.enqueue_bulk(
            [EnqueueRequest("a", job_id="a", unique_key="k"), EnqueueRequest("b", depends_on=["a"])]
        )
        assert parent.id == holder
        waiting = await storage.jobs.get(child.id)
        assert (waiting.state, waiting.depends_on) == (JobState.BLOCKED, (holder,))
        await finish(storage, holder, "out")
        assert (await take(storage))[0].upstream_outputs == {holder: "out"}

    async def test_a_parent_named_twice(self, storage: Storage) -> None:
        """Q8: by its id, or as two requests that met one unique key: it is one parent."""
        holder = await add(storage, "holder", unique_key="k")
        outcomes = await storage.jobs.enqueue_bulk(
            [
                EnqueueRequest("a", job_id="a", unique_key="k"),
                EnqueueRequest("a", job_id="b", unique_key="k"),
                EnqueueRequest("child", depends_on=[holder, holder]),
                EnqueueRequest("child", depends_on=["a", "b", holder]),
            ]
        )
        for child in outcomes[2:]:
            assert (await storage.jobs.get(child.id)).depends_on == (holder,)
        await finish(storage, holder)
        assert len(await claim_all(storage)) == 2

    async def test_many_children(self, storage: Storage) -> None:
        """One completion lets all its children go on."""
        parent = await add(storage, "parent")
        await storage.jobs.enqueue_bulk(EnqueueRequest("child", depends_on=[parent]) for _ in range(500))
        assert (await storage.jobs.counts())[JobState.BLOCKED] == 500
        await finish(storage, parent, "out")
        claimed = await claim_all(storage)
        assert len(claimed) == 500
        assert all(job.upstream_outputs == {parent: "out"} for job, _ in claimed)

    async def test_parents_that_finish_in_one_batch(self, storage: Storage) -> None:
        """Parents that are completed together unblock their child once."""
        parents = [await add(storage) for _ in range(3)]
        child = await add(storage, "child", depends_on=parents)
        claimed = await storage.jobs.claim_many("worker-1")
        await storage.jobs.finish_many([CompleteLease.of(lease.id, job.id) for job, lease in claimed])
        (ready,) = await claim_all(storage)
        assert ready[0].id == child
        assert ready[0].upstream_outputs == {parent: parent for parent in parents}


@pytest.mark.anyio
class TestParentFailure:
    """What a parent's end means when it is no success."""

    @pytest.mark.parametrize("end", ["dead", "cancelled", "expired", "deleted", "lease lost"])
    async def test_dependants_are_cancelled(self, storage: Storage, end: str) -> None:
        """A parent's death or cancellation cancels its dependants, transitively, with the reason."""
        parent = await add(
            storage, "parent", max_attempts=1, expires_at=await storage.now() + 100 if end == "expired" else None
        )
        child = await add(storage, "child", depends_on=[parent])
        grandchild = await add(storage, "grandchild", depends_on=[child])
        bystander = await add(storage, "bystander", queue="other")
        match end:
            case "dead":
                await storage.jobs.fail((await take_lease(storage)).id, "boom")
            case "cancelled":
                await storage.jobs.cancel(parent)
            case "deleted":
                await storage.jobs.delete(parent)
            case "lease lost":
                await take(storage, lease_ttl=5)
                await advance(storage, 6)
                await storage.jobs.reap_expired_leases()
            case _:
                await advance(storage, 101)
                await storage.jobs.reap_expired_leases()
        for job_id, because in ((child, parent), (grandchild, child)):
            job = await storage.jobs.get(job_id)
            assert job.state is JobState.CANCELLED
            assert job.error is not None
            assert because in job.error.message
        assert await state_of(storage, bystander) is JobState.QUEUED

    @pytest.mark.parametrize("end", ["dead", "cancelled", "deleted"])
    async def test_or_run_all_the_same(self, storage: Storage, end: str) -> None:
        """With on_parent_failure="run" a job runs after its parents have ended, however they ended."""
        parent = await add(storage)
        good = await add(storage, "good")
        child = await add(storage, "child", depends_on=[parent, good], on_parent_failure="run")
        if end == "dead":
            await storage.jobs.fail((await take_lease(storage)).id, "boom", retryable=False)
        elif end == "cancelled":
            await storage.jobs.cancel(parent)
        else:
            await storage.jobs.delete(parent)
        assert await state_of(storage, child) is JobState.BLOCKED
        await finish(storage, good, "out")
        job, _ = await take(storage)
        assert (job.id, job.upstream_outputs) == (child, {good: "out"})

    async def test_a_parent_that_has_failed_before(self, storage: Storage) -> None:
        """A job whose parent is dead already is cancelled as it arrives, or runs if it said so."""
        parent = await dead_job(storage)
        child = await add(storage, depends_on=[parent])
        brave = await add(storage, depends_on=[parent], on_parent_failure="run")
        job = await storage.jobs.get(child)
        assert job.state is JobState.CANCELLED
        assert job.error is not None
        assert parent in job.error.message
        assert (await take(storage))[0].id == brave

    async def test_an_independent_branch_goes_on(self, storage: Storage) -> None:
        """Only what depends on the failure is cancelled."""
        workflow = Workflow()
        workflow.add("root", EnqueueRequest("root"))
        workflow.add("bad", EnqueueRequest("bad"), after=["root"])
        workflow.add("good", EnqueueRequest("good"), after=["root"])
        workflow.add("after bad", EnqueueRequest("after bad"), after=["bad", "good"])
        workflow.add("after good", EnqueueRequest("after good"), after=["good"])
        outcomes = await workflow.enqueue(storage.jobs)
        await finish(storage, outcomes["root"].id)
        for job, lease in await storage.jobs.claim_many("worker-1"):
            if job.kind == "bad":
                await storage.jobs.fail(lease.id, "boom", retryable=False)
            else:
                await storage.jobs.complete(lease.id)
        assert kinds(await claim_all(storage)) == ["after good"]
        assert await state_of(storage, outcomes["after bad"].id) is JobState.CANCELLED

    async def test_a_running_parents_cancel_comes_later(self, storage: Storage) -> None:
        """A parent that was told to stop but succeeded all the same lets its children go on."""
        parent = await add(storage)
        child = await add(storage, depends_on=[parent])
        lease = await take_lease(storage)
        await storage.jobs.cancel(parent)
        assert await state_of(storage, child) is JobState.BLOCKED
        await storage.jobs.complete(lease.id)
        assert await state_of(storage, child) is JobState.QUEUED

    async def test_a_cancelled_child_stays(self, storage: Storage) -> None:
        """A child that was cancelled or deleted while it waited is not woken by its parent's success."""
        parent = await add(storage)
        cancelled = await add(storage, depends_on=[parent])
        deleted = await add(storage, depends_on=[parent])
        await storage.jobs.cancel(cancelled)
        await storage.jobs.delete(deleted)
        await finish(storage, parent)
        assert await state_of(storage, cancelled) is JobState.CANCELLED
        assert await storage.jobs.claim("worker-1") is None

    async def test_a_child_that_is_put_back(self, storage: Storage) -> None:
        """A cancelled child that is put back waits for the parents that have not ended, and for no others."""
        bad, good = await add(storage, "bad"), await add(storage, "good")
        child = await add(storage, "child", depends_on=[bad, good])
        await storage.jobs.cancel(bad)
        assert await state_of(storage, child) is JobState.CANCELLED
        await storage.jobs.retry(child)
        assert await state_of(storage, child) is JobState.BLOCKED
        await finish(storage, good, "out")
        job, _ = await take(storage)
        assert (job.id, job.upstream_outputs) == (child, {good: "out"})

    async def test_a_parent_that_is_put_back(self, storage: Storage) -> None:
        """Putting a parent back leaves the children that fell with it; they are put back one by one."""
        parent = await dead_job(storage)
        child = await add(storage, depends_on=[parent])
        await storage.jobs.retry(parent)
        assert await state_of(storage, child) is JobState.CANCELLED
        await storage.jobs.retry(child)
        assert await state_of(storage, child) is JobState.BLOCKED
        await finish(storage, parent, "out")
        assert (await take(storage))[0].upstream_outputs == {parent: "out"}

    async def test_an_end_counts_once_and_for_all(self, storage: Storage) -> None:
        """A job that runs although a parent failed does not wait for it again when the parent is put back."""
        bad, other = await dead_job(storage), await add(storage, "other")
        child = await add(storage, "child", depends_on=[bad, other], on_parent_failure="run")
        await storage.jobs.retry(bad)
        await finish(storage, other, "out")
        assert await state_of(storage, child) is JobState.QUEUED
        assert await state_of(storage, bad) is JobState.QUEUED
        await finish(storage, bad, "late")
        job, _ = await take(storage)
        assert (job.id, job.upstream_outputs) == (child, {bad: "late", other: "out"})

    async def test_a_pruned_parent(self, storage: Storage) -> None:
        """A parent's output reaches a child even if the parent is pruned while another is awaited."""
        first, second = await add(storage, "first"), await add(storage, "second")
        await add(storage, "child", depends_on=[first, second])
        await finish(storage, first, "out")
        await advance(storage, 100)
        await storage.jobs.prune(50)
        await finish(storage, second, "late")
        job, _ = await take(storage)
        assert job.kind == "child"
        assert job.upstream_outputs.get(second) == "late"
        assert job.upstream_outputs.get(first) == "out"
