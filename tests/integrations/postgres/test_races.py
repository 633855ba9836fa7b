"""What several processes do to the same jobs at the same time: on PostgreSQL nobody waits in one line for all."""

from __future__ import annotations

from contextlib import contextmanager

import anyio
import psycopg
import pytest

from workerctx.errors import InvalidRequest, JobNotFound, LeaseLost, QueueError
from workerctx.queue import EnqueueRequest, JobState, Schedule, connect, new_id

PAIRS = 25
GATE = 20_260_101
"""An advisory lock of ours."""


@pytest.fixture
async def stores(postgres_url):
    """Two open stores on the same jobs, as in two processes."""
    url = postgres_url()
    async with connect(url) as one, connect(url) as other:
        yield one, other


async def both(*calls):
    """Make calls at the same time; return their results, or the errors that they raised."""
    results = [None] * len(calls)

    async def make(number, call):
        try:
            results[number] = await call
        except QueueError as exc:
            results[number] = exc

    async with anyio.create_task_group() as tasks:
        for number, call in enumerate(calls):
            tasks.start_soon(make, number, call)
    return results


async def test_parents_that_finish_at_once(stores):
    """Q2: a job whose parents finish in two processes at the same moment becomes ready."""
    one, other = stores
    for _ in range(PAIRS):
        parents = await one.jobs.enqueue_bulk([EnqueueRequest("parent")] * 2)
        child = await one.jobs.enqueue(EnqueueRequest("child", depends_on=[p.id for p in parents]))
        (_, mine), (_, theirs) = await one.jobs.claim_many("w", kinds=["parent"])
        assert await both(one.jobs.complete(mine.id), other.jobs.complete(theirs.id)) == [None, None]
        assert (await one.jobs.get(child.id)).state is JobState.QUEUED


async def test_a_child_that_comes_as_its_parent_finishes(stores):
    """Q2: a job that is enqueued while its parent finishes is ready, not blocked for ever."""
    one, other = stores
    for _ in range(PAIRS):
        parent = await one.jobs.enqueue(EnqueueRequest("parent"))
        _, lease = await one.jobs.claim("w", kinds=["parent"])
        _, child = await both(
            one.jobs.complete(lease.id, "done"), other.jobs.enqueue(EnqueueRequest("child", depends_on=[parent.id]))
        )
        assert (await one.jobs.get(child.id)).state is JobState.QUEUED
    assert all(list(job.upstream_outputs.values()) == ["done"] for job, _ in await one.jobs.claim_many("w"))


async def test_a_child_that_comes_as_its_parent_is_deleted(stores):
    """Q2: the child is refused or goes down with its parent; it never waits for nobody."""
    one, other = stores
    for _ in range(PAIRS):
        parent = await one.jobs.enqueue(EnqueueRequest("parent"))
        _, child = await both(
            one.jobs.delete(parent.id), other.jobs.enqueue(EnqueueRequest("child", depends_on=[parent.id]))
        )
        if not isinstance(child, InvalidRequest):
            assert (await one.jobs.get(child.id)).state is JobState.CANCELLED


@contextmanager
def slow_readers(url, schema):
    """Yield how many wait to read who depends on whom, their snapshots taken, and what lets them go on."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET search_path = {schema}")
        connection.execute("ALTER TABLE workerctx_dependencies RENAME TO ties")
        connection.execute(
            "CREATE VIEW workerctx_dependencies AS SELECT * FROM ties "
            f"WHERE pg_advisory_xact_lock_shared({GATE}) IS NOT NULL"
        )
        connection.execute("SELECT pg_advisory_lock(%s)", [GATE])

        def waiting():
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
            return connection.execute(query, [GATE]).fetchone()[0]

        yield waiting, lambda: connection.execute("SELECT pg_advisory_unlock(%s)", [GATE])


async def test_a_child_that_comes_as_its_parent_is_pruned(postgres_url, eventually):
    """Q2: a parent that gets a child after a prune has chosen it is kept, and hands its outputs down."""
    schema = f"pruned_{new_id()[-12:]}"
    url = f"{postgres_url()}&schema={schema}"
    async with connect(url) as one, connect(url) as other:
        parent = await one.jobs.enqueue(EnqueueRequest("parent"))
        early = await one.jobs.enqueue(EnqueueRequest("child", depends_on=[parent.id]))
        _, lease = await one.jobs.claim("w", kinds=["parent"])
        await one.jobs.complete(lease.id, "done")
        await one.jobs.cancel(early.id)
        with slow_readers(url.partition("&namespace=")[0], schema) as (waiting, let_go):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.jobs.prune, 0)
                await eventually(waiting)
                late = await other.jobs.enqueue(EnqueueRequest("child", depends_on=[parent.id]))
                let_go()
            with pytest.raises(JobNotFound):
                await other.jobs.get(early.id)
            child, _ = await other.jobs.claim("w")
            assert (child.id, child.upstream_outputs) == (late.id, {parent.id: "done"})


async def test_a_job_that_comes_as_its_workflow_is_cancelled(stores):
    """Q7: no job slips into a workflow that is being cancelled."""
    one, other = stores
    for number in range(PAIRS):
        flow = f"flow-{number}"
        _, late = await both(one.jobs.cancel_workflow(flow), other.jobs.enqueue(EnqueueRequest("a", workflow_id=flow)))
        assert (await one.jobs.get(late.id)).state is JobState.CANCELLED


async def test_one_unique_key_from_two_sides(stores):
    """Q8: of two that enqueue with one key at the same time, one adds the job and both get its id."""
    one, other = stores
    for number in range(PAIRS):
        request = EnqueueRequest("a", unique_key=f"key-{number}", queue=f"new-{number}")
        mine, theirs = await both(one.jobs.enqueue(request), other.jobs.enqueue(request))
        assert mine.id == theirs.id
        assert {mine.deduped, theirs.deduped} == {True, False}


async def test_new_groups_from_two_sides(stores):
    """Q2: jobs of kinds that nobody knew a moment ago are found by everybody."""
    one, other = stores
    for number in range(PAIRS):
        mine, theirs = await both(
            one.jobs.enqueue(EnqueueRequest(f"mine-{number}")), other.jobs.enqueue(EnqueueRequest(f"theirs-{number}"))
        )
        claimed = {job.id for job, _ in await one.jobs.claim_many("w")}
        claimed |= {job.id for job, _ in await other.jobs.claim_many("w")}
        assert claimed == {mine.id, theirs.id}


async def test_an_end_and_a_reaper(stores):
    """Q1, Q11: of a finish and a reap of the same lease one wins; the loser changes nothing."""
    one, other = stores
    for _ in range(PAIRS):
        await one.jobs.enqueue(EnqueueRequest("a", max_attempts=1))
        job, lease = await one.jobs.claim("w", lease_ttl=0.001)
        await one.advance(1)
        ended, reaped = await both(one.jobs.complete(lease.id), other.jobs.reap_expired_leases())
        state = (await one.jobs.get(job.id)).state
        if isinstance(ended, LeaseLost):
            assert (state, len(reaped)) == (JobState.DEAD, 2)
        else:
            assert (ended, state, reaped) == (None, JobState.SUCCEEDED, [])


async def test_steering_from_two_sides(stores):
    """Q7: cancelling, retrying and deleting the same jobs at the same time ends in a state that one of them made."""
    one, other = stores
    for _ in range(PAIRS):
        job = await one.jobs.enqueue(EnqueueRequest("a"))
        await both(one.jobs.cancel(job.id), other.jobs.cancel(job.id))
        await both(one.jobs.retry(job.id), other.jobs.retry(job.id), one.jobs.delete(job.id))
        try:
            assert (await one.jobs.get(job.id)).state in (JobState.QUEUED, JobState.CANCELLED)
        except JobNotFound:
            continue


async def test_limits_from_two_sides(stores):
    """W8: a limit grants no more than it has, in whatever order two processes ask for several."""
    one, other = stores
    for scope in ("a", "b"):
        await one.rate_limits.configure(scope, capacity=10, per=3600)
    calls = [store.rate_limits.acquire(scope) for _ in range(10) for scope in ("a", "b") for store in stores]
    calls += [store.rate_limits.acquire(scope) for _ in range(10) for scope in ("b", "a") for store in (other, one)]
    granted = [got.scope for got in await both(*calls) if type(got).__name__ == "Granted"]
    assert sorted(granted) == ["a"] * 10 + ["b"] * 10


async def test_a_schedule_that_all_look_at(stores):
    """W11: a tick fires once, however many look at the same moment."""
    one, other = stores
    await one.schedules.put(Schedule(name="often", request=EnqueueRequest("tick"), every=3600))
    for _ in range(PAIRS):
        await one.advance(3600)
        fired = await both(one.schedules.fire_due(), other.schedules.fire_due())
        assert sum(len(look.outcomes) for look in fired) == 1
