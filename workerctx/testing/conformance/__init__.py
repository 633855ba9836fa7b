"""What every store promises, as tests that you run on yours.

Write one module with one fixture, and pytest collects the rest; it needs ``workerctx[testing]``::

    import pytest

    from workerctx.queue import Storage, connect
    from workerctx.testing.conformance import *


    @pytest.fixture
    def storage_factory(tmp_path):
        def make(namespace: str = "default") -> Storage:
            return connect(f"mystore://{tmp_path}/jobs?namespace={namespace}")

        return make

Each call of the factory makes a new, unopened Storage on the same data, which must be empty at the start of a test.
Every test runs with the backends of the ``anyio_backend`` fixture, by default asyncio and trio. Time is moved through
`Storage.advance` and never waited for, so a store's own clock must follow it.
"""

# ruff: noqa: E402 - assertions are rewritten before their modules are imported

try:
    import pytest
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError("the conformance suite needs pytest: pip install 'workerctx[testing]'") from _missing

_ROOMS = (
    "arriving",
    "attempts",
    "cancelling",
    "claiming",
    "companions",
    "dependencies",
    "enqueueing",
    "events",
    "expiring",
    "failing",
    "housekeeping",
    "leases",
    "moving",
    "opening",
    "ordering",
    "refusing",
    "scheduling",
    "subscribing",
    "support",
    "waiting",
    "workflows",
)
pytest.register_assert_rewrite(*(f"{__name__}.{room}" for room in _ROOMS))

from workerctx.testing.conformance.arriving import TestMovingClashes as TestMovingClashes
from workerctx.testing.conformance.arriving import TestMovingCompanions as TestMovingCompanions
from workerctx.testing.conformance.arriving import TestMovingFamilies as TestMovingFamilies
from workerctx.testing.conformance.attempts import TestAttempts as TestAttempts
from workerctx.testing.conformance.cancelling import TestCancel as TestCancel
from workerctx.testing.conformance.cancelling import TestCancelWorkflow as TestCancelWorkflow
from workerctx.testing.conformance.cancelling import TestPause as TestPause
from workerctx.testing.conformance.claiming import TestClaim as TestClaim
from workerctx.testing.conformance.claiming import TestSuitability as TestSuitability
from workerctx.testing.conformance.companions import TestRateLimits as TestRateLimits
from workerctx.testing.conformance.companions import TestWorkers as TestWorkers
from workerctx.testing.conformance.dependencies import TestDependencies as TestDependencies
from workerctx.testing.conformance.dependencies import TestParentFailure as TestParentFailure
from workerctx.testing.conformance.enqueueing import TestBulk as TestBulk
from workerctx.testing.conformance.enqueueing import TestEnqueue as TestEnqueue
from workerctx.testing.conformance.enqueueing import TestUniqueKey as TestUniqueKey
from workerctx.testing.conformance.events import TestEvents as TestEvents
from workerctx.testing.conformance.expiring import TestExpiresAt as TestExpiresAt
from workerctx.testing.conformance.failing import TestBackoff as TestBackoff
from workerctx.testing.conformance.failing import TestDeadJobs as TestDeadJobs
from workerctx.testing.conformance.failing import TestErrors as TestErrors
from workerctx.testing.conformance.failing import TestSnooze as TestSnooze
from workerctx.testing.conformance.failing import TestThrottle as TestThrottle
from workerctx.testing.conformance.housekeeping import TestDelete as TestDelete
from workerctx.testing.conformance.housekeeping import TestListing as TestListing
from workerctx.testing.conformance.housekeeping import TestPrune as TestPrune
from workerctx.testing.conformance.housekeeping import TestRetryByHand as TestRetryByHand
from workerctx.testing.conformance.leases import TestExpiry as TestExpiry
from workerctx.testing.conformance.leases import TestFencing as TestFencing
from workerctx.testing.conformance.leases import TestProgress as TestProgress
from workerctx.testing.conformance.leases import TestRenewal as TestRenewal
from workerctx.testing.conformance.moving import TestMove as TestMove
from workerctx.testing.conformance.moving import TestMoving as TestMoving
from workerctx.testing.conformance.moving import pair as pair
from workerctx.testing.conformance.opening import TestNamespaces as TestNamespaces
from workerctx.testing.conformance.opening import TestStorage as TestStorage
from workerctx.testing.conformance.ordering import TestOrder as TestOrder
from workerctx.testing.conformance.ordering import TestQueues as TestQueues
from workerctx.testing.conformance.refusing import TestBadInput as TestBadInput
from workerctx.testing.conformance.refusing import TestNeighbours as TestNeighbours
from workerctx.testing.conformance.scheduling import TestSchedules as TestSchedules
from workerctx.testing.conformance.subscribing import TestSubscribers as TestSubscribers
from workerctx.testing.conformance.support import StorageFactory as StorageFactory
from workerctx.testing.conformance.support import storage as storage
from workerctx.testing.conformance.waiting import TestResult as TestResult
from workerctx.testing.conformance.waiting import TestWakeups as TestWakeups
from workerctx.testing.conformance.workflows import TestWorkflow as TestWorkflow

__all__ = [
    "StorageFactory",
    "TestAttempts",
    "TestBackoff",
    "TestBadInput",
    "TestBulk",
    "TestCancel",
    "TestCancelWorkflow",
    "TestClaim",
    "TestDeadJobs",
    "TestDelete",
    "TestDependencies",
    "TestEnqueue",
    "TestErrors",
    "TestEvents",
    "TestExpiresAt",
    "TestExpiry",
    "TestFencing",
    "TestListing",
    "TestMove",
    "TestMoving",
    "TestMovingClashes",
    "TestMovingCompanions",
    "TestMovingFamilies",
    "TestNamespaces",
    "TestNeighbours",
    "TestOrder",
    "TestParentFailure",
    "TestPause",
    "TestProgress",
    "TestPrune",
    "TestQueues",
    "TestRateLimits",
    "TestRenewal",
    "TestResult",
    "TestRetryByHand",
    "TestSchedules",
    "TestSnooze",
    "TestStorage",
    "TestSubscribers",
    "TestSuitability",
    "TestThrottle",
    "TestUniqueKey",
    "TestWakeups",
    "TestWorkers",
    "TestWorkflow",
    "pair",
    "storage",
]
