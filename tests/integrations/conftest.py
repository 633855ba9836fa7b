"""What the tests of metrics and traces share: stores, and settings of loops."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.integrations.proxy import Proxy
from workerctx import WorkerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind that needs no server."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db?synchronous=normal"


@pytest.fixture
def hurried() -> WorkerConfig:
    """Settings with short intervals."""
    return WorkerConfig(concurrency=4, heartbeat=0.05, reap_interval=0.1, grace=10)


@pytest.fixture
def proxy_of() -> Generator[Callable[..., Proxy]]:
    """Put a proxy in front of a server, named by host and port or by the path of its socket."""
    with ExitStack() as stack:
        yield lambda upstream, **options: stack.enter_context(Proxy(upstream, **options))
