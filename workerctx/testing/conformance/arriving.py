"""Jobs that arrive from another store: with those that they depend on, and where others are in their way."""

from __future__ import annotations

import pytest

from workerctx.queue.cargo import moving_of
from workerctx.queue.events import JobEvent
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.conformance.moving import Pair, take_out
from workerctx.testing.conformance.support import Listener, add, dead_job, state_of, take, take_lease


@pytest.mark.anyio
class TestMovingFamilies:
    """Jobs that depend on each other move together."""

    async def test_children_and_parents(self, pair: Pair) -> None:
        """Q2: a job that waits moves with those it waits for, and is let go on there."""
        source, target = pair.source, pair.target
        first = await add(source, "first")
        second = await add(source, "second", depends_on=[first])
        third = await add(source, "third", depends_on=[first, second], on_parent_failure="run")
        batch, _ = await pair.carry(limit=1)
        assert {job.id for job in batch.jobs} == {first, second, third}
        assert await state_of(target, third) is JobState.BLOCKED
        await target.jobs.complete((await take_lease(target)).id, "one")
        job, lease = await take(target)
        assert (job.id, job.upstream_outputs) == (second, {first: "one"})
        await target.jobs.fail(lease.id, "no", retryable=False)
        job, _ = await take(target)
        assert (job.id, job.upstream_outputs) == (third, {first: "one"})

    async def test_outputs_come_along(self, pair: Pair) -> None:
        """Q2: a job that has succeeded moves with the one that needs its outputs."""
        source, target = pair.source, pair.target
        parent = await add(source, "parent")
        child = await add(source, "child", depends_on=[parent])
        await source.jobs.complete((await take_lease(source)).id, {"n": 1})
        await pair.carry()
        assert await state_of(target, parent) is JobState.SUCCEEDED
        job, _ = await take(target)
        assert (job.id, job.upstream_outputs) == (child, {parent: {"n": 1}})

    async def test_a_running_relative_holds_them_up(self, pair: Pair) -> None:
        """Q2: as long as one of them is running all stay; others go meanwhile."""
        source = pair.source
        parent = await add(source, "parent", priority=1)
        child = await add(source, "child", depends_on=[parent])
        lease = await take_lease(source)
        free = await add(source, "free")
        batch, _ = await pair.carry()
        assert [job.id for job in batch.jobs] == [free]
        assert await take_out(source) is None
        await source.jobs.fail(lease.id, "later", delay=100)
        batch, _ = await pair.carry()
        assert {job.id for job in batch.jobs} == {parent, child}
        assert await state_of(pair.target, child) is JobState.BLOCKED
        assert await state_of(pair.target, parent) is JobState.SCHEDULED

    async def test_a_parent_that_cannot_stay_alive(self, pair: Pair) -> None:
        """Q8: the children of a job that arrives cancelled are cancelled, or run, as they were told."""
        source, target = pair.source, pair.target
        holder = await add(target, "holder", unique_key="k")
        parent = await add(source, "parent", unique_key="k")
        child = await add(source, "child", depends_on=[parent])
        tolerant = await add(source, "tolerant", depends_on=[parent], on_parent_failure="run")
        _, arrived = await pair.carry()
        assert set(arrived.cancelled) == {parent}
        assert holder in arrived.cancelled[parent]
        assert await state_of(target, child) is JobState.CANCELLED
        assert await state_of(target, tolerant) is JobState.QUEUED

    async def test_a_later_relative_finds_its_parent(self, pair: Pair) -> None:
        """Q2: a dead job that moves later gets the outputs of a parent that moved before, once it is retried."""
        source, target = pair.source, pair.target
        parent = await add(source, "parent")
        child = await add(source, "child", depends_on=[parent])
        await source.jobs.complete((await take_lease(source)).id, "out")
        await source.jobs.cancel(child)
        await pair.carry(history=True)
        while await take_out(source, await moving_of(target).identity(), history=True) is not None:
            await pair.carry(history=True)
        await target.jobs.retry(child)
        job, _ = await take(target)
        assert (job.id, job.upstream_outputs) == (child, {parent: "out"})


@pytest.mark.anyio
class TestMovingClashes:
    """What is there already."""

    async def test_a_unique_key_that_is_held(self, pair: Pair) -> None:
        """Q8: of two active jobs with one key the one that arrives is cancelled, with the reason, and told."""
        source, target = pair.source, pair.target
        holder = await add(target, unique_key="k")
        arriving = await add(source, unique_key="k")
        harmless = await add(source, unique_key="other")
        async with target.jobs.subscribe() as events:
            listener = Listener(target, events)
            _, arrived = await pair.carry()
            heard = {
                event.job_id: type(event).__name__ for event in await listener.heard() if isinstance(event, JobEvent)
            }
        assert heard == {arriving: "Cancelled", harmless: "Ready"}
        assert (arrived.jobs, set(arrived.cancelled)) == (2, {arriving})
        job = await target.jobs.get(arriving)
        assert job.state is JobState.CANCELLED
        assert job.error is not None
        assert job.error.message == arrived.cancelled[arriving]
        assert repr(holder) in job.error.message
        again = await target.jobs.enqueue(EnqueueRequest("work", unique_key="other"))
        assert (again.id, again.deduped) == (harmless, True)

    async def test_a_finished_job_holds_no_key(self, pair: Pair) -> None:
        """Q8: a dead job comes with its key and does not hold it."""
        await add(pair.target, unique_key="k")
        dead = await dead_job(pair.source, unique_key="k")
        _, arrived = await pair.carry()
        assert not arrived.cancelled
        assert await state_of(pair.target, dead) is JobState.DEAD

    async def test_a_key_is_free_once_its_job_has_left(self, pair: Pair) -> None:
        """Q8: the source knows nothing more of a key whose job has left."""
        first = await add(pair.source, unique_key="k")
        await pair.carry()
        second = await add(pair.source, unique_key="k")
        assert second != first
        _, arrived = await pair.carry()
        assert set(arrived.cancelled) == {second}

    async def test_cancelled_workflows(self, pair: Pair) -> None:
        """Q7: a workflow that is cancelled at the target takes in no live job from elsewhere."""
        source, target = pair.source, pair.target
        await target.jobs.cancel_workflow("w")
        job_id = await add(source, workflow_id="w")
        _, arrived = await pair.carry()
        assert set(arrived.cancelled) == {job_id}
        assert await state_of(target, job_id) is JobState.CANCELLED
