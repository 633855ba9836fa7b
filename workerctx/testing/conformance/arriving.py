"""What arrives from another store: families of jobs, jobs that others are in the way of, schedules and settings."""

from __future__ import annotations

import attrs
import pytest

from workerctx.errors import Throttled
from workerctx.queue.cargo import moving_of
from workerctx.queue.events import JobEvent
from workerctx.queue.model import JobState
from workerctx.queue.moving import move
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.schedule import Schedule
from workerctx.testing.clock import advance
from workerctx.testing.conformance.moving import Pair, take_out
from workerctx.testing.conformance.support import Listener, add, dead_job, state_of, take, take_lease

CROWD = 2500
"""More jobs than one step of a store may deal with."""


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

    async def test_outputs_of_long_ago_come_along(self, pair: Pair) -> None:
        """Q2: what a job needs the output of is not pruned before it has ended, and moves with it until then."""
        source, target = pair.source, pair.target
        parent = await add(source, "parent")
        child, sibling = [await add(source, "child", depends_on=[parent]) for _ in range(2)]
        await source.jobs.complete((await take_lease(source)).id, "out")
        await advance(source, 100)
        assert await source.jobs.prune(50) == 0
        await pair.carry(limit=1)
        for expected in (child, sibling):
            job, lease = await take(target)
            assert (job.id, job.upstream_outputs) == (expected, {parent: "out"})
            await target.jobs.complete(lease.id, "done")
        await advance(target, 100)
        assert await target.jobs.prune(50) == len((parent, child, sibling))

    async def test_a_parent_by_another_name(self, pair: Pair) -> None:
        """Q8: who depends on a request that met a unique key waits for the key's holder at the target, too."""
        source, target = pair.source, pair.target
        holder = await add(source, "holder", unique_key="k")
        _, child = await source.jobs.enqueue_bulk(
            [EnqueueRequest("a", job_id="a", unique_key="k"), EnqueueRequest("b", depends_on=["a"])]
        )
        await pair.carry()
        assert await state_of(target, child.id) is JobState.BLOCKED
        assert (await target.jobs.get(child.id)).depends_on == (holder,)

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
        assert set(arrived.cancelled) == {parent, child}
        assert holder in arrived.cancelled[parent]
        assert await state_of(target, child) is JobState.CANCELLED
        assert await state_of(target, tolerant) is JobState.QUEUED

    async def test_all_that_could_not_stay_alive_is_told(self, pair: Pair) -> None:
        """Q8: a move reports each job that arrived cancelled with the reason that the job has, down to the last."""
        source, target = pair.source, pair.target
        await add(target, "holder", unique_key="k")
        parent = await add(source, "parent", unique_key="k")
        child = await add(source, "child", depends_on=[parent])
        sibling = await add(source, "sibling", depends_on=[parent, child])
        grandchild = await add(source, "grandchild", depends_on=[child, sibling])
        tolerant = await add(source, "tolerant", depends_on=[grandchild], on_parent_failure="run")
        await add(source, "last", depends_on=[tolerant])
        report = await move(source, target)
        assert set(report.cancelled) == {parent, child, sibling, grandchild}
        assert repr(parent) in report.cancelled[child]
        for job_id, reason in report.cancelled.items():
            error = (await target.jobs.get(job_id)).error
            assert error is not None
            assert error.message == reason
        assert (await target.jobs.counts())[JobState.CANCELLED] == len(report.cancelled)

    async def test_a_crowd_that_could_not_stay_alive(self, pair: Pair) -> None:
        """Q8: however many jobs wait for one that arrives cancelled, each of them is cancelled and reported."""
        source, target = pair.source, pair.target
        await add(target, "holder", unique_key="k")
        parent = await add(source, "parent", unique_key="k")
        await source.jobs.enqueue_bulk([EnqueueRequest("child", depends_on=[parent]) for _ in range(CROWD)])
        report = await move(source, target)
        assert len(report.cancelled) == CROWD + 1
        assert (await target.jobs.counts())[JobState.CANCELLED] == CROWD + 1

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


@pytest.mark.anyio
class TestMovingCompanions:
    """Schedules, and what holds on both sides."""

    async def test_schedules(self, pair: Pair) -> None:
        """W11: a schedule fires only on one side, and loses and repeats no tick."""
        source, target = pair.source, pair.target
        await advance(source, 100 - await source.now() % 100 + 0.001)
        await source.schedules.put(Schedule(name="tick", request=EnqueueRequest("tick", 1), every=100.0))
        await advance(source, 100)
        assert len((await source.schedules.fire_due()).outcomes) == 1
        before = await source.schedules.get("tick")
        batch, arrived = await pair.carry()
        assert ([each.name for each in batch.schedules], arrived.schedules) == (["tick"], 1)
        assert await source.schedules.list() == []
        after = await target.schedules.get("tick")
        assert (after.next_fire_at, after.last_fired_at) == (before.next_fire_at, before.last_fired_at)
        assert (after.every, after.request.kind, after.request.payload) == (100.0, "tick", 1)
        while await target.now() < (before.next_fire_at or 0):
            await advance(target, 50)
        assert [name for name, _ in (await target.schedules.fire_due()).outcomes] == ["tick"]
        assert list((await source.schedules.fire_due()).outcomes) == []

    async def test_a_schedule_that_is_known(self, pair: Pair) -> None:
        """W11: a schedule of a known name keeps its definition there and goes on with the earliest tick left."""
        source, target = pair.source, pair.target
        tick = Schedule(name="tick", request=EnqueueRequest("old"), every=100.0)
        await source.schedules.put(tick)
        await target.schedules.put(attrs.evolve(tick, request=EnqueueRequest("new")))
        earlier = (await source.schedules.get("tick")).next_fire_at
        await advance(target, 250)
        await target.schedules.put(attrs.evolve(tick, request=EnqueueRequest("new"), enabled=False))
        await target.schedules.enable("tick")
        await pair.carry()
        joined = await target.schedules.get("tick")
        assert (joined.request.kind, joined.next_fire_at) == ("new", earlier)

    async def test_a_tick_that_has_fired(self, pair: Pair) -> None:
        """W11: a tick that has fired at the source is not fired again by a schedule of its name at the target."""
        source, target = pair.source, pair.target
        await advance(source, 100 - await source.now() % 100 + 0.001)
        await advance(target, max(0.0, await source.now() - await target.now()))
        tick = Schedule(name="tick", request=EnqueueRequest("tick"), every=100.0)
        for storage in (source, target):
            await storage.schedules.put(tick)
        due = (await target.schedules.get("tick")).next_fire_at
        assert due is not None
        for storage in (source, target):
            await advance(storage, max(0.0, due - await storage.now()) + 1)
        await source.schedules.fire_due()
        fired = (await source.schedules.get("tick")).last_fired_at
        await pair.carry()
        joined = await target.schedules.get("tick")
        assert (joined.last_fired_at, joined.next_fire_at) == (fired, (fired or 0) + 100)
        assert list((await target.schedules.fire_due()).outcomes) == []

    async def test_settings(self, pair: Pair) -> None:
        """Q7: pauses, cancelled workflows and limits hold at the target too, with what is used up."""
        source, target = pair.source, pair.target
        until = await source.now() + 5000
        await source.jobs.pause_queue("slow", until=until)
        await source.jobs.pause_queue("off")
        await source.jobs.cancel_workflow("w")
        await source.rate_limits.configure("api", capacity=4, per=4000)
        await source.rate_limits.acquire("api", amount=3)
        await target.rate_limits.configure("own", capacity=2, per=2000)
        there = await add(target, workflow_id="w")
        await moving_of(target).adopt(await moving_of(source).settings())
        queues = {queue.name: queue for queue in await target.jobs.queues()}
        assert queues["slow"].paused_until == pytest.approx(until, abs=1e-5)
        assert (queues["off"].paused, queues["off"].paused_until) == (True, None)
        assert await state_of(target, there) is JobState.CANCELLED
        assert [limit.scope for limit in await target.rate_limits.list()] == ["api", "own"]
        assert type(await target.rate_limits.acquire("api")).__name__ == "Granted"
        assert type(await target.rate_limits.acquire("api")).__name__ == "Throttled"
        assert [queue.paused for queue in await source.jobs.queues() if queue.name == "off"] == [True]

    @pytest.mark.parametrize(
        ("there", "here", "longer"),
        [(50, None, None), (None, 50, None), (None, None, None), (50, 5000, 5000), (5000, 50, 5000)],
        ids=str,
    )
    async def test_a_queue_that_is_paused(
        self, pair: Pair, there: float | None, here: float | None, longer: float | None
    ) -> None:
        """Q7: of two pauses of a queue the longer one holds at the target, and one without end is the longest."""
        now = await pair.target.now()
        for storage, seconds in ((pair.source, there), (pair.target, here)):
            await storage.jobs.pause_queue("q", until=None if seconds is None else now + seconds)
        await move(pair.source, pair.target)
        (queue,) = await pair.target.jobs.queues()
        assert queue.paused
        assert queue.paused_until == (None if longer is None else pytest.approx(now + longer, abs=1e-5))

    async def test_a_pause_that_is_over(self, pair: Pair) -> None:
        """Q7: a pause that has ended at the target does not keep one that arrives from holding."""
        await pair.target.jobs.pause_queue("q", until=await pair.target.now() + 5)
        await advance(pair.target, 10)
        until = await pair.target.now() + 5000
        await pair.source.jobs.pause_queue("q", until=until)
        await move(pair.source, pair.target)
        (queue,) = await pair.target.jobs.queues()
        assert queue.paused_until == pytest.approx(until, abs=1e-5)

    @pytest.mark.parametrize("here", [(10, 100.0), (10, 10_000.0), (100, 1000.0)], ids=["faster", "slower", "more"])
    async def test_a_limit_that_is_drained(self, pair: Pair, here: tuple[int, float]) -> None:
        """W8: a limit that is drained at the source stays closed at the target as long, whatever its rate there."""
        await pair.source.rate_limits.configure("api", capacity=10, per=1000)
        await pair.source.rate_limits.drain("api", retry_after=500)
        await pair.target.rate_limits.configure("api", capacity=here[0], per=here[1])
        for _ in range(2):
            await moving_of(pair.target).adopt(await moving_of(pair.source).settings())
        throttled = await pair.target.rate_limits.acquire("api")
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == pytest.approx(500, abs=3)

    async def test_a_limit_that_is_known(self, pair: Pair) -> None:
        """W8: a limit keeps the rate that it has at the target, and gives no more than is left on either side."""
        source, target = pair.source, pair.target
        for storage, taken in ((source, 1), (target, 2)):
            await storage.rate_limits.configure("api", capacity=3, per=3000)
            await storage.rate_limits.acquire("api", amount=taken)
        await moving_of(target).adopt(await moving_of(source).settings())
        assert type(await target.rate_limits.acquire("api")).__name__ == "Granted"
        assert type(await target.rate_limits.acquire("api")).__name__ == "Throttled"

    @pytest.mark.parametrize(
        ("there", "here", "left"),
        [
            ((1, 86_400.0, 1), (10, 1000.0, 0), 9),
            ((10, 1000.0, 4), (10, 86_400.0, 0), 6),
            ((10, 1000.0, 1), (100, 86_400.0, 3), 97),
            ((100, 1000.0, 50), (10, 1000.0, 0), 0),
            ((100, 86_400.0, 0), (10, 1000.0, 4), 6),
        ],
        ids=["faster", "slower", "less", "more", "unused"],
    )
    async def test_a_limit_of_another_rate(
        self, pair: Pair, there: tuple[int, float, int], here: tuple[int, float, int], left: int
    ) -> None:
        """W8: a limit of the target counts as many calls as used up as the source does, at its own rate."""
        source, target = pair.source, pair.target
        for storage, (capacity, per, taken) in ((source, there), (target, here)):
            await storage.rate_limits.configure("api", capacity=capacity, per=per)
            if taken:
                await storage.rate_limits.acquire("api", amount=taken)
        for _ in range(2):
            await moving_of(target).adopt(await moving_of(source).settings())
        assert [(limit.capacity, limit.per) for limit in await target.rate_limits.list()] == [here[:2]]
        if left:
            assert type(await target.rate_limits.acquire("api", amount=left)).__name__ == "Granted"
        assert type(await target.rate_limits.acquire("api")).__name__ == "Throttled"
