"""Q17: the Redis store passes the conformance suite."""

from __future__ import annotations

import pytest

from workerctx.queue import Storage, connect
from workerctx.testing.conformance import *  # noqa: F403 - the suite


@pytest.fixture
def storage_factory(redis_url):
    """Return a maker of Storage objects that share one part of a server."""

    def make(namespace: str = "default") -> Storage:
        return connect(redis_url(namespace))

    return make
