"""Q17: the SQLite store passes the conformance suite."""

from __future__ import annotations

import pytest

from workerctx.queue import Storage, connect
from workerctx.testing.conformance import *  # noqa: F403 - the suite


@pytest.fixture
def storage_factory(tmp_path):
    """Return a maker of Storage objects on one file."""

    def make(namespace: str = "default") -> Storage:
        return connect(f"sqlite:///{tmp_path}/jobs.db?namespace={namespace}")

    return make
