"""Decision 14 for type checkers: what enqueueing, requesting and calling a handler look like. Read, never run."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import Annotated, Any, assert_type

from workerctx.lifecycle import WorkerContext
from workerctx.queue import EnqueueOutcome, EnqueueRequest, JobHandle, JobState
from workerctx.remote import RemoteConfig, Worker
from workerctx.service import (
    From,
    JobCtx,
    JobHandler,
    JobRegistry,
    ProcessCtx,
    SyncJobHandle,
    TypedJobHandle,
    injected,
)

jobs = JobRegistry("memory://")


class DB:
    """Something to inject."""


def get_db() -> DB:
    """Provide it."""
    return DB()


@jobs.register
async def plain(path: str, width: int = 256) -> str:
    """Neither context."""
    return f"{path}{width}"


@jobs.register(max_attempts=5, timeout=timedelta(seconds=30), queue="images", aliases=["old"], name="resize")
async def with_job(ctx: JobCtx, path: str, width: int = 256) -> bytes:
    """A leading JobCtx, and options."""
    return f"{ctx.job_id}{path}{width}".encode()


@jobs.register
async def with_worker(ctx: WorkerContext, path: str) -> int:
    """A leading WorkerContext."""
    return len(path) + ctx.task_count


@jobs.register()
async def with_both(job: JobCtx, worker: WorkerContext, path: str) -> None:
    """Both, and a decorator called without options."""


@jobs.register
def in_thread(path: str, *, times: int = 1) -> list[str]:
    """Sync, neither context."""
    return [path] * times


@jobs.register(queue="images")
def in_thread_with_job(ctx: JobCtx, path: str) -> float:
    """Sync, a leading JobCtx, and options."""
    return ctx.deadline + len(path)


@jobs.register
def in_thread_with_worker(ctx: WorkerContext, count: int) -> bool:
    """Sync, a leading WorkerContext."""
    return ctx.task_count > count


@jobs.register
def in_thread_with_both(ctx: JobCtx, worker: WorkerContext, count: int) -> str:
    """Sync, both."""
    return f"{ctx}{worker}{count}"


@jobs.register(executor="process", timeout=60)
def in_process(path: str, width: int = 256) -> bytes:
    """In a process of its own, no context."""
    return f"{path}{width}".encode()


@jobs.register(executor="process")
def in_process_with_ctx(ctx: ProcessCtx, path: str) -> int:
    """In a process of its own, a leading ProcessCtx."""
    ctx.progress(len(path), 3)
    return ctx.attempt


@jobs.register
async def with_injection(ctx: JobCtx, path: str, *, db: Annotated[DB, From(get_db)] = injected()) -> DB:
    """An injected parameter."""
    assert path and ctx
    return db


@jobs.register
def indirect(path: str) -> Awaitable[str]:
    """Sync by its form, but it returns an awaitable of its result."""
    return plain(path)


async def enqueueing() -> None:
    """`enqueue` takes the arguments that the job carries, without the contexts."""
    assert_type(await plain.enqueue("cat.jpg"), TypedJobHandle[str])
    assert_type(await plain.enqueue("cat.jpg", 128), TypedJobHandle[str])
    assert_type(await plain.enqueue(path="cat.jpg", width=128), TypedJobHandle[str])
    assert_type(await with_job.enqueue("cat.jpg", width=128), TypedJobHandle[bytes])
    assert_type(await with_worker.enqueue("cat.jpg"), TypedJobHandle[int])
    assert_type(await with_both.enqueue("cat.jpg"), TypedJobHandle[None])
    assert_type(await in_process.enqueue("cat.jpg", width=128), TypedJobHandle[bytes])
    assert_type(await in_process_with_ctx.enqueue("cat.jpg"), TypedJobHandle[int])
    assert_type(in_process_with_ctx(ProcessCtx("1"), "cat.jpg"), int)
    assert_type(await in_thread.enqueue("cat.jpg", times=2), TypedJobHandle[list[str]])
    assert_type(await in_thread_with_job.enqueue("cat.jpg"), TypedJobHandle[float])
    assert_type(await in_thread_with_worker.enqueue(3), TypedJobHandle[bool])
    assert_type(await in_thread_with_both.enqueue(3), TypedJobHandle[str])
    assert_type(await with_injection.enqueue("cat.jpg"), TypedJobHandle[DB])
    assert_type(await indirect.enqueue("cat.jpg"), TypedJobHandle[str])


async def handles() -> None:
    """A handle knows the type of the result."""
    handle = await with_job.enqueue("cat.jpg")
    untyped: JobHandle = handle
    assert untyped
    assert_type(handle.id, str)
    assert_type(handle.deduped, bool)
    assert_type(await handle.result(timeout=5), bytes)
    assert_type(await handle.status(), JobState)
    assert_type(await handle.cancel(), bool)
    assert_type(jobs.handle("1"), JobHandle)


async def requests() -> None:
    """A request has the handler's arguments, options follow, and outcomes come back."""
    request = with_job.request("dog.jpg").with_options(delay=60, priority=5, unique_key="dog", queue="images")
    assert_type(request, EnqueueRequest)
    outcomes = await jobs.enqueue_bulk([request, plain.request("cat.jpg", width=3)])
    assert_type(outcomes[0], EnqueueOutcome)
    assert_type(await jobs.enqueue(request), EnqueueOutcome)
    assert_type(await with_job.with_options(delay=60).enqueue("cat.jpg", width=2), TypedJobHandle[bytes])


def sync_code() -> None:
    """The blocking forms have the same arguments."""
    with jobs.sync:
        assert_type(plain.enqueue_sync("cat.jpg", width=128), SyncJobHandle[str])
        assert_type(plain.enqueue_sync("cat.jpg").result(timeout=5), str)
        assert_type(jobs.sync.enqueue(plain.request("cat.jpg")), EnqueueOutcome)


async def calling(ctx: JobCtx, worker: WorkerContext) -> None:
    """Calling a handler is calling its function, with the full signature."""
    assert_type(await plain("cat.jpg", 128), str)
    assert_type(await with_job(ctx, "cat.jpg", width=2), bytes)
    assert_type(await with_worker(worker, "cat.jpg"), int)
    await with_both(ctx, worker, "cat.jpg")
    assert_type(in_thread("cat.jpg", times=2), list[str])
    assert_type(in_thread_with_job(ctx, "cat.jpg"), float)
    assert_type(in_thread_with_worker(worker, 3), bool)
    assert_type(in_thread_with_both(ctx, worker, 3), str)
    assert_type(await with_injection(ctx, "cat.jpg", db=DB()), DB)


def takes_any_handler(handler: JobHandler[..., Any]) -> str:
    """A function may ask for any handler."""
    return handler.kind


takes_any_handler(plain)
takes_any_handler(in_thread_with_both)

builder = Worker.builder(RemoteConfig(endpoint="wss://jobs.example.com/workers", credentials="token", labels="a,b"))
assert_type(builder.register(plain, in_thread_with_both).register(jobs).build(), Worker)


async def refused(ctx: JobCtx, worker: WorkerContext) -> None:
    """What a type checker must find; an ignore that is no longer needed is itself an error."""
    await plain.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await plain.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await plain.enqueue("cat.jpg", widht=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await plain.enqueue("cat.jpg", 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await with_job.enqueue(ctx, "cat.jpg")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await with_worker.enqueue(worker, "cat.jpg")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await in_process_with_ctx.enqueue(ProcessCtx("1"), "a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    jobs.register(executor="thread")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await in_thread.enqueue("cat.jpg", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with_job.request("cat.jpg", width="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with_job.enqueue_sync(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with_job.request("a").with_options(dealy=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with_job.with_options(queue=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await with_job("cat.jpg")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await with_both(worker, ctx, "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    jobs.register(max_attemps=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    jobs.register("resize")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    result: int = await (await plain.enqueue("a")).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert result
