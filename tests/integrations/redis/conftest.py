"""What the tests of the Redis store share: servers of their own, and the proxy in front of one."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.integrations.redis.server import RedisServer


@pytest.fixture
def own_server():
    """Start servers that a test may hurt."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisServer(options))
