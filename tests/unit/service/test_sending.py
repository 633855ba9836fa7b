"""The hook around each enqueueing."""

from __future__ import annotations

import anyio
import pytest

from workerctx.errors import InvalidRequest
from workerctx.queue import EnqueueRequest
from workerctx.runtime import WorkerLoop
from workerctx.service import JobCtx, JobRegistry


class Stamp:
    """A hook that puts a header on each job and remembers what passed."""

    def __init__(self, name="stamp"):
        self.name = name
        self.seen = []

    async def __call__(self, requests, send):
        outcomes = await send([each.with_options(headers={**each.headers, self.name: "x"}) for each in requests])
        self.seen.append(([each.kind for each in requests], [each.id for each in outcomes]))
        return outcomes


async def headers(jobs, job_id):
    return (await jobs.storage.jobs.get(job_id)).headers


async def test_each_way_to_enqueue_passes_the_hook():
    """W7: a handler's enqueue, requests, batches, and the same inside of a handler and its thread."""
    stamp = Stamp()
    jobs = JobRegistry("memory://", on_enqueue=stamp)
    assert jobs.on_enqueue is stamp

    @jobs.register(name="leaf")
    async def leaf(): ...

    @jobs.register(name="parent")
    async def parent(ctx: JobCtx):
        await ctx.enqueue(leaf.request())
        await ctx.enqueue_bulk([leaf.request(), leaf.request()])
        await leaf.enqueue()

    @jobs.register(name="threaded")
    def threaded(ctx: JobCtx):
        ctx.sync.enqueue(leaf.request())
        jobs.sync.enqueue_bulk([leaf.request()])
        leaf.enqueue_sync()

    async with jobs:
        await jobs.enqueue(parent.request())
        await jobs.enqueue_bulk([threaded.request(), leaf.request()])
        with anyio.fail_after(20):
            await WorkerLoop(jobs).run(burst=True)
        assert sum(len(kinds) for kinds, _ in stamp.seen) == 10
        for _, ids in stamp.seen:
            for job_id in ids:
                assert await headers(jobs, job_id) == {"stamp": "x"}


def test_the_sync_side_passes_the_hook():
    """What a script enqueues passes it too."""
    stamp = Stamp()
    jobs = JobRegistry("memory://", on_enqueue=stamp)

    @jobs.register(name="leaf")
    async def leaf(): ...

    with jobs.sync:
        leaf.enqueue_sync()
        jobs.sync.enqueue(leaf.request())
    assert [kinds for kinds, _ in stamp.seen] == [["leaf"], ["leaf"]]


async def test_an_included_registry_has_the_hook_above_it_or_its_own():
    """The nearest hook counts, as with routers."""
    above, own = Stamp("above"), Stamp("own")
    jobs, plain, special = JobRegistry("memory://", on_enqueue=above), JobRegistry(), JobRegistry(on_enqueue=own)

    @plain.register(name="plain")
    async def of_plain(): ...

    @special.register(name="special")
    async def of_special(): ...

    jobs.include(plain)
    jobs.include(special)
    async with jobs:
        assert await headers(jobs, (await of_plain.enqueue()).id) == {"above": "x"}
        assert await headers(jobs, (await of_special.enqueue()).id) == {"own": "x"}


async def test_what_the_hook_and_the_store_raise_reaches_the_caller():
    """Q13: a refusal of either is the caller's, and nothing was written."""

    async def closed(requests, send):
        raise PermissionError("not now")

    jobs = JobRegistry("memory://", on_enqueue=closed)

    @jobs.register(name="leaf")
    async def leaf(): ...

    async with jobs:
        with pytest.raises(PermissionError, match="not now"):
            await leaf.enqueue()
        assert not (await jobs.storage.jobs.list()).jobs
    jobs = JobRegistry("memory://", on_enqueue=Stamp())
    async with jobs:
        with pytest.raises(InvalidRequest):
            await jobs.enqueue(EnqueueRequest("leaf", depends_on=["nobody"]))
