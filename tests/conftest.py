"""Fixtures that every test may use: the ones that we ship, and servers that start when a test first asks.

And how hypothesis behaves: no test is about time.
"""

import os
import subprocess
import sys
import textwrap
from functools import partial
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from tests.integrations.postgres.server import postgres_server as start_postgres
from tests.integrations.redis.server import RedisServer, operate
from workerctx.queue.batching import PreparedCall
from workerctx.testing import wait_until
from workerctx.testing.fixtures import anyio_backend, virtual_time

__all__ = [
    "anyio_backend",
    "own_postgres",
    "postgres_server",
    "postgres_url",
    "redis_server",
    "redis_url",
    "virtual_time",
]

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def eventually():
    """Wait until a condition holds, with the patience that a busy machine needs."""
    return partial(wait_until, timeout=30)


@pytest.fixture
def claims_begun(monkeypatch):
    """For each prepared call whose result was asked for, whether somebody else had begun it."""
    begun = []
    result = PreparedCall.result

    async def watched(self):
        begun.append(self._begun)
        return await result(self)

    monkeypatch.setattr(PreparedCall, "result", watched)
    return begun


@pytest.fixture
def program():
    """Run a Python program in a process of its own; `BACKEND` in it is the event loop to use."""

    def run(source: str, backend: str = "asyncio") -> subprocess.CompletedProcess[str]:
        code = f"import sys\nsys.path[:] = {sys.path!r}\nBACKEND = {backend!r}\n{textwrap.dedent(source)}"
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture(scope="session")
def redis_server():
    """A Redis server of this test session."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(request):
    """Make URLs of a Redis, with keys of this test's own; WORKERCTX_TEST_REDIS names another server than ours."""
    named = os.environ.get("WORKERCTX_TEST_REDIS") or request.getfixturevalue("redis_server").url()
    prefix = uuid4().hex
    return lambda namespace="default": f"{named}{'&' if '?' in named else '?'}prefix={prefix}&namespace={namespace}"


@pytest.fixture
def redis_command(request):
    """Run a command of an operator on the server that `redis_url` is about."""
    named = os.environ.get("WORKERCTX_TEST_REDIS")
    return partial(operate, named) if named else request.getfixturevalue("redis_server").command


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server of this test session."""
    with start_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def own_postgres():
    """A PostgreSQL server of one file of tests, which may kill it as long as they start it again."""
    with start_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(request):
    """Make URLs of a PostgreSQL, with jobs of this test's own; WORKERCTX_TEST_POSTGRES names another than ours."""
    named = os.environ.get("WORKERCTX_TEST_POSTGRES") or request.getfixturevalue("postgres_server").url
    prefix = uuid4().hex
    return lambda namespace="default": f"{named}{'&' if '?' in named else '?'}namespace={prefix}-{namespace}"
