"""A store, a place to run in, and one run of a handler."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

import pytest
from trio.testing import MockClock

from workerctx.queue import QueuedJob, connect
from workerctx.service import JobCtx, JobRegistry, Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from workerctx.queue import Storage
    from workerctx.service import JobHandler


class JumpingSelector(selectors.DefaultSelector):
    """Lets time jump to the next deadline instead of waiting for it."""

    now = 1000.0

    def select(self, timeout=None):
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose time jumps whenever all tasks wait."""

    def __init__(self) -> None:
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


@pytest.fixture
def virtual_time() -> None:
    """Ask for it, and time jumps whenever all tasks of the test wait; for tests without threads."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Run each async test on both event loops, in virtual time if it asks for that."""
    if "virtual_time" not in request.fixturenames:
        return request.param
    if request.param == "trio":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": JumpingLoop}


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    """An open store in memory."""
    async with connect("memory://") as storage:
        yield storage


@pytest.fixture
def site(storage: Storage) -> Site:
    """A place where jobs run."""
    return Site(storage)


@pytest.fixture
def jobs() -> JobRegistry:
    """An empty registry over a store in memory."""
    return JobRegistry("memory://")


@pytest.fixture
def run(site: Site) -> Callable[..., Awaitable[Any]]:
    """Run a handler as a worker would, with these arguments."""

    async def run(handler: JobHandler[..., Any], *args: Any, at: Site = site, **kwargs: Any) -> Any:
        request = handler.request(*args, **kwargs)
        job = QueuedJob(id="job-1", kind=request.kind, payload_json=request.payload_json, attempt=1, max_attempts=5)
        return await handler.run(JobCtx(job, at))

    return run
