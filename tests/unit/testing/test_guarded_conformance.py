"""Q17: a store behind faults that do not happen still passes the conformance suite."""

from __future__ import annotations

from uuid import uuid4

import pytest

from workerctx.queue import Storage, connect
from workerctx.testing import Faults
from workerctx.testing.conformance import *  # noqa: F403 - the suite


@pytest.fixture
def storage_factory():
    """Return a maker of Storage objects that share one store."""
    name = uuid4().hex
    faults = Faults()

    def make(namespace: str = "default") -> Storage:
        return faults.wrap(connect(f"memory://{name}?namespace={namespace}"))

    return make
