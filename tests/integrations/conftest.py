"""What the tests of metrics and traces share: open registries on real stores, and patience with a bound."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.integrations.proxy import Proxy
from workerctx import WorkerConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from pathlib import Path

    from tests.integrations.proxy import Upstream


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind that needs no server."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db?synchronous=normal"


@pytest.fixture
def hurried() -> WorkerConfig:
    """Settings with short intervals."""
    return WorkerConfig(concurrency=4, heartbeat=0.05, reap_interval=0.1, grace=10)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Wait until a condition holds, with a bound; it may be a function or a coroutine function."""

    async def eventually(condition: Callable[[], Any]) -> None:
        with anyio.fail_after(20):
            while True:
                holds = condition()
                if inspect.isawaitable(holds):
                    holds = await holds
                if holds:
                    return
                await anyio.sleep(0.005)

    return eventually


@pytest.fixture
def proxy_of() -> Generator[Callable[[Upstream], Proxy]]:
    """Put a proxy in front of a server, named by host and port or by the path of its socket."""
    with ExitStack() as stack:
        yield lambda upstream: stack.enter_context(Proxy(upstream))
