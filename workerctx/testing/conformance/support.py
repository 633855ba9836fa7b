"""What the tests of the suite share: the storage fixture and short words for common steps."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import attrs
import pytest

from workerctx.queue.events import JobEvent, Lagged
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.retry import Constant

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.base import Storage
    from workerctx.queue.model import Claimed, JobState, Lease, QueuedJob

NO_WAIT = Constant(0.0)
"""A retry policy that puts a job back at once."""

PATIENCE = 10.0
"""Seconds after which something that should happen at once is taken not to happen at all."""


class StorageFactory(Protocol):
    """What the ``storage_factory`` fixture returns."""

    def __call__(self, namespace: str = "default") -> Storage:
        """Return a new, unopened Storage on the test's data."""
        ...


@pytest.fixture
async def storage(storage_factory: StorageFactory) -> AsyncGenerator[Storage]:
    """Open one Storage for a test."""
    async with storage_factory() as opened:
        yield opened


async def add(storage: Storage, kind: str = "work", payload: Any = None, **options: Any) -> str:
    """Enqueue a job and return its id."""
    return (await storage.jobs.enqueue(EnqueueRequest(kind, payload, **options))).id


async def take(storage: Storage, worker_id: str = "worker-1", **options: Any) -> Claimed:
    """Claim the next job, which must be there."""
    claimed = await storage.jobs.claim(worker_id, **options)
    assert claimed is not None, "there is nothing to claim"
    return claimed


async def take_lease(storage: Storage, **options: Any) -> Lease:
    """Claim the next job and return its lease."""
    return (await take(storage, **options))[1]


async def prefetch(storage: Storage, **options: Any) -> Claimed:
    """Claim the next job for a run that does not begin yet."""
    (claimed,) = await storage.jobs.claim_many("worker-1", limit=1, began=False, **options)
    return claimed


async def state_of(storage: Storage, job_id: str) -> JobState:
    """Return the state of a job."""
    return (await storage.jobs.get(job_id)).state


async def dead_job(storage: Storage, error: str = "boom", **options: Any) -> str:
    """Make a job and let it die."""
    job_id = await add(storage, **options)
    lease = await take_lease(storage, queues=[options.get("queue", "default")])
    await storage.jobs.fail(lease.id, error, retryable=False)
    return job_id


async def succeeded_job(storage: Storage, outputs: Any = None, **options: Any) -> str:
    """Make a job and let it succeed."""
    job_id = await add(storage, **options)
    lease = await take_lease(storage, queues=[options.get("queue", "default")])
    await storage.jobs.complete(lease.id, outputs)
    return job_id


async def claim_all(storage: Storage, worker_id: str = "worker-1", **options: Any) -> list[Claimed]:
    """Claim until nothing is left."""
    found: list[Claimed] = []
    while claimed := await storage.jobs.claim_many(worker_id, **options):
        found.extend(claimed)
    return found


def kinds(claimed: Sequence[Claimed]) -> list[str]:
    """Return the kinds of claimed jobs, in order."""
    return [job.kind for job, _ in claimed]


def payloads(claimed: Sequence[Claimed]) -> list[Any]:
    """Return the payloads of claimed jobs, in order."""
    return [job.payload for job, _ in claimed]


def ids(jobs: Sequence[QueuedJob]) -> list[str]:
    """Return the ids of jobs, in order."""
    return [job.id for job in jobs]


def refused(outcomes: Sequence[QueueError | None]) -> list[type[QueueError] | None]:
    """Return the classes of the errors of a batch, in order."""
    return [None if outcome is None else type(outcome) for outcome in outcomes]


@attrs.define(eq=False)
class Listener:
    """Reads a subscription up to a moment, without waiting for what does not come."""

    _storage: Storage
    _stream: AsyncIterator[JobEvent | Lagged]

    async def heard(self) -> list[JobEvent | Lagged]:
        """Return what was published since the last call."""
        mark = await add(self._storage, "mark", queue="marks")
        found: list[JobEvent | Lagged] = []
        with anyio.fail_after(PATIENCE):
            async for event in self._stream:
                if isinstance(event, JobEvent) and event.job_id == mark:
                    break
                found.append(event)
        return found

    async def words(self) -> list[str]:
        """Return the class names of what was published since the last call."""
        return [type(event).__name__ for event in await self.heard()]


@asynccontextmanager
async def listening(storage: Storage) -> AsyncGenerator[Listener]:
    """Subscribe for the length of a block."""
    async with storage.jobs.subscribe() as stream:
        yield Listener(storage, stream)
