"""Concurrency: how many may be inside at once."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from workerctx.service import Request
from workerctx.service.layers import Concurrency, by_kind


class Room:
    """Counts who is inside, and lets them out on demand."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.open = anyio.Event()

    async def endpoint(self, request: Request) -> str:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return request.kind


async def test_never_more_than_the_limit_are_inside():
    """Item 20: with a limit of 3, three of ten are inside at once, and all come through."""
    layer, room, done = Concurrency(3), Room(), []

    async def one(n: int) -> None:
        done.append(await layer(Request(str(n)), room.endpoint))

    async with anyio.create_task_group() as group:
        for n in range(10):
            group.start_soon(one, n)
        await anyio.wait_all_tasks_blocked()
        assert room.inside == 3
        room.open.set()
    assert room.most == 3
    assert len(done) == 10


async def test_who_fails_or_is_cancelled_makes_room():
    """A place is given back on errors and cancellations, and by who only waited for one."""
    layer, room = Concurrency(1), Room()

    async def fail(request):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await layer(Request("a"), fail)
    async with anyio.create_task_group() as group:
        group.start_soon(layer, Request("inside"), room.endpoint)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(layer, Request("waiting"), room.endpoint)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    room.open.set()
    with anyio.fail_after(10):
        assert await layer(Request("after"), room.endpoint) == "after"


async def test_one_layer_counts_all_its_handlers_together(jobs, run):
    """One object around two handlers is one limit."""
    layer, room = Concurrency(1), Room()

    async def job() -> None:
        await room.endpoint(Request("job"))

    first = jobs.register(name="first", layers=[layer])(job)
    second = jobs.register(name="second", layers=[layer])(job)
    async with anyio.create_task_group() as group:
        group.start_soon(run, first)
        group.start_soon(run, second)
        await anyio.wait_all_tasks_blocked()
        assert room.inside == 1
        room.open.set()
    assert room.most == 1


async def test_each_kind_has_places_of_its_own():
    """`by` counts each key for itself, and who is over is forgotten."""
    layer, room = Concurrency(2, by=by_kind), Room()
    async with anyio.create_task_group() as group:
        for kind in "aaabbbc":
            group.start_soon(layer, Request(kind), room.endpoint)
        await anyio.wait_all_tasks_blocked()
        assert room.inside == 5
        room.open.set()
    for number in range(1000):
        await layer(Request(f"kind {number}"), room.endpoint)
    assert len(layer._rooms) <= 64


async def test_a_function_of_the_request_is_the_key():
    """Any function of a request can choose, its arguments for example."""
    layer, room = Concurrency(1, by=lambda request: request.kwargs["host"]), Room()
    async with anyio.create_task_group() as group:
        for host in ("one", "one", "two"):
            group.start_soon(layer, Request("job", kwargs={"host": host}), room.endpoint)
        await anyio.wait_all_tasks_blocked()
        assert room.inside == 2
        room.open.set()


async def test_a_place_in_use_is_never_forgotten():
    """However many keys come by, the count of one that is inside stays."""
    layer, room = Concurrency(1, by=by_kind), Room()
    async with anyio.create_task_group() as group:
        group.start_soon(layer, Request("busy"), room.endpoint)
        await anyio.wait_all_tasks_blocked()
        for number in range(200):
            await layer(Request(str(number)), pass_by)
        group.start_soon(layer, Request("busy"), room.endpoint)
        await anyio.wait_all_tasks_blocked()
        assert room.inside == 1
        room.open.set()


async def pass_by(request: Request) -> None:
    await anyio.lowlevel.checkpoint()


async def test_a_layer_made_at_import_time_serves_several_event_loops():
    """L34: the object belongs to no event loop; each has its own count."""
    layer = Concurrency(1)

    async def other(request):
        return await layer(request, finish)

    async def finish(request):
        return request.kind

    async def endpoint(request):
        return await anyio.to_thread.run_sync(lambda: anyio.run(other, request))

    with anyio.fail_after(10):
        assert await layer(Request("job"), endpoint) == "job"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    """Nothing could ever run."""
    with pytest.raises(ValueError, match="limit"):
        Concurrency(limit)
