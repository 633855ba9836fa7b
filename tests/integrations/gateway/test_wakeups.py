"""Wake-ups that begin the claim of a gateway whose workers wait, on a store where they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx.queue import EnqueueRequest, JobState
from workerctx.queue.batching import PreparedCall
from workerctx.remote.frames import Credit, Task

if TYPE_CHECKING:
    from workerctx.queue import Claimed


@pytest.fixture
def url(tmp_path):
    """A store in a file."""
    return f"sqlite:///{tmp_path}/jobs.db"


async def enqueue(storage):
    """Add a job and return its id."""
    return (await storage.jobs.enqueue(EnqueueRequest("resize", {}))).id


async def test_wakeups_begin_the_claims_for_idle_workers(gateway, storage, peer_of, claims_begun):
    """Whoever hears of a job begins the claim for the workers that wait; each job goes out once."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await worker.say(Credit(0, 30))
        for _ in range(20):
            job_id = await enqueue(storage)
            task = await worker.hear(Task)
            assert task.job.id == job_id
            await worker.finish(task)
            job = await storage.jobs.get(job_id)
            assert (job.state, job.attempt, job.deliveries) == (JobState.SUCCEEDED, 1, 1)
    assert any(claims_begun)


@pytest.mark.parametrize("why", ["is paused", "has lost its worker", "ends"])
async def test_what_nobody_can_be_handed_any_more_is_there_for_others(gateway, storage, peer_of, eventually, why):
    """A gateway keeps no job that a wake-up may have claimed for workers which do not get it."""
    taken: list[Claimed] = []

    async def take() -> bool:
        taken.extend(await storage.jobs.claim_many("other"))
        return bool(taken)

    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await worker.say(Credit(0, 30))
        await enqueue(storage)
        await worker.finish(await worker.hear(Task))
        if why == "is paused":
            gateway.context.pause()
        elif why == "has lost its worker":
            worker.hang_up()
        else:
            gateway.context.stop()
        job_id = await enqueue(storage)
        if why == "has lost its worker":  # it may have been handed the job before it left
            async with peer_of(gateway) as other:
                await other.register(worker_id="w2")
                (task,) = await other.tasks(1)
                assert (task.job.id, task.job.attempt) == (job_id, 1)
        else:
            await eventually(take)
            assert [(job.id, job.attempt) for job, _ in taken] == [(job_id, 1)]


async def test_a_claim_under_way_hands_out_nothing_once_the_gateway_is_paused(
    gateway, storage, peer_of, eventually, monkeypatch
):
    """What it brings is given back at once, and goes out again after the pause."""
    claimed, paused = anyio.Event(), anyio.Event()
    queue = type(storage.jobs)
    prepared, plain = PreparedCall.result, queue.finish_and_claim

    async def hold(jobs):
        if jobs:
            claimed.set()
            await paused.wait()

    async def result(self):
        jobs = await prepared(self)
        await hold(jobs)
        return jobs

    async def finish_and_claim(self, *args, **kwargs):
        refused, jobs = await plain(self, *args, **kwargs)
        await hold(jobs)
        return refused, jobs

    monkeypatch.setattr(PreparedCall, "result", result)
    monkeypatch.setattr(queue, "finish_and_claim", finish_and_claim)
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await worker.say(Credit(0, 30))
        job_id = await enqueue(storage)
        await claimed.wait()
        gateway.context.pause()
        paused.set()

        async def is_back() -> bool:
            return (await storage.jobs.get(job_id)).state is JobState.QUEUED

        await eventually(is_back)
        gateway.context.resume()
        task = await worker.hear(Task)
        assert (task.job.id, task.job.attempt) == (job_id, 1)
