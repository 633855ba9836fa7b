"""Timeout: what runs too long is cancelled, and says so."""

from __future__ import annotations

import time
from datetime import timedelta

import anyio
import anyio.from_thread
import pytest

from workerctx.errors import HandlerTimeout
from workerctx.service import Request
from workerctx.service.layers import Timeout


async def test_a_slow_handler_is_cancelled():
    """Item 26: the handler is cancelled, and the error names the job and the limit."""
    cleaned: list[bool] = []

    async def endpoint(request):
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    with pytest.raises(HandlerTimeout, match=r"resize ran longer than 0\.001 s and was cancelled") as caught:
        await Timeout(0.001)(Request("resize"), endpoint)
    assert isinstance(caught.value, TimeoutError)
    assert cleaned == [True]


async def test_a_fast_handler_is_left_alone():
    """Outputs and errors come through, a TimeoutError of the handler's own as well."""

    async def endpoint(request):
        if request.kind == "own":
            raise TimeoutError("mine")
        return request.kind

    assert await Timeout(timedelta(seconds=60))(Request("job"), endpoint) == "job"
    with pytest.raises(TimeoutError, match="mine") as caught:
        await Timeout(60)(Request("own"), endpoint)
    assert not isinstance(caught.value, HandlerTimeout)


async def test_a_cancellation_from_outside_is_no_timeout():
    """The layer answers for its own scope only."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Timeout(60)(Request("job"), lambda request: anyio.sleep_forever())
    assert scope.cancelled_caught


async def test_each_try_has_its_own_time_inside_of_a_retry(jobs, run):
    """Item 26: inside of a retry each try is bounded; outside, all of them together."""
    tries: list[int] = []

    async def twice(request, call_next):
        for _ in range(2):
            try:
                return await call_next(request)
            except HandlerTimeout:
                tries.append(1)
        return "gave up"

    async def slow() -> str:
        await anyio.sleep_forever()

    inside = jobs.register(name="inside", layers=[twice, Timeout(0.001)])(slow)
    outside = jobs.register(name="outside", layers=[Timeout(0.001), twice])(slow)
    assert await run(inside) == "gave up"
    assert len(tries) == 2
    with pytest.raises(HandlerTimeout):
        await run(outside)
    assert len(tries) == 2


async def test_the_result_of_a_thread_is_kept(jobs, run):
    """A thread cannot be stopped: its result counts even when the time is over."""

    @jobs.register(name="job", layers=[Timeout(0.5)])
    def job() -> str:
        for _ in range(10_000):
            try:
                anyio.from_thread.check_cancelled()
            except BaseException:
                return "late"
            time.sleep(0.001)
        return "never told"

    assert await run(job) == "late"


@pytest.mark.parametrize("seconds", [0, -1, timedelta(0), float("nan")])
def test_a_time_that_is_none_is_refused(seconds):
    """A timeout is more than 0 seconds."""
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Timeout(seconds)
