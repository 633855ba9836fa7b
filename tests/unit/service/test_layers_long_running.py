"""Long running: a handler's operations, side by side, each with its own limit."""

from __future__ import annotations

import anyio
import pytest

from workerctx.errors import Abort, HandlerCrashed, OperationTimeout, TaskCancelled
from workerctx.lifecycle import WorkerContext
from workerctx.service import Request, Site, injected
from workerctx.service.layers import Catch, LongRunning, Operation, Operations

pytestmark = pytest.mark.usefixtures("virtual_time")


def request_in(worker: WorkerContext | None = None) -> Request:
    request = Request("job")
    if worker is not None:
        request.data.insert(WorkerContext, worker)
    return request


async def sleep(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds


async def fail(text: str) -> None:
    await anyio.lowlevel.checkpoint()
    raise ValueError(text)


async def test_operations_run_side_by_side(jobs, run, storage):
    """A handler starts operations by an injected object, and awaits them for their results."""

    @jobs.register(name="job", layers=[LongRunning()])
    async def job(*, operations: Operations = injected()) -> float:
        began = anyio.current_time()
        started = [operations.start(sleep, seconds, name=f"sleep {seconds}") for seconds in (10, 20, 30)]
        assert [operation.name for operation in started] == ["sleep 10", "sleep 20", "sleep 30"]
        assert not started[0].is_done
        assert [await operation for operation in started] == [10, 20, 30]
        assert started[0].is_done
        return anyio.current_time() - began

    async with WorkerContext("mailer") as worker:
        assert await run(job, at=Site(storage, worker)) == 30


async def test_the_job_is_done_when_its_operations_are():
    """The run waits for what the handler left behind, also for operations that others start meanwhile."""
    ended: list[str] = []

    async def outer(operations: Operations) -> None:
        await anyio.sleep(10)
        operations.start(inner)
        ended.append("outer")

    async def inner() -> None:
        await anyio.sleep(10)
        ended.append("inner")

    async def handler(request: Request) -> str:
        operations = request.data.require(Operations)
        operations.start(outer, operations)
        return "output"

    assert await LongRunning()(request_in(), handler) == "output"
    assert ended == ["outer", "inner"]


async def test_waiting_for_nothing_returns():
    """Item 31: `wait()` with no operation returns."""

    async def handler(request: Request) -> str:
        await request.data.require(Operations).wait()
        return "output"

    assert await LongRunning(5)(request_in(), handler) == "output"


async def test_an_overrun_fails_its_operation_alone():
    """Item 31: the limit is per operation; the others and the handler go on."""
    seen: list[object] = []

    async def handler(request: Request) -> str:
        operations = request.data.require(Operations)
        long, short = operations.start(sleep, 100), operations.start(sleep, 9)
        await operations.wait()
        with pytest.raises(OperationTimeout, match=r"sleep ran longer than 10 s and was cancelled") as caught:
            await long
        assert isinstance(caught.value, TimeoutError)
        seen.append(await short)
        seen.append(await operations.start(sleep, 8))
        return "output"

    assert await LongRunning(10)(request_in(), handler) == "output"
    assert seen == [9, 8]


async def test_a_shutdown_waits_for_the_operations():
    """Item 31: the worker counts each operation, and its shutdown waits for them."""
    counts: list[int] = []
    ended: list[float] = []

    async def handler(request: Request) -> None:
        operations = request.data.require(Operations)
        operations.start(sleep, 10)
        operations.start(sleep, 20)

    async with WorkerContext("mailer", grace=None) as worker:
        began = anyio.current_time()
        worker.spawn(LongRunning(), request_in(worker), handler)
        await anyio.sleep(5)
        counts.append(worker.task_count)
        worker.stop()
    ended.append(anyio.current_time() - began)
    assert counts == [3]
    assert ended == [20]


async def test_a_draining_worker_still_runs_new_operations():
    """A job that was accepted may go on with its work during the grace."""

    async def handler(request: Request) -> float:
        await worker.wait_stopping()
        return await request.data.require(Operations).start(sleep, 3)

    async with WorkerContext("mailer") as worker:
        task = worker.spawn(LongRunning(), request_in(worker), handler)
        await anyio.sleep(1)
        worker.stop()
        assert await task == 3


async def test_a_failure_that_nobody_looks_at_fails_the_run():
    """Nothing is lost silently: one error leaves as it is, several as a group; what was awaited is the handler's."""

    def handler_of(*texts: str, look: bool = False):
        async def handler(request: Request) -> str:
            operations = [request.data.require(Operations).start(fail, text) for text in texts]
            if look:
                with pytest.raises(ValueError, match="mine"):
                    await operations[0]
            return "output"

        return handler

    with pytest.raises(ValueError, match="mine"):
        await LongRunning()(request_in(), handler_of("mine"))
    with pytest.raises(ExceptionGroup, match="several operations of job failed") as caught:
        await LongRunning()(request_in(), handler_of("one", "two"))
    assert [str(error) for error in caught.value.exceptions] == ["one", "two"]
    assert await LongRunning()(request_in(), handler_of("mine", look=True)) == "output"


async def test_a_look_that_was_given_up_is_no_look():
    """A handler that stops waiting for an operation has not seen its error."""

    async def fail_late() -> None:
        await anyio.sleep(10)
        raise ValueError("late")

    async def handler(request: Request) -> str:
        operation = request.data.require(Operations).start(fail_late)
        with anyio.move_on_after(1):
            await operation
        return "output"

    with pytest.raises(ValueError, match="late"):
        await LongRunning()(request_in(), handler)


async def test_a_failing_handler_cancels_its_operations():
    """The handler's error leaves bare, and nothing of the run goes on after it."""
    kept: list[Operation[float]] = []

    async def handler(request: Request) -> None:
        kept.append(request.data.require(Operations).start(sleep, 100))
        await anyio.sleep(1)
        raise Abort("mine")

    began = anyio.current_time()
    with pytest.raises(Abort, match="mine"):
        await LongRunning()(request_in(), handler)
    assert anyio.current_time() - began == 1
    with pytest.raises(TaskCancelled, match="cancelled together with the handler"):
        await kept[0]


async def test_a_cancelled_run_cancels_its_operations():
    """A cancellation of the run reaches its operations, and goes on."""
    kept: list[Operation[float]] = []

    async def handler(request: Request) -> None:
        kept.append(request.data.require(Operations).start(sleep, 100))

    with anyio.move_on_after(5) as scope:
        await LongRunning()(request_in(), handler)
    assert scope.cancelled_caught
    assert kept[0].is_done


async def test_an_operation_that_crashes_is_contained():
    """W2: `SystemExit` in an operation is its failure, like in a handler."""

    async def exits() -> None:
        raise SystemExit(3)

    async def handler(request: Request) -> None:
        request.data.require(Operations).start(exits)

    with pytest.raises(HandlerCrashed, match=r"sys.exit\(3\)"):
        await Catch()(request_in(), lambda request: LongRunning()(request, handler))


def test_a_time_that_is_none_is_refused():
    """The limit of an operation is more than 0 seconds."""
    with pytest.raises(ValueError, match="more than 0 seconds"):
        LongRunning(0)
