"""Ack: somebody is told how each run ended."""

from __future__ import annotations

import anyio
import pytest

from workerctx.errors import Abort, AckFailed, HandlerCrashed, Snooze, Throttled
from workerctx.lifecycle import WorkerContext
from workerctx.service import Request
from workerctx.service.layers import Ack


class Told:
    """Remembers what it was told, and may fail."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.ends: list[tuple[str, object, Exception | None]] = []
        self.failure = failure

    async def __call__(self, request: Request, output: object, error: Exception | None) -> None:
        await anyio.lowlevel.checkpoint()
        self.ends.append((request.kind, output, error))
        if self.failure is not None:
            raise self.failure


def raising(error: Exception):
    async def endpoint(request: Request) -> None:
        raise error

    return endpoint


async def succeed(request: Request) -> str:
    return "output"


async def test_it_is_called_once_with_an_output():
    """Item 30: a success is acknowledged once, with its output."""
    told = Told()
    assert await Ack(told)(Request("job"), succeed) == "output"
    assert told.ends == [("job", "output", None)]


async def test_it_is_called_once_with_an_error():
    """Item 30: a failure is acknowledged once, with its error, which goes on."""
    told, error = Told(), ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        await Ack(told)(Request("job"), raising(error))
    assert caught.value is error
    assert told.ends == [("job", None, error)]


@pytest.mark.parametrize("error", [Snooze(1), Throttled(1), ExceptionGroup("g", [Snooze(1)])])
async def test_a_run_that_was_put_off_has_not_ended(error):
    """A job that comes back without a failure is not acknowledged."""
    told = Told()
    with pytest.raises(type(error)):
        await Ack(told)(Request("job"), raising(error))
    assert told.ends == []


async def test_a_cancelled_run_has_not_ended():
    """A cancelled run comes back or is lost; it is not acknowledged here."""
    told = Told()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Ack(told)(Request("job"), lambda request: anyio.sleep_forever())
    assert told.ends == []


async def test_a_crash_is_an_end_with_an_error():
    """Item 30: who calls sys.exit() has failed, of which somebody is told."""
    told = Told()

    async def leave(request: Request) -> None:
        raise SystemExit(1)

    with pytest.raises(HandlerCrashed, match=r"sys\.exit") as caught:
        await Ack(told)(Request("job"), leave)
    assert told.ends == [("job", None, caught.value)]


async def test_a_failed_acknowledgement_of_a_success_keeps_both():
    """Item 30: the run fails with `AckFailed`, which has the reason and the output."""
    told = Told(OSError("no answer"))
    with pytest.raises(
        AckFailed, match=r"job was done and could not be acknowledged: OSError\('no answer'\)"
    ) as caught:
        await Ack(told)(Request("job"), succeed)
    assert caught.value.__cause__ is told.failure
    assert caught.value.output == "output"
    assert len(told.ends) == 1


@pytest.mark.parametrize("kind", [ValueError, Abort])
async def test_a_failed_acknowledgement_of_a_failure_keeps_both(kind, caplog):
    """Item 30: the handler's error decides the job's fate; the second error is a note on it, and logged."""
    told, error = Told(OSError("no answer")), kind("mine")
    with pytest.raises(kind, match="mine") as caught:
        await Ack(told)(Request("job"), raising(error))
    assert caught.value is error
    assert caught.value.__notes__ == ["besides, it could not be acknowledged: OSError('no answer')"]
    assert caplog.records[0].exc_info[1] is told.failure
    assert len(told.ends) == 1


async def test_a_shutdown_waits_for_the_acknowledgement():
    """Item 30: the acknowledgement is part of the run that the worker counts."""
    begun, go_on = anyio.Event(), anyio.Event()
    done: list[str] = []

    async def acknowledge(request: Request, output: object, error: Exception | None) -> None:
        begun.set()
        await go_on.wait()
        done.append("acknowledged")

    async with anyio.create_task_group() as group:

        async def stop_and_let_go() -> None:
            await begun.wait()
            worker.stop()
            assert (worker.is_stopped, worker.is_finished, worker.task_count) == (True, False, 1)
            go_on.set()

        async with WorkerContext("mailer") as worker:
            group.start_soon(stop_and_let_go)
            await worker.track(Ack(acknowledge)(Request("job"), succeed))
        assert done == ["acknowledged"]
