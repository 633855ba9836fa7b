"""Retry: several tries within one run."""

from __future__ import annotations

import anyio
import pytest

from workerctx.errors import (
    Abort,
    HandlerCrashed,
    HandlerTimeout,
    RetryAfter,
    RunCancelled,
    Snooze,
    Throttled,
)
from workerctx.lifecycle import WorkerContext
from workerctx.queue import CancelReason, Constant, Linear, QueuedJob
from workerctx.service import JobCtx, Request, Site, injected
from workerctx.service.layers import Catch, MapRequest, Retry, Timeout, Try

pytestmark = pytest.mark.usefixtures("virtual_time")

STEADY = Constant(base=1, jitter=False)


class Failing:
    """Fails some times, remembers when it was called, and then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.at: list[float] = []

    @property
    def calls(self) -> int:
        return len(self.at)

    @property
    def waits(self) -> list[float]:
        return [round(later - earlier, 6) for earlier, later in zip(self.at, self.at[1:], strict=False)]

    async def __call__(self, request: Request) -> str:
        self.at.append(anyio.current_time())
        await anyio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def request_in(site: Site) -> tuple[JobCtx, Request]:
    ctx = JobCtx(QueuedJob(id="1", kind="job", attempt=1), site)
    request = Request("job")
    request.data.insert(JobCtx, ctx)
    return ctx, request


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (1, 2), (3, 4)])
async def test_n_retries_are_n_plus_one_executions(retries, calls):
    """Item 24: `retries` counts what follows the first try; the error of the last one comes through."""
    errors = [ValueError(str(n)) for n in range(10)]
    failing = Failing(*errors)
    with pytest.raises(ValueError, match=str(calls - 1)) as caught:
        await Retry(retries, STEADY)(Request("job"), failing)
    assert failing.calls == calls
    assert caught.value is errors[calls - 1]


async def test_a_success_ends_the_tries():
    """What succeeds is not called again, and the waits follow the backoff."""
    failing = Failing(ValueError(), ValueError(), ValueError())
    assert await Retry(5, Linear(base=2, jitter=False))(Request("job"), failing) == "done"
    assert failing.waits == [2, 4, 6]


@pytest.mark.parametrize(
    "error",
    [
        Abort("no use"),
        Snooze(5),
        Throttled(5),
        HandlerCrashed("sys.exit"),
        RunCancelled("user"),
        ExceptionGroup("of a task group", [Abort("no use")]),
    ],
)
async def test_some_errors_are_final(error):
    """Item 24: no try follows Abort, a word of the handler's own about later, a crash, or a cancellation."""
    failing = Failing(error)
    with pytest.raises(type(error)) as caught:
        await Retry(5, STEADY)(Request("job"), failing)
    assert failing.calls == 1
    assert caught.value is error


async def test_a_predicate_chooses_the_errors():
    """Item 24: `retry_if` says for which errors another try is worth it."""
    failing = Failing(ValueError(), ExceptionGroup("g", [ValueError()]), KeyError())
    with pytest.raises(KeyError):
        await Retry(5, STEADY, retry_if=lambda error: isinstance(error, ValueError))(Request("job"), failing)
    assert failing.calls == 3


async def test_a_crash_can_be_made_retryable():
    """Item 27: a crash is not retried by default; a handler of `Catch` inside of the retry makes it so."""

    def exits(request: Request):
        calls.append(1)
        raise SystemExit(3)

    calls: list[int] = []
    catch = Catch()
    with pytest.raises(HandlerCrashed):
        await Retry(2, STEADY)(Request("job"), lambda request: catch(request, exits))
    assert len(calls) == 1
    catch = Catch(lambda request, error: OSError("crashed"))
    with pytest.raises(OSError, match="crashed"):
        await Retry(2, STEADY)(Request("job"), lambda request: catch(request, exits))
    assert len(calls) == 4


async def test_retry_after_has_its_own_word():
    """Item 25: `RetryAfter` decides how long to wait, and is a try like any other."""
    failing = Failing(RetryAfter(7), ValueError(), RetryAfter(9))
    with pytest.raises(RetryAfter):
        await Retry(2, STEADY)(Request("job"), failing)
    assert failing.waits == [7, 1]


async def test_a_verdict_that_is_returned_counts_as_raised(jobs, run):
    """Q4: a handler may return what it may raise; the layers see no difference."""
    calls: list[int] = []

    @jobs.register(name="job", layers=[Retry(2, STEADY)])
    async def job() -> object:
        calls.append(1)
        return RetryAfter(3) if len(calls) < 3 else Abort("enough")

    with pytest.raises(Abort, match="enough"):
        await run(job)
    assert len(calls) == 3


async def test_a_long_wait_is_left_to_the_store():
    """A wait beyond `max_wait` holds no slot: the run ends, and the store honours the same wait."""
    failing = Failing(RetryAfter(3600))
    with pytest.raises(RetryAfter) as caught:
        await Retry(5, STEADY, max_wait=60)(Request("job"), failing)
    assert caught.value.seconds == 3600
    assert failing.calls == 1
    assert await Retry(5, STEADY, max_wait=60)(Request("job"), Failing(RetryAfter(60))) == "done"


async def test_a_wait_that_the_timeout_would_end_is_not_begun(site):
    """The job fails with its own error at once instead of with a timeout later."""
    ctx, request = request_in(site)
    ctx.deadline = anyio.current_time() + 5
    began = anyio.current_time()
    with pytest.raises(ValueError, match="mine"):
        await Retry(5, Constant(base=10, jitter=False))(request, Failing(ValueError("mine")))
    assert anyio.current_time() == began
    with anyio.move_on_after(5) as scope:  # whoever stops the worker at some time is no timeout of the job
        ctx.deadline = anyio.current_time() + 100
        await Retry(5, Constant(base=10, jitter=False))(request, Failing(ValueError("mine")))
    assert scope.cancelled_caught


async def test_each_try_inside_of_a_retry_has_its_own_timeout():
    """Item 26: a timeout inside bounds each try, and is a failure like any other."""

    async def slow(request: Request):
        calls.append(1)
        await anyio.sleep_forever()

    calls: list[int] = []
    with pytest.raises(HandlerTimeout):
        await Retry(2, STEADY)(Request("job"), lambda request: Timeout(10)(request, slow))
    assert len(calls) == 3


async def test_the_handler_sees_which_try_it_is(jobs, run):
    """Item 24: the tries 1 to n+1 are visible to the handler, while the job's attempt stays the same."""
    seen: list[tuple[Try, int]] = []

    @jobs.register(name="job", layers=[Retry(2, STEADY)])
    async def job(ctx: JobCtx, *, attempt: Try = injected()) -> str:
        seen.append((attempt, ctx.attempt))
        if attempt.number <= 2:
            raise ValueError
        return "done"

    assert await run(job) == "done"
    assert seen == [(Try(1, 3), 1), (Try(2, 3), 1), (Try(3, 3), 1)]


async def test_what_a_layer_inside_changes_is_fresh_in_each_try():
    """A request that is changed on its way in reaches each try changed once."""
    seen: list[dict[str, object]] = []

    def doubled(request: Request) -> Request:
        request.kwargs["width"] *= 2
        request.data.insert(int, request.data.get(int, 0) + 1)
        return request

    async def endpoint(request: Request):
        seen.append(dict(request.kwargs, count=request.data.get(int)))
        raise ValueError

    with pytest.raises(ValueError):
        await Retry(1, STEADY)(
            Request("job", kwargs={"width": 5}), lambda request: MapRequest(doubled)(request, endpoint)
        )
    assert seen == [{"width": 10, "count": 1}] * 2


async def test_a_retry_in_its_wait_counts_as_running(storage, jobs):
    """Item 22: the wait between tries is tracked, so a shutdown cannot finish over it."""
    failing = Failing(ValueError())
    async with WorkerContext("mailer") as worker:
        _, request = request_in(Site(storage, worker))
        counts: list[int] = []

        async def watch() -> None:
            await anyio.sleep(5)
            counts.append(worker.task_count)

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await worker.track(Retry(1, Constant(base=10, jitter=False))(request, failing))
    assert counts == [1]
    assert failing.calls == 2


async def test_a_shutdown_ends_the_wait_and_puts_the_job_off(storage):
    """Item 22: a shutdown during a backoff ends it at once; the job is put off for the rest, at no attempt's cost."""
    error = ValueError("mine")
    failing = Failing(error)
    async with WorkerContext("mailer") as worker:
        _, request = request_in(Site(storage, worker))
        caught: list[BaseException] = []

        async def attempt() -> None:
            try:
                await worker.track(Retry(5, Constant(base=10, jitter=False))(request, failing))
            except Snooze as exc:
                caught.append(exc)

        async with anyio.create_task_group() as group:
            group.start_soon(attempt)
            await anyio.sleep(4)
            began = anyio.current_time()
            worker.stop()
        assert anyio.current_time() == began
    assert failing.calls == 1
    assert round(caught[0].seconds, 6) == 6
    assert caught[0].__cause__ is error


async def test_no_try_begins_during_a_shutdown(storage):
    """Item 24: a failure while the worker shuts down is not tried again here; with tries left, the job is put off."""
    async with WorkerContext("mailer") as worker:
        _, request = request_in(Site(storage, worker))
        worker.stop()
        failing = Failing(ValueError("one"), ValueError("two"))
        with pytest.raises(Snooze) as put_off:
            await Retry(1, Constant(base=10, jitter=False))(request, failing)
        assert put_off.value.seconds == 10
        with pytest.raises(ValueError, match="two"):
            await Retry(0)(request, failing)
        assert failing.calls == 2


@pytest.mark.parametrize("reason", CancelReason)
async def test_a_cancelled_run_is_not_tried_again(site, reason):
    """Item 24: whatever the reason; a job that is only to leave this worker is put off, others fail as they did."""
    ctx, request = request_in(site)

    async def endpoint(request: Request):
        calls.append(1)
        ctx.cancel.set(reason)
        raise ValueError("mine")

    calls: list[int] = []
    gives_back = reason in {CancelReason.SHUTDOWN, CancelReason.QUEUE_PAUSED}
    with pytest.raises(Snooze if gives_back else ValueError):
        await Retry(5, STEADY)(request, endpoint)
    assert len(calls) == 1


async def test_a_cancellation_ends_the_wait(site):
    """A cancel scope around the retry ends its wait, and no try follows."""
    failing = Failing(ValueError())
    _, request = request_in(site)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(Retry(5, Constant(base=10, jitter=False)), request, failing)
            await anyio.sleep(1)
            scope.cancel()
    assert scope.cancelled_caught
    assert failing.calls == 1


@pytest.mark.parametrize(("options", "message"), [({"retries": -1}, "retries"), ({"max_wait": 0}, "more than 0")])
def test_numbers_out_of_range_are_refused(options, message):
    """Retries are 0 or more, and a wait is more than 0 seconds."""
    with pytest.raises(ValueError, match=message):
        Retry(**options)
