"""A store, a place to run in, and one run of a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from workerctx.queue import QueuedJob, connect
from workerctx.service import JobCtx, JobRegistry, Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from workerctx.queue import Storage
    from workerctx.service import JobHandler


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
