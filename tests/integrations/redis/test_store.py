"""What the Redis store promises beyond the conformance suite, on a server in good health."""

from __future__ import annotations

import os
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import (
    InvalidRequest,
    LeaseLost,
    SchemaError,
    StoreClosed,
    StoreUnavailable,
    StoreUnsafe,
    Throttled,
)
from workerctx.queue import (
    CompleteLease,
    Constant,
    EnqueueRequest,
    JobState,
    ReleaseLease,
    connect,
)
from workerctx.queue.limits import Granted
from workerctx.queue.model import FINAL_STATES
from workerctx.testing import advance
from workerctx.testing.polling import wait_until
from workerctx_redis._adding import Part, publish, stage
from workerctx_redis._driver import open_client
from workerctx_redis._link import Link
from workerctx_redis._operations import done, finish_one
from workerctx_redis._records import Groups
from workerctx_redis._source import AT_ONCE


@pytest.fixture
async def storage(redis_url):
    async with connect(redis_url()) as opened:
        yield opened


def crowd(number, **options):
    return [EnqueueRequest("work", n, **options) for n in range(number)]


# Crowds ---------------------------------------------------------------------


@pytest.mark.parametrize("end", ["succeeded", "deleted"])
async def test_a_parent_of_a_crowd_lets_all_of_it_go_on(storage, end):
    """Q18: no call deals with more than a thousand jobs, and yet every child of a parent is told of its end."""
    parent = (await storage.jobs.enqueue(EnqueueRequest("parent", queue="first"))).id
    await storage.jobs.enqueue_bulk(crowd(2 * AT_ONCE + 500, depends_on=[parent], on_parent_failure="run"))
    if end == "deleted":
        await storage.jobs.delete(parent)
    else:
        _, lease = await storage.jobs.claim("worker", queues=["first"])
        await storage.jobs.complete(lease.id)

    async def all_are_queued():
        return (await storage.jobs.counts())[JobState.QUEUED] == 2 * AT_ONCE + 500

    await wait_until(all_are_queued)


async def test_what_a_process_leaves_unsettled_another_one_settles(storage, redis_url):
    """Q2: the children that a finisher had no time to tell are told by whoever reaps next."""
    parent = (await storage.jobs.enqueue(EnqueueRequest("parent", queue="first"))).id
    await storage.jobs.enqueue_bulk(crowd(AT_ONCE + 100, depends_on=[parent]))
    _, lease = await storage.jobs.claim("worker", queues=["first"])
    endpoint = storage._endpoint
    async with open_client(endpoint) as client:
        dying = Link(client, Groups(), endpoint, storage._prefix, "dying")
        assert (await dying.perform([finish_one(CompleteLease(lease.id))])).unsettled
    async with connect(redis_url()) as other:
        assert (await other.jobs.counts())[JobState.BLOCKED] == 100
        await other.jobs.reap_expired_leases()
        assert (await other.jobs.counts())[JobState.BLOCKED] == 0


async def test_a_large_workflow_is_cancelled_in_steps(storage):
    """Q7: a workflow of thousands is cancelled whole, a thousand jobs at a time."""
    await storage.jobs.enqueue_bulk(crowd(2 * AT_ONCE + 1, workflow_id="wf"))
    assert await storage.jobs.cancel_workflow("wf") == 2 * AT_ONCE + 1
    assert (await storage.jobs.counts())[JobState.CANCELLED] == 2 * AT_ONCE + 1


async def test_no_job_of_a_large_workflow_runs_because_another_was_cancelled(storage):
    """Q7: the steps are one to whoever looks: how many, why, and that nobody waits for a parent that is cancelled."""
    parents = [f"{number:05d}" for number in range(AT_ONCE + 200)]
    family = [EnqueueRequest("work", job_id=parent, workflow_id="wf") for parent in parents]
    for number, parent in enumerate(parents):
        choice = {"on_parent_failure": "run"} if number % 2 else {}
        family.append(EnqueueRequest("clean", job_id=f"b{parent}", depends_on=[parent], workflow_id="wf", **choice))
    await storage.jobs.enqueue_bulk(family)
    strangers = [EnqueueRequest("after", depends_on=[parent], on_parent_failure="run") for parent in parents[-3:]]
    await storage.jobs.enqueue_bulk(strangers)
    await storage.jobs.claim_many("worker", kinds=["work"], limit=5)
    claimed = []

    async def claim():
        while True:
            claimed.extend(job.kind for job, _ in await storage.jobs.claim_many("worker", kinds=["clean"]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(claim)
        assert await storage.jobs.cancel_workflow("wf") == len(family)
        tasks.cancel_scope.cancel()
    assert not claimed
    counts = await storage.jobs.counts()
    assert (counts[JobState.RUNNING], counts[JobState.CANCELLED]) == (5, len(family) - 5)
    reasons, cursor = set(), None
    while True:
        page = await storage.jobs.list(state=JobState.CANCELLED, limit=1000, cursor=cursor)
        reasons |= {job.error.message for job in page.jobs}
        if (cursor := page.next_cursor) is None:
            break
    assert reasons == {"workflow 'wf' was cancelled"}

    async def strangers_are_queued():
        return len((await storage.jobs.list(kind="after", state=JobState.QUEUED)).jobs) == len(strangers)

    await wait_until(strangers_are_queued)


async def test_a_large_workflow_is_cancelled_whole_though_its_caller_is_gone(storage, redis_url):
    """Q7: whoever calls next goes on with it, and spares what was added when the workflow was open again."""
    await storage.jobs.enqueue_bulk(crowd(5 * AT_ONCE, workflow_id="wf"))
    endpoint = storage._endpoint
    async with open_client(endpoint) as client:
        dying = Link(client, Groups(), endpoint, storage._prefix, "dying")
        assert (await dying.perform([done("cancel_workflow", "wf", "token")])).unsettled
        assert (await dying.perform([done("clear_workflow", "wf")])).unsettled
    async with connect(redis_url()) as other:
        await other.jobs.enqueue(EnqueueRequest("work", workflow_id="wf", job_id="~ behind all"))

        async def are_cancelled():
            return (await other.jobs.counts())[JobState.CANCELLED] == 5 * AT_ONCE

        await wait_until(are_cancelled)
        assert (await other.jobs.get("~ behind all")).state is JobState.QUEUED


async def test_pages_find_the_few_among_the_many(storage):
    """Listings with filters are complete and in order, however rare what they look for is."""
    wanted = []
    for n in range(4):
        await storage.jobs.enqueue_bulk(crowd(AT_ONCE // 2, queue=f"queue {n % 2}", tenant_id=f"tenant {n % 2}"))
        rare = await storage.jobs.enqueue(
            EnqueueRequest("rare", queue="queue 1", tenant_id="tenant 1", unique_key=f"{n}")
        )
        wanted.append(rare.id)
    await storage.jobs.cancel(wanted[1])
    for filters in ({"kind": "rare"}, {"tenant_id": "tenant 1", "kind": "rare"}, {"queue": "queue 1", "kind": "rare"}):
        first = await storage.jobs.list(limit=3, **filters)
        second = await storage.jobs.list(limit=3, cursor=first.next_cursor, **filters)
        assert [job.id for job in (*first.jobs, *second.jobs)] == wanted
        assert second.next_cursor is None
    assert [job.id for job in (await storage.jobs.list(state=JobState.CANCELLED)).jobs] == [wanted[1]]
    assert [job.id for job in (await storage.jobs.list(unique_key="2")).jobs] == [wanted[2]]
    everything = await storage.jobs.list(limit=10 * AT_ONCE)
    assert len(everything.jobs) == 2 * AT_ONCE + 4
    assert [job.id for job in everything.jobs] == sorted(job.id for job in everything.jobs)


# Large batches --------------------------------------------------------------


async def test_a_large_batch_is_all_or_none(storage):
    """Q9: a batch that travels in many parts is added whole, in order, or not at all."""
    size = 3 * AT_ONCE
    outcomes = await storage.jobs.enqueue_bulk(crowd(size))
    claimed = await storage.jobs.claim_many("worker", limit=size)
    assert [job.payload for job, _ in claimed] == list(range(size))
    assert [job.id for job, _ in claimed] == [outcome.id for outcome in outcomes]
    with pytest.raises(InvalidRequest, match="nobody"):
        await storage.jobs.enqueue_bulk([*crowd(size), EnqueueRequest("work", depends_on=["nobody"])])
    assert sum((await storage.jobs.counts()).values()) == size


async def test_parts_that_nobody_published_vanish(storage, redis_command, monkeypatch):
    """Q9: what a sender that died left behind is no job, and is gone after a while; a late sender is told."""
    requests = crowd(3)
    part = Part()
    for request in requests:
        part.add(request)
    await storage._line.call(stage("token", part))
    assert sum((await storage.jobs.counts()).values()) == 0
    (key,) = redis_command("--raw", "keys", f"{storage._prefix}*:stage:token").splitlines()
    assert 0 < int(redis_command("ttl", key)) <= 300
    redis_command("del", key)
    with pytest.raises(Exception, match="nothing of it was added"):
        await storage._line.call(publish("token", [part], requests))
    assert sum((await storage.jobs.counts()).values()) == 0


async def test_results_that_are_too_large_together(storage, monkeypatch):
    """Q2: runs whose results fit into no single call are finished all the same, each once."""
    monkeypatch.setattr("workerctx_redis._jobs.LARGEST_CALL", 5000)
    await storage.jobs.enqueue_bulk(crowd(8))
    claimed = await storage.jobs.claim_many("worker", limit=7)
    finishes = [CompleteLease.of(lease.id, job.payload * "x" * 1000) for job, lease in claimed]
    finishes.insert(3, CompleteLease.of("nobody.has", "x" * 1000))
    outcomes = await storage.jobs.finish_many(finishes, began=[claimed[0][1].id])
    assert [type(outcome) for outcome in outcomes] == [*[type(None)] * 3, LeaseLost, *[type(None)] * 4]
    for job, _ in claimed:
        assert (await storage.jobs.get(job.id)).result == job.payload * "x" * 1000


# The straight way -----------------------------------------------------------

FATE = ("state", "attempt", "deliveries", "worker_id", "result_json", "timeout", "payload_json", "progress")


@pytest.mark.parametrize("began", [True, False])
@pytest.mark.parametrize("worker", ["worker", 'work"er\\'])
async def test_jobs_fare_the_same_whether_or_not_somebody_listens(storage, began, worker):
    """Q10: what is done without tables of jobs, as nobody has to be told, is what is done for listeners."""
    fates = []
    for listening in (True, False):
        async with storage.jobs.subscribe() if listening else nullcontext():
            ids = [outcome.id for outcome in await storage.jobs.enqueue_bulk(crowd(6, timeout=9.0))]
            claimed = await storage.jobs.claim_many(worker, limit=6, began=began)
            assert [job.id for job, _ in claimed] == ids
            leases = [lease.id for _, lease in claimed]
            finishes = [
                CompleteLease(leases[0]),
                CompleteLease(leases[0]),
                CompleteLease.of(leases[1], {"size": 1}),
                ReleaseLease(leases[2]),
                CompleteLease(leases[2]),
                CompleteLease(leases[3][:-1] + "-"),
                CompleteLease(leases[4]),
            ]
            await storage.jobs.cancel(ids[4])
            lost = [error is not None for error in await storage.jobs.finish_many(finishes)]
            assert lost == [False, True, False, False, True, True, False]
            jobs = [await storage.jobs.get(job_id) for job_id in ids]
            fates.append([[getattr(job, name) for name in FATE] for job in jobs])
            await storage.jobs.finish_many([ReleaseLease(leases[3]), ReleaseLease(leases[5])])
            await storage.jobs.finish_many(
                [CompleteLease(lease.id) for _, lease in await storage.jobs.claim_many("other", limit=6)]
            )
            counts = await storage.jobs.counts()
            assert counts[JobState.SUCCEEDED] == sum(counts.values()) == 6 * len(fates)
    assert fates[0] == fates[1]


# Callers --------------------------------------------------------------------


async def test_a_cancelled_claim_is_given_back(storage):
    """Q1: whatever moment a claim is cancelled at, no job stays with a claimer who never got it."""
    await storage.jobs.enqueue_bulk(crowd(20))
    for _ in range(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.jobs.claim, "worker")
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    async def all_are_back():
        counts = await storage.jobs.counts()
        return counts[JobState.QUEUED] == 20

    await wait_until(all_are_back)
    assert {job.attempt for job in (await storage.jobs.list()).jobs} == {0}


async def test_single_calls_share_a_round_trip(storage, redis_command):
    """W6: what many tasks ask for at the same time goes to the server in a few calls."""

    def calls():
        stats = redis_command("info", "commandstats")
        return int(stats.partition("cmdstat_evalsha:calls=")[2].partition(",")[0])

    before = calls()
    async with anyio.create_task_group() as tasks:
        for n in range(200):
            tasks.start_soon(storage.jobs.enqueue, EnqueueRequest("work", n))
    assert (await storage.jobs.counts())[JobState.QUEUED] == 200
    assert calls() - before < 50


async def test_one_bad_call_fails_alone(storage):
    """Q13: a text that is none is refused by itself; others that were on their way with it are done."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(storage.jobs.enqueue, EnqueueRequest("work"))
        with pytest.raises(InvalidRequest):
            await storage.jobs.get("\ud800")
    assert (await storage.jobs.counts())[JobState.QUEUED] == 1


def test_several_event_loops_share_a_storage(redis_url):
    """Q17: a Storage that one loop opened is used by others, of either kind, at the same time."""
    done = []

    async def use(storage, word):
        for _ in range(20):
            await storage.jobs.enqueue(EnqueueRequest("work", word))
        done.append(word)

    async def main():
        async with connect(redis_url()) as storage:
            threads = [
                threading.Thread(target=partial(anyio.run, use, storage, backend, backend=backend))
                for backend in ("asyncio", "trio")
            ]
            for thread in threads:
                thread.start()
            await use(storage, "own")
            for thread in threads:
                await anyio.to_thread.run_sync(thread.join)
            assert (await storage.jobs.counts())[JobState.QUEUED] == 60

    anyio.run(main)
    assert sorted(done) == ["asyncio", "own", "trio"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_is_told_to_open_its_own(storage):
    """L34: after a fork the child's copy says so, and the parent's goes on."""
    child = os.fork()
    if not child:
        try:
            storage._line.post(None)
        except StoreClosed as exc:
            os._exit(0 if "forked" in str(exc) else 1)
        finally:
            os._exit(2)
    _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    await storage.jobs.enqueue(EnqueueRequest("a"))


async def test_a_job_that_comes_back_brings_its_past(storage):
    """Q4: progress and errors of earlier runs are there for the next one, also after a snooze or a second chance."""
    await storage.jobs.enqueue(EnqueueRequest("work", retry=Constant(0, jitter=False)))
    _, lease = await storage.jobs.claim("worker")
    await storage.jobs.progress(lease.id, {"done": 3})
    await storage.jobs.snooze(lease.id, delay=0)
    job, lease = await storage.jobs.claim("worker")
    assert job.progress == {"done": 3}
    await storage.jobs.fail(lease.id, "boom", retryable=False)
    await storage.jobs.retry(job.id)
    job, _ = await storage.jobs.claim("worker")
    assert job.progress == {"done": 3}
    assert [failed.error.message for failed in job.error_history] == ["boom"]


# What is stored -------------------------------------------------------------


async def test_people_can_read_what_is_stored(storage, redis_command, redis_url):
    """Q16: payloads, results, options, errors and records are JSON; all keys of a namespace share its hash tag."""
    options = {"retry": Constant(0), "headers": {"a": "b"}, "queue": "images", "required_labels": ["gpu"]}
    job_id = (await storage.jobs.enqueue(EnqueueRequest("resize", {"path": "a.jpg"}, **options))).id
    _, lease = await storage.jobs.claim("worker", queues=["images"], labels=["gpu"])
    await storage.jobs.fail(lease.id, "boom")
    _, lease = await storage.jobs.claim("worker", queues=["images"], labels=["gpu"])
    await storage.jobs.complete(lease.id, {"size": 3})
    prefix = storage._prefix
    assert prefix.startswith("{")

    def stored(name):
        return redis_command("--raw", "hget", f"{prefix}:{name}", job_id)

    assert stored("payloads") == '{"path":"a.jpg"}'
    assert stored("results") == '{"size":3}'
    assert stored("jobs").startswith('["succeeded",')
    assert '"headers":{"a":"b"}' in stored("options")
    assert '"message":"boom"' in stored("errors")
    keys = redis_command("--raw", "keys", f"{prefix[:20]}*").splitlines()
    assert keys
    assert all(key.startswith(prefix) for key in keys)


async def test_nothing_is_left_of_jobs_that_are_gone(storage, redis_command):
    """Q2: pruned and deleted jobs leave no key behind, whatever they had."""
    parent = (await storage.jobs.enqueue(EnqueueRequest("parent", unique_key="k", workflow_id="w"))).id
    await storage.jobs.enqueue(
        EnqueueRequest("child", depends_on=[parent], tenant_id="t", expires_at=await storage.now() + 99, delay=5)
    )
    await storage.jobs.progress((await storage.jobs.claim("worker"))[1].id, 0.5)
    await advance(storage, 60)
    await storage.jobs.reap_expired_leases()
    await storage.jobs.cancel(parent)
    await storage.jobs.enqueue(EnqueueRequest("other", delay=5))
    await storage.jobs.delete((await storage.jobs.list(state=JobState.SCHEDULED)).jobs[0].id)
    await advance(storage, 60)
    assert await storage.jobs.prune(0) == 2
    names = {key.removeprefix(storage._prefix) for key in redis_command("--raw", "keys", f"{storage._prefix}*").split()}
    assert names == {":groups", ":names", ":meta"}


async def test_pruning_passes_by_jobs_that_are_awaited(storage):
    """Q2: however many finished jobs have to stay for others, those behind them are removed."""
    parents = [outcome.id for outcome in await storage.jobs.enqueue_bulk(crowd(2 * AT_ONCE + 10))]
    for first in range(0, len(parents), AT_ONCE):
        await storage.jobs.enqueue(EnqueueRequest("child", depends_on=parents[first : first + AT_ONCE], queue="later"))
    claimed = await storage.jobs.claim_many("worker", limit=len(parents))
    await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
    await storage.jobs.enqueue_bulk(crowd(3))
    await advance(storage, 1)
    claimed = await storage.jobs.claim_many("worker", limit=3)
    await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
    await advance(storage, 1)
    assert await storage.jobs._prune(0, FINAL_STATES, 2) == 2
    assert await storage.jobs._prune(0, FINAL_STATES, 2) == 1
    assert (await storage.jobs.counts())[JobState.SUCCEEDED] == len(parents)


async def test_databases_and_prefixes_are_apart(own_server):
    """Q19: two databases, or two prefixes, of one server share nothing, wake-ups included."""
    server = own_server()
    urls = [f"redis://127.0.0.1:{server.port}/{db}?prefix={prefix}" for db in (0, 1) for prefix in ("one", "two")]
    for index, url in enumerate(urls):
        async with connect(url) as storage:
            assert sum((await storage.jobs.counts()).values()) == 0
            await storage.jobs.enqueue(EnqueueRequest("work", index))
    async with connect(urls[0]) as one, connect(urls[2]) as other, one.jobs.wakeups() as wakeups:
        await other.jobs.enqueue(EnqueueRequest("work"))
        assert await wakeups.wait(0.05) is False


async def test_newer_data_are_refused(storage, redis_command, redis_url):
    """Q15: a release that is older than the data says so and touches nothing."""
    redis_command("hset", f"{storage._prefix}:meta", "version", "99")
    with pytest.raises(SchemaError, match="version 99"):
        async with connect(redis_url()):
            pass


async def test_limits_of_older_releases(storage, redis_command):
    """W8: a limit that an older release wrote, without a word on draining, is used up as much as it was."""
    full = round((time.time() + 500) * 1e6)
    redis_command("hset", f"{storage._prefix}:limits", "x", f"[1,500,{full}]")
    (found,) = (await storage.moving.settings()).limits
    assert (found.full_until, found.closed_until) == (pytest.approx(full / 1e6), 0)
    await storage.rate_limits.configure("x", capacity=2, per=1000)
    assert isinstance(await storage.rate_limits.acquire("x"), Granted)
    assert isinstance(await storage.rate_limits.acquire("x"), Throttled)


async def test_a_server_that_has_lost_what_it_knew(own_server):
    """Q1: a worker that stays up while the server loses data takes no job for one of another kind."""
    server = own_server()

    async def claimed():
        with suppress(StoreUnavailable):
            found = await worker.jobs.claim("worker", queues=["other"])
            kinds.extend([] if found is None else [found[0].kind])
        return bool(kinds)

    kinds = []
    async with connect(server.url(timeout="2")) as worker:
        await worker.jobs.enqueue(EnqueueRequest("send_mail"))
        assert await worker.jobs.claim("worker") is not None
        server.command("flushall")
        async with connect(server.url()) as other:
            await other.jobs.enqueue(EnqueueRequest("delete_account", queue="other"))
            await wait_until(claimed)
    assert kinds == ["delete_account"]


async def test_a_server_that_evicts_jobs_is_refused(own_server):
    """Q2: a server that throws keys away when it is full is no store."""
    server = own_server(**{"maxmemory-policy": "allkeys-lru"})
    with pytest.raises(StoreUnsafe, match="noeviction"):
        async with connect(server.url()):
            pass


async def test_the_script_may_be_forgotten(storage, redis_command):
    """W4: SCRIPT FLUSH goes unnoticed."""
    for _ in range(2):
        redis_command("script", "flush")
        await storage.jobs.enqueue(EnqueueRequest("work"))
    claimed = await storage.jobs.claim_many("worker")
    redis_command("script", "flush")
    assert await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed]) == [None, None]


async def test_turns_are_remembered_between_claims(storage):
    """Q5: the share of a queue holds over many small claims, though the counting is the server's."""
    for queue in ("a", "b"):
        await storage.jobs.enqueue_bulk(crowd(20, queue=queue))
    served = []
    for _ in range(10):
        (job, lease), *_ = await storage.jobs.claim_many("worker", queues=["a", "b"], weights={"a": 4}, limit=1)
        served.append(job.queue)
        await storage.jobs.finish_many([ReleaseLease(lease.id)])
    assert served.count("a") == 8
