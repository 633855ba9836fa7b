"""Filter and mapping: what goes in, what comes out, what goes wrong."""

from __future__ import annotations

import anyio
import pytest

from workerctx.errors import Abort, RequestRejected, Snooze, Throttled
from workerctx.service import Request
from workerctx.service.layers import Filter, MapError, MapRequest, MapResponse


async def succeed(request: Request) -> str:
    return request.kind


def raising(error: Exception):
    async def endpoint(request: Request) -> None:
        raise error

    return endpoint


def is_small(request: Request) -> bool:
    return len(request.kind) < 4


async def is_small_async(request: Request) -> bool:
    await anyio.lowlevel.checkpoint()
    return is_small(request)


@pytest.mark.parametrize("allows", [is_small, is_small_async])
async def test_a_filter_lets_pass_or_makes_dead(allows):
    """Item 29: what is rejected is an error, for good, and the handler is not called."""
    assert await Filter(allows)(Request("job"), succeed) == "job"
    with pytest.raises(RequestRejected, match="a filter rejected this job of too big") as caught:
        await Filter(allows)(Request("too big"), raising(AssertionError("called")))
    assert isinstance(caught.value, Abort)


async def test_a_filter_may_have_a_word_of_its_own():
    """What the function raises goes on as it is."""

    def later(request: Request) -> bool:
        raise Snooze(60)

    with pytest.raises(Snooze):
        await Filter(later)(Request("job"), succeed)


async def test_maps_run_in_order(jobs, run):
    """Item 29: requests are changed from the outside in, outputs and errors from the inside out."""

    def width(add: int):
        def change(request: Request) -> Request:
            return Request(request.kind, request.data, (request.args[0] * 10 + add,))

        return MapRequest(change)

    def output(add: str):
        async def change(value: str) -> str:
            return value + add

        return MapResponse(change)

    @jobs.register(name="job", layers=[width(1), output("a"), width(2), output("b")])
    async def job(width: int) -> str:
        return str(width)

    assert await run(job, 3) == "312ba"


async def test_an_async_map_of_requests():
    """The functions may be async."""

    async def change(request: Request) -> Request:
        return Request("other")

    assert await MapRequest(change)(Request("job"), succeed) == "other"


async def test_errors_are_mapped_and_keep_their_cause():
    """The first error is the cause of what it became."""
    error = ValueError("mine")
    with pytest.raises(Abort, match="no use: mine") as caught:
        await MapError(lambda error: Abort(f"no use: {error}"))(Request("job"), raising(error))
    assert caught.value.__cause__ is error

    async def same(error: Exception) -> Exception:
        return error

    with pytest.raises(ValueError, match="mine") as caught:
        await MapError(same)(Request("job"), raising(error))
    assert caught.value is error
    assert await MapError(same)(Request("job"), succeed) == "job"


async def test_an_error_alone_in_a_group_is_mapped_alone():
    """L30: what a task group wrapped alone is judged alone."""
    seen: list[Exception] = []

    def note(error: Exception) -> Exception:
        seen.append(error)
        return error

    error = ValueError("mine")
    with pytest.raises(ExceptionGroup):
        await MapError(note)(Request("job"), raising(ExceptionGroup("g", [error])))
    assert seen == [error]


@pytest.mark.parametrize("error", [Snooze(1), Throttled(1)])
async def test_what_is_no_error_is_not_mapped(error):
    """A catch-all map cannot make a job dead that was only put off."""
    with pytest.raises(type(error)):
        await MapError(lambda error: Abort("all"))(Request("job"), raising(error))
