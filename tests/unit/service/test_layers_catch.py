"""Catch: whatever a handler leaves with fails its job, and nothing else."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest

from workerctx.errors import HandlerCrashed
from workerctx.service import Request
from workerctx.service.layers import Catch, as_failure


class OddExit(BaseException):
    pass


def caught(endpoint, catch: Catch | None = None):
    return (catch or Catch())(Request("job"), endpoint)


def raising(error: BaseException):
    async def endpoint(request):
        await anyio.lowlevel.checkpoint()
        raise error

    return endpoint


async def test_an_exception_comes_through_as_it_is():
    """An ordinary exception is the handler's own word."""
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as info:
        await caught(raising(error))
    assert info.value is error


async def test_an_output_comes_through():
    """What does not fail is not touched."""

    async def endpoint(request):
        return request.kind

    assert await caught(endpoint) == "job"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), r"the handler called sys.exit\(3\): raise an exception to fail a job"),
        (SystemExit(), r"sys.exit\(None\)"),
        (OddExit("odd"), "the handler left with OddExit: odd"),
        (OddExit(), "the handler left with OddExit: no message"),
        (OddExit(b"\xff", 1), "left with OddExit: "),
        (BaseExceptionGroup("both", [OddExit("a"), ValueError("b")]), "left with BaseExceptionGroup: both"),
        (BaseExceptionGroup("one", [SystemExit(4)]), r"sys.exit\(4\)"),
    ],
)
async def test_what_is_no_exception_fails_the_job(error, message):
    """W2: `SystemExit` and other `BaseException` fail that job (item 27: whatever their payload)."""
    with pytest.raises(HandlerCrashed, match=message) as info:
        await caught(raising(error))
    assert info.value.__cause__ is not None


async def test_an_error_before_the_first_await_is_contained():
    """Item 27: a function that raises while it is called, before there is anything to await, is contained too."""

    def endpoint(request):
        sys.exit("early")

    with pytest.raises(HandlerCrashed, match="early"):
        await caught(endpoint)


@pytest.mark.parametrize("wrap", [False, True])
async def test_keyboard_interrupt_passes(wrap):
    """W2: Ctrl-C is nobody's job: it passes, also when a task group wrapped it together with others."""
    error = BaseExceptionGroup("group", [ValueError(), KeyboardInterrupt()]) if wrap else KeyboardInterrupt()
    with pytest.raises(type(error)) as info:
        await caught(raising(error))
    assert info.value is error


async def test_an_abandoned_coroutine_can_be_closed():
    """Closing a coroutine that waits inside raises nothing: its GeneratorExit passes."""

    class Forever:
        def __await__(self):
            yield

    async def endpoint(request):
        await Forever()

    coroutine = caught(endpoint)
    coroutine.send(None)
    coroutine.close()


async def test_a_cancellation_of_a_scope_around_passes():
    """W2: a cancellation that a scope around asked for is that scope's, and reaches it."""
    with anyio.CancelScope() as outer:
        with anyio.CancelScope() as ours:
            ours.cancel()
            await caught(lambda request: anyio.sleep_forever())
        assert ours.cancelled_caught
        outer.cancel()
        with anyio.CancelScope():
            await caught(lambda request: anyio.sleep_forever())
    assert outer.cancelled_caught


async def test_a_cancellation_together_with_errors_passes():
    """A handler's task group that reports a cancellation and an error at once is still cancelled."""

    async def endpoint(request):
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as exc:
            raise BaseExceptionGroup("both", [exc, ValueError("late")]) from None

    raised: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await caught(endpoint)
        except BaseException as exc:
            raised.append(exc)
    assert isinstance(raised[0], BaseExceptionGroup)


async def test_a_cancellation_that_nobody_asked_for_is_the_jobs_failure(anyio_backend_name):
    """W2: a handler that raises a cancellation by itself fails its job; the slot lives on."""
    stray: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as exc:
            stray.append(exc)
    with pytest.raises(HandlerCrashed, match="no scope around it asked for"):
        await caught(raising(stray[0]))
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_awaiting_something_cancelled_is_the_jobs_failure(anyio_backend):
    """W2: on asyncio, awaiting a cancelled future or task looks like being cancelled; it is a failure."""

    async def endpoint(request):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(HandlerCrashed):
        await caught(endpoint)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_handler_that_cancels_its_own_task_fails_alone(anyio_backend):
    """W2: a native cancel from inside fails the job, and the task that ran it can go on waiting."""

    async def endpoint(request):
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep_forever()

    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(HandlerCrashed):
        await caught(endpoint)
    assert task.cancelling() == 0
    with anyio.move_on_after(0.001) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_cancellation_behind_a_shield_is_not_ours():
    """A scope cancelled outside of a shield did not ask for what happens inside of it."""
    stray: list[BaseException] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as exc:
            stray.append(exc)
        with anyio.CancelScope(shield=True), pytest.raises(HandlerCrashed):
            await caught(raising(stray[0]))


async def test_a_handler_of_ones_own_makes_the_exception():
    """Item 27: `Catch(handler)` chooses what a crash becomes; ordinary exceptions are not its business."""
    catch = Catch(lambda request, error: LookupError(f"{request.kind}: {error!r}"))
    with pytest.raises(LookupError, match=r"job: SystemExit\(3\)"):
        await caught(raising(SystemExit(3)), catch)
    with pytest.raises(ValueError, match="mine"):
        await caught(raising(ValueError("mine")), catch)


async def test_a_group_of_one_is_its_member():
    """L30: what a task group of the handler wraps alone is judged alone."""
    error = ValueError("alone")
    assert as_failure(ExceptionGroup("g", [ExceptionGroup("h", [error])])) is error
    two = ExceptionGroup("g", [error, LookupError()])
    assert as_failure(two) is two
