"""Jobs whose time to run by has passed."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    add,
    claim_all,
    state_of,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestExpiresAt:
    """Jobs that nobody needs any more."""

    @pytest.mark.parametrize("notice", ["claim", "reap"])
    async def test_an_expired_job_never_runs(self, storage: Storage, notice: str) -> None:
        """Q18: a job whose time has passed is cancelled with the reason ``expired``."""
        job_id = await add(storage, expires_at=await storage.now() + 10)
        await advance(storage, 11)
        if notice == "claim":
            assert await storage.jobs.claim("worker-1") is None
        else:
            assert [event.job_id for event in await storage.jobs.reap_expired_leases()] == [job_id]
        job = await storage.jobs.get(job_id)
        assert job.state is JobState.CANCELLED
        assert job.error is not None
        assert "expired" in job.error.message

    async def test_in_time(self, storage: Storage) -> None:
        """Q18: a run that began in time goes on."""
        await add(storage, expires_at=await storage.now() + 10)
        lease = await take_lease(storage)
        await advance(storage, 11)
        await storage.jobs.reap_expired_leases()
        await storage.jobs.complete(lease.id)

    async def test_a_retry_after_the_time(self, storage: Storage) -> None:
        """Q18: a job that is put back after its time does not run again."""
        job_id = await add(storage, expires_at=await storage.now() + 10, retry=NO_WAIT)
        lease = await take_lease(storage)
        await advance(storage, 11)
        await storage.jobs.fail(lease.id, "boom")
        assert await storage.jobs.claim("worker-1") is None
        assert await state_of(storage, job_id) is JobState.CANCELLED

    async def test_an_expired_job_does_not_hide_others(self, storage: Storage) -> None:
        """Q18: expired jobs at the head of a queue do not keep a claim from the ones behind."""
        soon = await storage.now() + 10
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", expires_at=soon, priority=1) for _ in range(300))
        job_id = await add(storage)
        await advance(storage, 11)
        found = await claim_all(storage, limit=5)
        assert [job.id for job, _ in found] == [job_id]
        await storage.jobs.reap_expired_leases()
        assert (await storage.jobs.counts())[JobState.CANCELLED] == 300

    async def test_a_blocked_job_expires(self, storage: Storage) -> None:
        """Q18: a job that still waits for others when its time has passed is cancelled too."""
        parent = await add(storage)
        child = await add(storage, depends_on=[parent], expires_at=await storage.now() + 10)
        await advance(storage, 11)
        await storage.jobs.reap_expired_leases()
        assert await state_of(storage, child) is JobState.CANCELLED
        assert await state_of(storage, parent) is JobState.QUEUED
