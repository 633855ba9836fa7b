"""W7, W9: what a handler gets from the loop that runs it."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.lifecycle import Error, Success, WorkerContext
from workerctx.queue import CancelReason, EnqueueRequest, JobState, Storage
from workerctx.service import From, JobCtx, injected
from workerctx.service.router import DefaultRouter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from workerctx.runtime import WorkerLoop
    from workerctx.service import JobRegistry


async def test_what_a_run_knows_of_itself(jobs: JobRegistry, make_loop: Callable[..., WorkerLoop]) -> None:
    """W7: ids, attempt, store, worker and limits are those of the loop and the job."""
    seen: dict[str, Any] = {}

    @jobs.register(timeout=30)
    async def look(ctx: JobCtx) -> None:
        seen.update(
            process_id=ctx.process_id,
            host_id=ctx.host_id,
            job_id=ctx.job_id,
            attempt=ctx.attempt,
            worker=ctx.worker,
            storage=ctx.storage,
            limits=ctx.rate_limit,
            left=ctx.deadline - anyio.current_time(),
            cancelled=ctx.cancel.is_set(),
            stopping=ctx.stopping,
            router=ctx.router,
            queue=ctx.queue,
        )

    handle = await jobs.enqueue(look.request().with_options(queue="mail"))
    loop = make_loop(concurrency=1, queues=("mail",))
    with anyio.fail_after(10):
        await loop.drain()
    assert seen["process_id"].startswith("mail-")
    assert seen["process_id"].endswith(f"-{loop.host_id}")
    assert seen["process_id"].removeprefix("mail-").removesuffix(f"-{loop.host_id}").isdigit()
    assert (seen["host_id"], seen["job_id"], seen["attempt"]) == (loop.host_id, handle.id, 1)
    assert seen["worker"] is loop.context
    assert seen["storage"] is jobs.storage
    assert 0 < seen["left"] <= 30
    assert (seen["cancelled"], seen["stopping"]) == (False, False)
    assert isinstance(seen["router"], DefaultRouter)


async def test_loops_of_one_process_share_its_host_id_and_no_process_id(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], serving: Any, eventually: Any
) -> None:
    """W7: a host id names a boot of the process; a process id names one slot of one loop in it."""
    seen: list[str] = []
    gate = anyio.Event()

    @jobs.register
    async def wait(ctx: JobCtx) -> None:
        seen.append(ctx.process_id)
        await gate.wait()

    async with serving(concurrency=2) as first, serving(concurrency=2) as second:
        for _ in range(4):
            await wait.enqueue()
        await eventually(lambda: len(seen) == 4)
        assert first.host_id == second.host_id
        assert len(set(seen)) == 4
        gate.set()


async def test_progress_is_stored_while_the_job_runs(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any
) -> None:
    """W7: the newest progress is in the store soon, however often it is reported, from any thread."""
    gate = threading.Event()

    @jobs.register
    def work(ctx: JobCtx) -> None:
        for done in range(1001):
            ctx.progress(done, 1000)
        gate.wait(20)

    handle = await work.enqueue()
    async with serving():

        async def stored() -> bool:
            return (await fetch(handle)).progress == {"done": 1000, "total": 1000}

        try:
            await eventually(stored)
        finally:
            gate.set()


async def test_progress_that_cannot_be_stored_harms_nobody(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, fetch: Any, caplog: Any
) -> None:
    """W7: progress that is no JSON is logged, and the job and the loop go on."""
    gate = anyio.Event()

    @jobs.register
    async def work(ctx: JobCtx) -> str:
        ctx.progress(object())  # type: ignore[arg-type]
        await gate.wait()
        return "done"

    handle = await work.enqueue()
    async with serving() as loop:
        await eventually(lambda: "progress" in caplog.text)
        gate.set()
        assert await handle.result(timeout=5) == "done"
        assert loop.context.failure is None


async def test_follow_up_jobs_are_routed_and_inherit(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W7: a handler's `ctx.enqueue` routes, and hands on tenant, workflow and trace headers."""
    from workerctx.service import JobRegistry as Registry

    made: list[Any] = []
    routed = Registry(router=lambda kind: "video" if kind.startswith("video.") else "default")

    @routed.register
    async def parent(ctx: JobCtx) -> None:
        made.append(await ctx.enqueue(EnqueueRequest("video.child", None)))
        made.extend(await ctx.enqueue_bulk([EnqueueRequest("other", None, tenant_id="b")]))

    async with routed_on(routed, jobs) as registry:
        await registry.enqueue(
            parent.request().with_options(tenant_id="a", workflow_id="w", headers={"traceparent": "00-1", "x": "y"})
        )
        from workerctx.runtime import WorkerConfig, WorkerLoop

        with anyio.fail_after(10):
            await WorkerLoop(registry, WorkerConfig()).drain()
        child = await registry.storage.jobs.get(made[0].id)
        other = await registry.storage.jobs.get(made[1].id)
    assert (child.queue, child.tenant_id, child.workflow_id) == ("video", "a", "w")
    assert child.headers == {"traceparent": "00-1"}
    assert (other.queue, other.tenant_id, other.workflow_id) == ("default", "b", "w")


@asynccontextmanager
async def routed_on(registry: JobRegistry, like: JobRegistry) -> AsyncGenerator[JobRegistry]:
    """Open a registry of its own on a store of the same kind."""
    url = like.url if like.url.startswith("memory") else like.url.replace("jobs.db", "routed.db")
    with registry.override(url):
        async with registry:
            yield registry


async def test_a_handler_in_a_thread_can_enqueue(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any, count: Any
) -> None:
    """W7: a sync handler uses `ctx.sync` and `enqueue_sync` from its thread."""

    @jobs.register
    def child() -> str:
        return threading.current_thread().name

    @jobs.register
    def parent(ctx: JobCtx) -> list[str]:
        return [ctx.sync.enqueue(child.request()).id, child.enqueue_sync().id]

    handle = await parent.enqueue()
    await burst()
    assert await count(JobState.SUCCEEDED) == 3
    for child_id in (await fetch(handle)).result:
        job = await jobs.storage.jobs.get(child_id)
        assert job.result != threading.main_thread().name


async def test_injection(jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], fetch: Any) -> None:
    """W7: handlers get values of the loop by type, the worker's context, and what providers make."""
    from typing import Annotated

    class Settings:
        name = "settings"

    def connection(settings: Settings) -> str:
        return f"connection of {settings.name}"

    @jobs.register
    async def use(
        ctx: JobCtx,
        worker: WorkerContext,
        number: int,
        *,
        db: Annotated[str, From(connection)] = injected(),
        store: Storage = injected(),
    ) -> list[object]:
        return [db, worker is ctx.worker, store is ctx.storage, number]

    handle = await use.enqueue(4)
    with anyio.fail_after(10):
        await make_loop(data={Settings: Settings()}).drain()
    job = await fetch(handle)
    assert job.error is None, job.error
    assert job.result == ["connection of settings", True, True, 4]


async def test_events_carry_the_kind_of_the_job(jobs: JobRegistry, make_loop: Callable[..., WorkerLoop]) -> None:
    """L9: Success and Error are told once per run, by the kind of the job, sync handlers and layers or not."""
    from workerctx.service.layers import Trace

    seen: list[tuple[str, str]] = []

    @jobs.register(name="plain")
    async def plain() -> None:
        pass

    @jobs.register(name="threaded")
    def threaded() -> None:
        pass

    @jobs.register(name="layered", layers=[Trace()])
    async def layered() -> None:
        pass

    @jobs.register(name="failing", max_attempts=1)
    async def failing() -> None:
        raise KeyError("x")

    for handler in (plain, threaded, layered, failing):
        await handler.enqueue()
    loop = make_loop()
    loop.context.listen(lambda ctx, event: seen.append((type(event).__name__, event.name)), Success, Error)
    with anyio.fail_after(10):
        await loop.drain()
    jobs_seen = sorted(entry for entry in seen if not entry[1].startswith("slot"))
    assert jobs_seen == [("Error", "failing"), ("Success", "layered"), ("Success", "plain"), ("Success", "threaded")]


# Tenants ----------------------------------------------------------------------


async def test_a_tenants_job_runs_inside_the_tenants_scope(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], at_once: Any
) -> None:
    """W9: the scope is entered and left around every attempt; a job without a tenant runs outside of any."""
    seen: list[str] = []

    @asynccontextmanager
    async def tenant_scope(tenant_id: str) -> AsyncGenerator[None]:
        seen.append(f"enter {tenant_id}")
        try:
            yield
        finally:
            seen.append(f"leave {tenant_id}")

    @jobs.register(max_attempts=2, retry=at_once)
    async def work(ctx: JobCtx) -> None:
        seen.append(f"run {ctx.attempt} of {ctx.job.tenant_id}")
        if ctx.attempt == 1 and ctx.job.tenant_id:
            raise KeyError("first")

    await jobs.enqueue(work.request().with_options(tenant_id="acme"))
    with anyio.fail_after(10):
        await make_loop(tenant_scope=tenant_scope).drain()
    await work.enqueue()
    with anyio.fail_after(10):
        await make_loop(tenant_scope=tenant_scope).drain()
    assert seen == [
        "enter acme", "run 1 of acme", "leave acme",
        "enter acme", "run 2 of acme", "leave acme",
        "run 1 of None",
    ]  # fmt: skip


@pytest.mark.parametrize("moment", ["make", "enter", "leave"])
async def test_a_scope_that_fails_fails_the_job(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], fetch: Any, moment: str
) -> None:
    """W9: a provider that raises is an ordinary failure of that job."""

    @asynccontextmanager
    async def entered() -> AsyncGenerator[None]:
        if moment == "enter":
            raise LookupError("no such tenant")
        yield
        raise LookupError("no such tenant")

    def tenant_scope(tenant_id: str) -> Any:
        if moment == "make":
            raise LookupError("no such tenant")
        return entered()

    @jobs.register(max_attempts=1)
    async def work() -> None:
        pass

    handle = await jobs.enqueue(work.request().with_options(tenant_id="acme"))
    with anyio.fail_after(10):
        await make_loop(tenant_scope=tenant_scope).drain()
    job = await fetch(handle)
    assert (job.state, job.error.kind, job.error.message) == (JobState.DEAD, "LookupError", "no such tenant")


async def test_a_scope_that_swallows_the_failure_does_not_make_it_a_success(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], fetch: Any
) -> None:
    """W9: a provider that suppresses exceptions does not hide that the job failed, or why."""

    @asynccontextmanager
    async def tenant_scope(tenant_id: str) -> AsyncGenerator[None]:
        with suppress(KeyError):
            yield

    @jobs.register(max_attempts=1)
    async def work() -> None:
        raise KeyError("the reason")

    handle = await jobs.enqueue(work.request().with_options(tenant_id="acme"))
    with anyio.fail_after(10):
        await make_loop(tenant_scope=tenant_scope).drain()
    job = await fetch(handle)
    assert (job.state, job.error.kind) == (JobState.DEAD, "KeyError")


async def test_the_timeout_covers_the_tenants_scope(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], fetch: Any
) -> None:
    """W9: a scope that hangs is bounded by the job's timeout."""

    @asynccontextmanager
    async def tenant_scope(tenant_id: str) -> AsyncGenerator[None]:
        await anyio.sleep_forever()
        yield

    @jobs.register(max_attempts=1, timeout=0.05)
    async def work() -> None:
        pass

    handle = await jobs.enqueue(work.request().with_options(tenant_id="acme"))
    with anyio.fail_after(10):
        await make_loop(tenant_scope=tenant_scope).drain()
    assert (await fetch(handle)).error.kind == "TimeoutError"


# Threads ----------------------------------------------------------------------


async def test_sync_handlers_run_side_by_side_up_to_the_concurrency(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], count: Any
) -> None:
    """Sync handlers have a limiter of their own: as many threads as there are slots, whatever anyio's default is."""
    barrier = threading.Barrier(50)

    @jobs.register(max_attempts=1)
    def meet() -> int:
        return barrier.wait(timeout=10)

    await jobs.enqueue_bulk([meet.request() for _ in range(50)])
    await burst(concurrency=50)
    assert await count(JobState.SUCCEEDED) == 50


async def test_a_sync_handler_is_told_of_its_timeout(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W7: no scope reaches a thread, so `ctx.cancel` tells it that its time is over, and obeying fails the run."""
    told: list[CancelReason | None] = []

    @jobs.register(max_attempts=1, timeout=0.1)
    def slow(ctx: JobCtx) -> None:
        waiting = threading.Event()
        while not ctx.cancel.is_set():
            waiting.wait(0.005)
        told.append(ctx.cancel.reason)
        ctx.cancel.check()

    handle = await slow.enqueue()
    await burst()
    job = await fetch(handle)
    assert told == [CancelReason.TIMEOUT]
    assert (job.state, job.error.kind) == (JobState.DEAD, "TimeoutError")
