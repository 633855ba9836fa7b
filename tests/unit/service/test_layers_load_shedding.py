"""Load shedding: jobs are given back while there is too much to do."""

from __future__ import annotations

import time

import anyio
import pytest

from workerctx.errors import Throttled
from workerctx.service import Request
from workerctx.service.layers import Concurrency, LoadShed


async def succeed(request: Request) -> str:
    return request.kind


async def test_too_many_are_given_back():
    """Beyond `max_in_flight` a job is given back at once; when there is room again, jobs pass."""
    layer, go_on, inside = LoadShed(2, retry_after=5), anyio.Event(), []

    async def endpoint(request: Request) -> None:
        inside.append(request.kind)
        await go_on.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(layer, Request("a"), endpoint)
        group.start_soon(layer, Request("b"), endpoint)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Throttled) as caught:
            await layer(Request("c"), endpoint)
        assert caught.value.retry_after == 5
        go_on.set()
    assert sorted(inside) == ["a", "b"]
    assert await layer(Request("d"), succeed) == "d"


async def test_those_who_wait_for_a_place_are_in_flight():
    """Around a `Concurrency` it bounds how many slots of the worker wait."""
    shed, places, go_on = LoadShed(3), Concurrency(1), anyio.Event()
    refused: list[str] = []

    async def one(kind: str) -> None:
        try:
            await shed(Request(kind), lambda request: places(request, lambda request: go_on.wait()))
        except Throttled:
            refused.append(kind)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(one, str(number))
        await anyio.wait_all_tasks_blocked()
        assert len(refused) == 2
        go_on.set()


async def test_errors_and_cancellations_make_room():
    """Whoever leaves makes room, however that was."""
    layer = LoadShed(1)

    async def fail(request: Request) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await layer(Request("a"), fail)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await layer(Request("b"), lambda request: anyio.sleep_forever())
    assert await layer(Request("c"), succeed) == "c"


async def test_a_lagging_event_loop_gives_jobs_back():
    """While somebody blocks the event loop, jobs go back to where another worker finds them."""
    layer, blocking = LoadShed(max_lag=0.001), True

    async def block() -> None:
        while blocking:
            time.sleep(0.005)  # noqa: ASYNC251 - the blocker
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(block)
        with pytest.raises(Throttled) as caught, anyio.fail_after(10):
            while True:  # trio may give the blocker and the layer their turns in any order
                await layer(Request("job"), succeed)
        assert caught.value.retry_after == 1
        blocking = False
    assert await LoadShed(max_lag=3600)(Request("job"), succeed) == "job"


@pytest.mark.parametrize("options", [{}, {"max_in_flight": 0}, {"max_lag": 0}, {"max_in_flight": 1, "retry_after": 0}])
def test_a_layer_without_a_sensible_limit_is_refused(options):
    """It would shed nothing, or everything."""
    with pytest.raises(ValueError):
        LoadShed(**options)
