"""What the tests of metrics and traces share: stores, and settings of loops."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.proxy import Proxy
from workerctx import WorkerConfig
from workerctx.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from workerctx.queue import Storage


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind that needs no server."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db?synchronous=normal"


@pytest.fixture
def hurried() -> WorkerConfig:
    """Settings with short intervals."""
    return WorkerConfig(concurrency=4, heartbeat=0.05, reap_interval=0.1, grace=10)


@pytest.fixture
def opened_again(eventually: Any) -> Callable[[Storage], AbstractAsyncContextManager[None]]:
    """Open a storage that somebody has just left, as soon as the last of its threads has closed it."""

    @asynccontextmanager
    async def opened_again(storage: Storage) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:

            async def opens() -> bool:
                try:
                    await stack.enter_async_context(storage)
                except StoreClosed:
                    return False
                return True

            await eventually(opens)
            yield

    return opened_again


@pytest.fixture
def proxy_of() -> Generator[Callable[..., Proxy]]:
    """Put a proxy in front of a server, named by host and port or by the path of its socket."""
    with ExitStack() as stack:
        yield lambda upstream, **options: stack.enter_context(Proxy(upstream, **options))
