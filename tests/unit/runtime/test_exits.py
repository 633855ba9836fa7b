"""W2, Q4, Q14: whatever a handler does, its job ends as it should and the loop lives on."""

from __future__ import annotations

import asyncio
import logging
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.queue import EnqueueRequest, JobState
from workerctx.service import JobCtx

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.queue import Constant
    from workerctx.runtime import WorkerLoop
    from workerctx.service import JobRegistry


class Odd(BaseException):
    """A BaseException of nobody's acquaintance."""


class Unprintable(Exception):
    """Cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


async def leave_by_exception() -> None:
    raise KeyError("missing")


async def leave_by_sys_exit() -> None:
    sys.exit(3)


async def leave_by_base_exception() -> None:
    raise Odd("strange")


async def leave_by_generator_exit() -> None:
    raise GeneratorExit


async def leave_by_stop_iteration() -> None:
    raise StopIteration


async def leave_by_stop_async_iteration() -> None:
    raise StopAsyncIteration


async def leave_by_group() -> None:
    raise BaseExceptionGroup("several", [KeyError("one"), SystemExit(2)])


async def leave_by_task_group() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave_by_exception)


async def leave_by_cancellation_error() -> None:
    raise anyio.get_cancelled_exc_class() if anyio.get_cancelled_exc_class() is asyncio.CancelledError else Odd("trio")


async def leave_by_native_cancel() -> None:
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)
    raise Odd("trio has no such thing")


async def leave_by_awaiting_the_cancelled() -> None:
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
    raise Odd("trio has no such thing")


async def leave_garbage() -> object:
    return object()


async def leave_unprintable_garbage() -> object:
    return type("Garbage", (), {"__repr__": lambda _: 1 / 0})()


async def leave_text_that_is_not_unicode() -> object:
    return "\udcff"


async def leave_by_unprintable() -> None:
    raise Unprintable


async def leave_by_surrogates() -> None:
    raise OSError("cannot read 'caf\udce9\x00'")


async def leave_by_recursion() -> None:
    await leave_by_recursion()


async def leave_by_timeout_of_its_own() -> None:
    with anyio.fail_after(0):
        await anyio.sleep(1)


EXITS = [value for name, value in sorted(globals().items()) if name.startswith("leave_")]


@pytest.mark.parametrize("leave", EXITS, ids=lambda function: function.__name__)
async def test_any_way_out_fails_the_job_and_nothing_else(
    jobs: JobRegistry,
    burst: Callable[..., Awaitable[WorkerLoop]],
    fetch: Any,
    leave: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """W2: a handler that leaves in any way fails its job, with a reason; the slot and the loop go on."""
    if leave is leave_by_surrogates:  # the report of a test that runs in parallel must be Unicode
        caplog.set_level(logging.CRITICAL, "workerctx")
    handler = jobs.register(max_attempts=1, name="bad")(leave)

    @jobs.register
    async def good(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return number

    bad = await handler.enqueue()
    others = [await good.enqueue(number) for number in range(3)]
    loop = await burst(concurrency=1)
    job = await fetch(bad)
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert job.error.kind
    assert job.error.message
    assert (job.attempt, job.deliveries) == (1, 1)
    assert [(await fetch(other)).result for other in others] == [0, 1, 2]
    assert loop.context.failure is None


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        SystemExit(3),
        Odd("strange"),
        GeneratorExit(),
        StopIteration(1),
        StopAsyncIteration(),
        Unprintable(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_same_from_a_thread(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any, error: BaseException
) -> None:
    """W2: what a sync handler leaves with fails its job and nothing else."""

    @jobs.register(max_attempts=1)
    def bad() -> None:
        raise error

    @jobs.register
    def good(number: int) -> int:
        return number

    first = await bad.enqueue()
    second = await good.enqueue(7)
    loop = await burst(concurrency=1)
    job = await fetch(first)
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert (await fetch(second)).result == 7
    assert loop.context.failure is None


async def test_a_native_cancel_left_pending_hits_nobody_else(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W2: a handler that cancels its own task and returns before that arrives does not fail the job after it."""

    @jobs.register(max_attempts=1)
    async def sly() -> str:
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return "done"

    @jobs.register(max_attempts=1)
    async def good(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return number

    first = await sly.enqueue()
    others = [await good.enqueue(number) for number in range(3)]
    await burst(concurrency=1)
    assert (await fetch(first)).result == "done"
    assert [(await fetch(other)).state for other in others] == [JobState.SUCCEEDED] * 3


async def test_an_idle_slot_that_is_cancelled_from_elsewhere_fails_the_loop(
    jobs: JobRegistry, make_loop: Callable[..., WorkerLoop], eventually: Any, anyio_backend: str
) -> None:
    """W2: a slot that ends while the loop runs fails the loop, visibly; only asyncio can do that to a task."""

    @jobs.register
    async def nothing() -> None:
        pass

    loop = make_loop()
    failed = False
    try:
        with anyio.fail_after(10):
            async with loop:
                handle = await nothing.enqueue()
                await handle.result(timeout=5)
                if anyio_backend == "trio":
                    return
                slots = [task for task in asyncio.all_tasks() if task.get_name().startswith("slot ")]
                assert len(slots) == 4
                slots[0].cancel()
                await loop.context.wait_stopping()
    except Exception as exc:
        failed = True
        assert "was cancelled while it waited for a job" in str(exc)
    assert failed
    assert loop.context.outcome is not None
    assert loop.context.outcome.value == "failed"


async def test_a_cancellation_of_its_own_scope_is_the_handlers_business(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W2: a handler that cancels a scope of its own and goes on succeeds."""

    @jobs.register(max_attempts=1)
    async def careful() -> str:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(10)
        return "done"

    handle = await careful.enqueue()
    await burst()
    assert (await fetch(handle)).result == "done"


async def test_context_variables_do_not_reach_the_next_job(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W2: what a handler sets in a context variable and forgets is not seen by the job after it."""
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen: list[str] = []

    @jobs.register
    async def forgetful(name: str) -> None:
        seen.append(who.get())
        who.set(name)
        await anyio.lowlevel.checkpoint()

    for name in ("ann", "bob", "cid"):
        await forgetful.enqueue(name)
    await burst(concurrency=1)
    assert seen == ["nobody"] * 3


@pytest.mark.parametrize("returned", [False, True], ids=["raised", "returned"])
@pytest.mark.parametrize(
    ("verdict", "state", "attempt", "delay"),
    [
        (Abort("hopeless"), JobState.DEAD, 1, None),
        (RetryAfter(3600), JobState.SCHEDULED, 1, 3600),
        (Snooze(3600), JobState.SCHEDULED, 0, 3600),
        (Throttled(3600), JobState.SCHEDULED, 0, 3600),
    ],
    ids=["Abort", "RetryAfter", "Snooze", "Throttled"],
)
async def test_verdicts(
    jobs: JobRegistry,
    burst: Callable[..., Awaitable[WorkerLoop]],
    fetch: Any,
    verdict: Exception,
    state: JobState,
    attempt: int,
    delay: float | None,
    returned: bool,
) -> None:
    """Q4: Abort, RetryAfter, Snooze and Throttled mean the same raised and returned."""

    @jobs.register(max_attempts=3)
    async def judge() -> object:
        if returned:
            return verdict
        raise verdict

    handle = await judge.enqueue()
    await burst()
    job = await fetch(handle)
    assert (job.state, job.attempt) == (state, attempt)
    if delay is not None:
        assert job.run_at == pytest.approx(await jobs.storage.now() + delay, abs=30)


async def test_a_throttle_with_a_scope_drains_the_limit(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]]
) -> None:
    """Q4: Throttled with a scope empties that limit for everybody."""
    await jobs.storage.rate_limits.configure("api", capacity=5, per=1.0)

    @jobs.register
    async def call() -> None:
        raise Throttled(3600, "api")

    await call.enqueue()
    await burst()
    answer = await jobs.storage.rate_limits.acquire("api")
    assert isinstance(answer, Throttled)
    assert answer.retry_after > 1000


def odd(verdict: Any, **attributes: object) -> Any:
    """A verdict that somebody has changed."""
    vars(verdict).update(attributes)
    return verdict


@pytest.mark.parametrize(
    "verdict",
    [
        RetryAfter(float("nan")),
        Snooze(-5),
        Throttled(float("inf")),
        Throttled(1, "nobody configured this"),
        Throttled(1, "caf\udce9"),
        odd(Snooze(1), seconds="soon"),
        odd(RetryAfter(1), seconds=1j),
    ],
    ids=["nan", "negative", "infinite", "unknown scope", "no name", "no number", "no real number"],
)
async def test_a_verdict_that_makes_no_sense_fails_the_job_at_once(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any, verdict: Exception
) -> None:
    """Q4: a verdict that the store refuses is a failure with the reason; the job is not left hanging in its lease."""

    @jobs.register(max_attempts=1)
    async def confused() -> None:
        raise verdict

    handle = await confused.enqueue()
    await burst()
    job = await fetch(handle)
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert job.error.kind in {"InvalidRequest", "UnknownScope"}


async def test_what_a_verdict_says_is_a_number(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W2: a wait may be any kind of number, and holds up nothing but its job."""

    @jobs.register
    async def patient() -> None:
        raise Snooze(cast("float", Decimal(3600)))

    @jobs.register
    async def other() -> None: ...

    put_off, done = await patient.enqueue(), await other.enqueue()
    await burst()
    assert (await fetch(put_off)).state is JobState.SCHEDULED
    assert (await fetch(done)).state is JobState.SUCCEEDED


async def test_an_exception_that_exits_when_it_is_printed(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W2: whatever an exception does when it is described, its job has failed, and the worker goes on."""

    class Leaving(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

    @jobs.register(max_attempts=1)
    async def leave() -> None:
        raise Leaving

    handle = await leave.enqueue()
    await burst()
    job = await fetch(handle)
    assert job.state is JobState.DEAD
    assert "which cannot be printed" in str(job.error)


async def test_any_other_exception_follows_the_retry_policy(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any, at_once: Constant
) -> None:
    """Q3: max_attempts counts runs, the first included; each failure is remembered."""
    attempts: list[int] = []

    @jobs.register(max_attempts=3, retry=at_once)
    async def flaky(ctx: JobCtx) -> None:
        attempts.append(ctx.attempt)
        raise ValueError(f"number {ctx.attempt}")

    handle = await flaky.enqueue()
    await burst()
    job = await fetch(handle)
    assert attempts == [1, 2, 3]
    assert (job.state, job.attempt) == (JobState.DEAD, 3)
    assert [entry.error.message for entry in job.error_history] == ["number 1", "number 2", "number 3"]
    assert "raise ValueError" in str(job.error.traceback)


async def test_long_tracebacks_and_messages_are_cut(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """A failure of any size is stored in a sensible one."""

    @jobs.register(max_attempts=1)
    async def verbose() -> None:
        raise ValueError("x" * 10_000_000)

    handle = await verbose.enqueue()
    await burst()
    job = await fetch(handle)
    assert job.state is JobState.DEAD
    assert len(job.error.message) < 5000
    assert len(job.error.traceback) < 20_000


async def test_an_undecodable_payload_is_dead_with_the_reason(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """Q14: a payload that does not fit the handler is dead at once, and the handler never ran."""
    ran = False

    @jobs.register(max_attempts=5)
    async def add(left: int, right: int) -> int:
        nonlocal ran
        ran = True
        return left + right

    handle = await jobs.enqueue(EnqueueRequest(add.kind, {"left": "one"}, max_attempts=5))
    await burst()
    job = await fetch(handle)
    assert (job.state, job.attempt) == (JobState.DEAD, 1)
    assert job.error.kind == "UndecodablePayload"
    assert not ran


async def test_a_timeout_ends_the_run_and_counts(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W2: a handler that hits its timeout is cancelled, fails with that reason, and the loop goes on."""
    left = anyio.Event()

    @jobs.register(max_attempts=1, timeout=0.05)
    async def slow() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            left.set()

    handle = await slow.enqueue()
    await burst()
    job = await fetch(handle)
    assert left.is_set()
    assert (job.state, job.attempt) == (JobState.DEAD, 1)
    assert job.error.kind == "TimeoutError"
    assert "0.05 seconds" in job.error.message


async def test_a_handler_that_finishes_despite_its_timeout_succeeds(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """W2: a handler that catches the cancellation and returns has a result, which is not wasted."""

    @jobs.register(max_attempts=1, timeout=0.05)
    async def stubborn() -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
        return "done"

    handle = await stubborn.enqueue()
    await burst()
    assert (await fetch(handle)).result == "done"
