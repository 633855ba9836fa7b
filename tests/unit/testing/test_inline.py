"""Inline: jobs run at once, where they are enqueued."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from workerctx import JobCtx, JobRegistry, JobState, WorkerContext, injected
from workerctx.errors import JobFailed, RegistryInUse, Snooze
from workerctx.queue import EnqueueRequest
from workerctx.testing import assert_enqueued, inline


class Mailer:
    """What a handler has injected."""

    def __init__(self) -> None:
        self.sent: list[str] = []


@pytest.fixture
def jobs():
    """A registry whose own store is never reached."""
    return JobRegistry("nosuch://store")


async def test_a_job_runs_before_enqueue_returns(jobs):
    """A handler gets its arguments and its context, and the result is there."""

    @jobs.register(name="resize")
    async def resize(ctx: JobCtx, path: str, width: int = 256) -> str:
        return f"{path} at {width}, attempt {ctx.attempt}"

    with inline(jobs):
        async with jobs:
            handle = await resize.enqueue("cat.jpg", width=128)
            assert await handle.status() is JobState.SUCCEEDED
            assert await handle.result() == "cat.jpg at 128, attempt 1"


async def test_a_failure_is_raised_where_the_job_was_enqueued(jobs):
    """The exception of the handler leaves `enqueue` as it is, and the job is dead."""

    @jobs.register(name="explode")
    async def explode() -> None:
        raise ZeroDivisionError("by nought")

    with inline(jobs):
        async with jobs:
            with pytest.raises(ZeroDivisionError, match="by nought"):
                await explode.enqueue()
            (job,) = (await jobs.storage.jobs.list(kind="explode")).jobs
            assert job.state is JobState.DEAD
            with pytest.raises(JobFailed, match="by nought"):
                await jobs.handle(job.id).result()


@pytest.mark.parametrize("returned", [True, False])
async def test_a_verdict_is_raised_too(jobs, returned):
    """`Snooze` and its kind surface, raised or returned."""

    @jobs.register(name="later")
    async def later() -> object:
        if returned:
            return Snooze(5)
        raise Snooze(5)

    with inline(jobs):
        async with jobs:
            with pytest.raises(Snooze):
                await later.enqueue()


async def test_layers_and_injection_are_those_of_a_worker():
    """A job goes through the layers, and gets what is injected, its worker among it."""
    seen = []

    async def layer(request, call_next):
        seen.append(request.kind)
        return await call_next(request)

    jobs = JobRegistry("nosuch://store", layers=[layer])

    @jobs.register(name="greet")
    async def greet(ctx: JobCtx, worker: WorkerContext, name: str, *, mailer: Mailer = injected()) -> None:
        assert worker.is_running
        assert ctx.worker is worker
        ctx.progress(1, 2)
        mailer.sent.append(name)

    mailer = Mailer()
    with inline(jobs, data={Mailer: mailer}):
        async with jobs:
            handle = await greet.enqueue("Ann")
            assert (await handle.get()).progress == {"done": 1, "total": 2}
    assert (seen, mailer.sent) == (["greet"], ["Ann"])


async def test_a_job_enqueued_by_a_job_runs_at_once(jobs):
    """Nested jobs run inside the job that enqueues them, and both are noted."""
    order = []

    @jobs.register(name="inner")
    async def inner() -> None:
        order.append("inner")

    @jobs.register(name="outer")
    async def outer(ctx: JobCtx) -> None:
        await ctx.enqueue(inner.request().with_options(delay=3600))
        order.append("outer")

    with inline(jobs):
        async with jobs:
            await outer.enqueue()
        assert [request.delay for request in assert_enqueued(jobs, inner)] == [3600.0]
    assert order == ["inner", "outer"]


async def test_sync_handlers(jobs):
    """A handler in a thread runs at once, enqueues at once, and fails at once."""

    @jobs.register(name="leaf")
    def leaf(number: int) -> int:
        return 10 // number

    @jobs.register(name="root")
    def root(number: int) -> int:
        return leaf.enqueue_sync(number).result()

    with inline(jobs):
        async with jobs:
            assert await (await root.enqueue(2)).result() == 5
            with pytest.raises(ZeroDivisionError):
                await root.enqueue(0)


def test_a_script_without_an_event_loop(jobs):
    """Plain sync code meets results and failures at once."""

    @jobs.register(name="divide")
    async def divide(number: int) -> int:
        return 10 // number

    with inline(jobs), jobs.sync:
        assert divide.enqueue_sync(5).result() == 2
        assert jobs.sync.handle(jobs.sync.enqueue(divide.request(2)).id).result() == 5
        with pytest.raises(ZeroDivisionError):
            divide.enqueue_sync(0)


async def test_a_workflow_runs_in_its_order(jobs):
    """Jobs that wait for others run when those have ended, with their results."""

    @jobs.register(name="number")
    async def number(value: int) -> int:
        return value

    @jobs.register(name="total")
    async def total(ctx: JobCtx) -> int:
        return sum(ctx.upstream_outputs.values())

    with inline(jobs):
        async with jobs:
            parents = await jobs.enqueue_bulk([number.request(n).with_options(queue=f"q{n}") for n in (1, 2)])
            last = total.request().with_options(depends_on=[parent.id for parent in parents], required_labels=["gpu"])
            outcome = await jobs.enqueue(last)
            assert await jobs.handle(outcome.id).result(timeout=0) == 3


async def test_side_by_side_each_caller_gets_its_own_failure(jobs):
    """Tasks that enqueue at the same time meet the exceptions of their own jobs only."""

    @jobs.register(name="fail")
    async def fail(number: int) -> None:
        await anyio.sleep(0.001)
        raise ValueError(number)

    async def expect(number: int) -> None:
        with pytest.raises(ValueError, match=f"^{number}$"):
            await fail.enqueue(number)

    with inline(jobs):
        async with jobs, anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(expect, number)


async def test_after_a_failure_in_a_batch_the_rest_waits(jobs):
    """The jobs behind a failed one in a batch are given back."""

    @jobs.register(name="even")
    async def even(number: int) -> None:
        if number % 2:
            raise ValueError(number)

    with inline(jobs):
        async with jobs:
            with pytest.raises(ValueError, match="1"):
                await jobs.enqueue_bulk([even.request(number) for number in range(4)])
            counts = await jobs.storage.jobs.counts()
            assert (counts[JobState.SUCCEEDED], counts[JobState.DEAD], counts[JobState.QUEUED]) == (1, 1, 2)


async def test_a_cancelled_caller_leaves_no_running_job(jobs):
    """A job whose caller is cancelled is over."""

    @jobs.register(name="endless")
    async def endless() -> None:
        await anyio.sleep_forever()

    with inline(jobs):
        async with jobs:
            with anyio.move_on_after(0.01) as scope:
                await endless.enqueue()
            assert scope.cancelled_caught
            assert (await jobs.storage.jobs.counts())[JobState.RUNNING] == 0


async def test_the_timeout_of_a_job_holds(jobs, virtual_time):
    """A handler that takes longer than its timeout is cancelled."""

    @jobs.register(name="slow", timeout=5)
    async def slow() -> None:
        await anyio.sleep(3600)

    virtual_time()
    with inline(jobs):
        async with jobs:
            with pytest.raises(TimeoutError):
                await slow.enqueue()
    assert virtual_time() < 3600


async def test_tenants_have_their_scope(jobs):
    """W9: the job of a tenant runs inside the tenant's scope."""
    scopes = []

    @asynccontextmanager
    async def scope(tenant_id: str):
        scopes.append(tenant_id)
        yield
        scopes.append("left")

    @jobs.register(name="work")
    async def work() -> None:
        scopes.append("run")

    with inline(jobs, tenant_scope=scope):
        async with jobs:
            await work.with_options(tenant_id="acme").enqueue()
            await work.enqueue()
    assert scopes == ["acme", "run", "left", "run"]


async def test_kinds_of_others_are_left_alone(jobs):
    """A job that has no handler here waits, as it would in production."""

    @jobs.register(name="mine")
    async def mine() -> None: ...

    with inline(jobs):
        async with jobs:
            outcome = await jobs.enqueue(EnqueueRequest("theirs"))
            await mine.enqueue()
            assert await jobs.handle(outcome.id).status() is JobState.QUEUED


async def test_an_open_registry_is_refused():
    """A mode begins before the registry is opened; afterwards everything is as before."""
    jobs = JobRegistry("memory://")
    store = jobs.branch.store
    async with jobs:
        with pytest.raises(RegistryInUse):
            with inline(jobs):
                pass
    assert jobs.branch.store is store
    assert jobs.url == "memory://"
