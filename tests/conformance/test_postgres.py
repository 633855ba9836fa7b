"""Q17: the PostgreSQL store passes the conformance suite."""

from __future__ import annotations

import pytest

from workerctx.queue import Storage, connect
from workerctx.testing.conformance import *  # noqa: F403 - the suite


@pytest.fixture
def storage_factory(postgres_url):
    """Return a maker of Storage objects on a place of their own in one database."""

    def make(namespace: str = "default") -> Storage:
        return connect(postgres_url(namespace))

    return make
