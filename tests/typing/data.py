"""The request's data, injection and layers for type checkers. Read, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Self, assert_type

from workerctx.lifecycle import WorkerContext
from workerctx.service import DataMap, FromRequest, JobRegistry, KindPrefixRouter, Request
from workerctx.service.layers import Catch, Concurrency, Layer, Timeout, Trace

data = DataMap({str: "text"})
assert_type(data.get(str), str | None)
assert_type(data.get(int, 0), int)
assert_type(data.require(str), str)
assert_type(data.insert(int, 3), int | None)
assert_type(data.remove(int), int | None)


class Header:
    """A type that makes itself from a request."""

    @classmethod
    def from_request(cls, request: Request, /) -> Self:
        """Make it."""
        assert request
        return cls()


class Session:
    """A type that makes itself from a request, asynchronously."""

    @classmethod
    async def from_request(cls, request: Request, /) -> Self:
        """Make it."""
        assert request
        return cls()


extractors: list[type[FromRequest]] = [Header, Session]
assert_type(WorkerContext.from_request(Request("resize")), WorkerContext)


async def own_layer(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
    """Do nothing."""
    return await call_next(request)


def wrong_layer(request: Request) -> None:
    """Take too little."""
    assert request


layers: list[Layer] = [own_layer, Timeout(timedelta(seconds=3)), Concurrency(3), Catch(), Trace()]
JobRegistry(layers=[own_layer, Timeout(3)], router=KindPrefixRouter({"gh_": "gh"}))
JobRegistry(router=lambda kind: f"{kind}s")
JobRegistry(layers=[wrong_layer])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
