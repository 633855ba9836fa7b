"""Registries on real stores, loops that hurry, and a store behind faults."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest

from workerctx.queue import Constant, JobState, connect
from workerctx.runtime import WorkerConfig, WorkerLoop
from workerctx.service import JobRegistry
from workerctx.testing import Faults

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from workerctx.queue import QueuedJob, Storage

PATIENCE = 20.0
"""Seconds after which a test gives up waiting."""


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind that needs no server."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db?synchronous=normal"


@pytest.fixture
def registry(url: str) -> JobRegistry:
    """A registry that the test opens by itself."""
    return JobRegistry(url)


@pytest.fixture
async def jobs(registry: JobRegistry) -> AsyncIterator[JobRegistry]:
    """An open registry: what a loop leaves in the store can be looked at afterwards."""
    async with registry:
        yield registry


@pytest.fixture
def at_once() -> Constant:
    """A retry policy that does not wait."""
    return Constant(base=0, jitter=False)


@pytest.fixture
def hurried() -> Callable[..., WorkerConfig]:
    """Settings for a test: short intervals, and no poll that would hide a wake-up that was lost."""

    def hurried(**settings: Any) -> WorkerConfig:
        defaults: dict[str, Any] = {
            "concurrency": 4,
            "heartbeat": 0.1,
            "lease_ttl": 10.0,
            "reap_interval": 0.1,
            "poll_interval": 60.0,
            "grace": 10.0,
        }
        return WorkerConfig(**(defaults | settings))

    return hurried


@pytest.fixture
def make_loop(jobs: JobRegistry, hurried: Callable[..., WorkerConfig]) -> Callable[..., WorkerLoop]:
    """Make a loop over the open registry, with `hurried` settings."""

    def make(
        of: JobRegistry = jobs, *, data: Any = None, tenant_scope: Any = None, shutdown: Any = None, **settings: Any
    ) -> WorkerLoop:
        return WorkerLoop(of, hurried(**settings), data=data, tenant_scope=tenant_scope, shutdown=shutdown)

    return make


@pytest.fixture
def serving(make_loop: Callable[..., WorkerLoop]) -> Callable[..., Any]:
    """Serve the open registry in the background of an ``async with``."""

    @asynccontextmanager
    async def serving(*args: Any, **settings: Any) -> AsyncGenerator[WorkerLoop]:
        with anyio.fail_after(PATIENCE * 2):
            async with make_loop(*args, **settings) as loop:
                yield loop

    return serving


@pytest.fixture
def burst(make_loop: Callable[..., WorkerLoop]) -> Callable[..., Awaitable[WorkerLoop]]:
    """Run everything that is there, with a bound."""

    async def burst(*args: Any, **settings: Any) -> WorkerLoop:
        loop = make_loop(*args, **settings)
        with anyio.fail_after(PATIENCE):
            await loop.run(burst=True)
        return loop

    return burst


@pytest.fixture
def fetch(jobs: JobRegistry) -> Callable[[Any], Awaitable[QueuedJob]]:
    """Return a job as the store knows it now, given its handle."""

    async def fetch(handle: Any) -> QueuedJob:
        return await jobs.storage.jobs.get(handle.id)

    return fetch


@pytest.fixture
def count(jobs: JobRegistry) -> Callable[..., Awaitable[int]]:
    """Count the jobs in some states."""

    async def count(*states: JobState) -> int:
        counts = await jobs.storage.jobs.counts()
        return sum(counts[state] for state in states)

    return count


@pytest.fixture
def faults() -> Faults:
    """What befalls the store of `unreliable`."""
    return Faults()


@pytest.fixture
def shared_url(url: str) -> str:
    """A store of each kind that several can open."""
    return f"memory://{uuid4().hex}" if url == "memory://" else url


@pytest.fixture
async def unreliable(shared_url: str, faults: Faults) -> AsyncIterator[JobRegistry]:
    """An open registry whose store is behind `faults`, for its loops and for whoever enqueues through it."""
    async with JobRegistry(shared_url) as registry:
        with faults.inject(registry):
            yield registry


@pytest.fixture
async def outside(shared_url: str) -> AsyncIterator[Storage]:
    """The store of `unreliable`, as those see it whom no fault concerns."""
    async with connect(shared_url) as storage:
        yield storage
