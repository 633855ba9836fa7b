"""Registries on real stores, loops that hurry, and a store that can be switched off."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import anyio
import pytest
from attrs import define, field

from workerctx.errors import StoreUnavailable
from workerctx.queue import Constant, JobState
from workerctx.runtime import WorkerConfig, WorkerLoop
from workerctx.service import JobRegistry

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
def eventually() -> Callable[..., Awaitable[None]]:
    """Wait until a condition holds, with a bound; it may be a function or a coroutine function."""

    async def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
        with anyio.fail_after(seconds):
            while True:
                holds = condition()
                if inspect.isawaitable(holds):
                    holds = await holds
                if holds:
                    return
                await anyio.sleep(0.005)

    return eventually


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


@define
class Outage:
    """Whether a store can be reached, and which of its calls met that.

    Attributes:
        on: Whether calls fail.
        only: Names of the calls that fail; None for all.
        after: Whether a call that fails has been performed all the same, like one whose answer was lost.
        met: Names of the calls that failed.
    """

    on: bool = False
    only: set[str] | None = None
    after: bool = False
    met: set[str] = field(factory=set)

    def hits(self, name: str) -> bool:
        """Tell whether this call fails, and take note of it."""
        hit = self.on and (self.only is None or name in self.only)
        if hit:
            self.met.add(name)
        return hit


class Unreliable:
    """A part of a real store, whose calls fail while there is an outage; everything else is the real thing."""

    def __init__(self, real: Any, outage: Outage) -> None:
        self._real = real
        self._outage = outage

    def __getattr__(self, name: str) -> Any:
        real, outage = getattr(self._real, name), self._outage
        if name in {"jobs", "workers", "schedules", "rate_limits"}:
            return Unreliable(real, outage)
        if name in {"wakeups", "open_renewer"}:
            return lambda *args, **kwargs: _UnreliableBlock(name, real(*args, **kwargs), outage)
        if not inspect.iscoroutinefunction(real):
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            if outage.hits(name):
                await anyio.lowlevel.checkpoint()
                if outage.after:
                    await real(*args, **kwargs)
                raise StoreUnavailable("the store was switched off")
            return await real(*args, **kwargs)

        return call


class _UnreliableBlock:
    """The context manager of wake-ups, or a renewer."""

    def __init__(self, name: str, real: Any, outage: Outage) -> None:
        self._name, self._real, self._outage = name, real, outage

    def _check(self, name: str) -> None:
        if self._outage.hits(name):
            raise StoreUnavailable("the store was switched off")

    async def __aenter__(self) -> Self:
        self._check(self._name)
        self._waiter = await self._real.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> Any:
        return await self._real.__aexit__(*exc)

    async def wait(self, timeout: float | None = None) -> bool:
        rung: bool = await self._waiter.wait(timeout)
        self._check("wait")
        return rung

    def __enter__(self) -> Self:
        self._check(self._name)
        self._real.__enter__()
        return self

    def __exit__(self, *exc: object) -> Any:
        return self._real.__exit__(*exc)

    def renew(self, *args: Any) -> Any:
        self._check("renew")
        return self._real.renew(*args)


class UnreliableRegistry(JobRegistry):
    """A registry whose loops see the store through an outage; what a test does through its handlers does not."""

    outage: Outage

    @property
    def storage(self) -> Storage:
        """The store as loops see it."""
        seen: Any = Unreliable(super().storage, self.outage)
        return seen


@pytest.fixture
def outage() -> Outage:
    """What switches the store of `unreliable` off."""
    return Outage()


@pytest.fixture
async def unreliable(url: str, outage: Outage) -> AsyncIterator[UnreliableRegistry]:
    """An open registry whose store can be switched off."""
    registry = UnreliableRegistry(url)
    registry.outage = outage
    async with registry:
        yield registry
