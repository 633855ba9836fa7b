"""Cancelling jobs and workflows, and pausing queues."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from workerctx.errors import InvalidRequest, JobNotFound
from workerctx.queue.finish import ThrottleLease
from workerctx.queue.model import CancelReason, JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    StorageFactory,
    add,
    claim_all,
    dead_job,
    kinds,
    prefetch,
    state_of,
    succeeded_job,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestCancel:
    """One job."""

    @pytest.mark.parametrize("wait", ["queued", "scheduled", "blocked", "retry"])
    async def test_a_waiting_job(self, storage: Storage, wait: str) -> None:
        """Q7: a job that does not run is cancelled at once and never runs."""
        match wait:
            case "scheduled":
                job_id = await add(storage, delay=10)
            case "blocked":
                parent = await add(storage, queue="elsewhere")
                job_id = await add(storage, depends_on=[parent])
            case "retry":
                job_id = await add(storage)
                await storage.jobs.fail((await take_lease(storage)).id, "boom", delay=10)
            case _:
                job_id = await add(storage)
        assert await storage.jobs.cancel(job_id) is True
        job = await storage.jobs.get(job_id)
        assert job.state is JobState.CANCELLED
        assert job.error is not None
        assert job.finished_at == pytest.approx(await storage.now(), abs=5)
        assert await storage.jobs.is_cancelled(job_id)
        await advance(storage, 20)
        assert await storage.jobs.claim("worker-1") is None

    async def test_a_running_job_is_told(self, storage: Storage) -> None:
        """Q7: a running job goes on until its worker, told with the next renewal, stops it."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        assert await storage.jobs.cancel(job_id) is True
        assert await storage.jobs.cancel(job_id) is True
        job = await storage.jobs.get(job_id)
        assert (job.state, job.cancel_requested) == (JobState.RUNNING, CancelReason.USER)
        assert await storage.jobs.is_cancelled(job_id)
        renewed = await storage.jobs.renew_leases([lease.id])
        assert (renewed.lost, renewed.cancelled) == ((), {lease.id: CancelReason.USER})

    async def test_another_process_is_told(self, storage_factory: StorageFactory) -> None:
        """Q7: the cancel reaches the owner wherever it is."""
        async with storage_factory() as owner, storage_factory() as other:
            job_id = await add(owner)
            lease = await take_lease(owner)
            await other.jobs.cancel(job_id)
            assert (await owner.jobs.renew_leases([lease.id])).cancelled == {lease.id: CancelReason.USER}

    async def test_success_beats_cancel(self, storage: Storage) -> None:
        """Q7: a run that succeeds although it was cancelled has succeeded."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.cancel(job_id)
        await storage.jobs.complete(lease.id, "done")
        job = await storage.jobs.get(job_id)
        assert (job.state, job.result, job.error) == (JobState.SUCCEEDED, "done", None)
        assert not await storage.jobs.is_cancelled(job_id)

    @pytest.mark.parametrize(
        "end", ["fail", "fail for good", "release", "snooze", "throttle", "expire", "expire unbegun"]
    )
    async def test_a_cancelled_job_never_runs_again(self, storage: Storage, end: str) -> None:
        """Q7: however else the run of a cancelled job ends, the job is cancelled and not tried again."""
        job_id = await add(storage, retry=NO_WAIT)
        claim = prefetch if "unbegun" in end else take
        _, lease = await claim(storage, lease_ttl=5)
        await storage.jobs.cancel(job_id)
        match end:
            case "fail" | "fail for good":
                await storage.jobs.fail(lease.id, "boom", retryable=end == "fail")
            case "release":
                await storage.jobs.release(lease.id)
            case "snooze":
                await storage.jobs.snooze(lease.id, delay=1)
            case "throttle":
                await storage.jobs.finish_many([ThrottleLease(lease.id, 1.0)])
            case _:
                await advance(storage, 6)
                await storage.jobs.reap_expired_leases()
        assert await state_of(storage, job_id) is JobState.CANCELLED
        await advance(storage, 5)
        assert await storage.jobs.claim("worker-1") is None

    async def test_the_failure_is_still_told(self, storage: Storage) -> None:
        """Q7: what a cancelled run died of stays in its history."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.cancel(job_id)
        await storage.jobs.fail(lease.id, "interrupted")
        history = (await storage.jobs.get(job_id)).error_history
        assert "interrupted" in [entry.error.message for entry in history]

    async def test_a_finished_job_stays(self, storage: Storage) -> None:
        """Q7: there is nothing to cancel in a job that has ended."""
        for job_id in (await succeeded_job(storage), await dead_job(storage)):
            before = await storage.jobs.get(job_id)
            assert await storage.jobs.cancel(job_id) is False
            assert await storage.jobs.get(job_id) == before

    async def test_an_unknown_job(self, storage: Storage) -> None:
        """Q7: cancelling a job that does not exist is an error."""
        with pytest.raises(JobNotFound):
            await storage.jobs.cancel("nobody")
        with pytest.raises(JobNotFound):
            await storage.jobs.is_cancelled("nobody")

    async def test_no_stale_cancel(self, storage: Storage) -> None:
        """Q7: a job that is put back by hand after a cancel starts without the old cancel."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.cancel(job_id)
        await storage.jobs.fail(lease.id, "boom")
        await storage.jobs.retry(job_id)
        job, lease = await take(storage)
        assert job.cancel_requested is None
        assert (await storage.jobs.renew_leases([lease.id])).cancelled == {}
        assert not await storage.jobs.is_cancelled(job_id)


@pytest.mark.anyio
class TestCancelWorkflow:
    """Everything that belongs together."""

    async def test_every_job_of_the_workflow(self, storage: Storage) -> None:
        """Q7: waiting jobs are cancelled, running ones are told, others are left alone."""
        running = await add(storage, workflow_id="wf")
        lease = await take_lease(storage)
        queued = await add(storage, workflow_id="wf")
        delayed = await add(storage, workflow_id="wf", delay=60)
        blocked = await add(storage, workflow_id="wf", depends_on=[running], on_parent_failure="run")
        other = await add(storage, workflow_id="other")
        plain = await add(storage)
        assert await storage.jobs.cancel_workflow("wf") == 4
        for job_id in (queued, delayed, blocked):
            assert await state_of(storage, job_id) is JobState.CANCELLED
        assert await storage.jobs.is_cancelled(running)
        assert (await storage.jobs.renew_leases([lease.id])).cancelled == {lease.id: CancelReason.USER}
        assert {job.id for job, _ in await claim_all(storage)} == {other, plain}

    async def test_none_of_them_is_let_go_on(self, storage: Storage) -> None:
        """Q7: a job that would run after its parent's failure is cancelled with the workflow all the same."""
        parent = await add(storage, workflow_id="wf")
        child = await add(storage, workflow_id="wf", depends_on=[parent], on_parent_failure="run")
        await storage.jobs.cancel_workflow("wf")
        assert await state_of(storage, child) is JobState.CANCELLED
        assert await storage.jobs.claim("worker-1") is None

    async def test_jobs_that_come_later(self, storage: Storage) -> None:
        """Q7: a job enqueued into a cancelled workflow is cancelled, until the workflow is cleared."""
        assert await storage.jobs.cancel_workflow("wf") == 0
        single = await add(storage, workflow_id="wf")
        (bulk,) = await storage.jobs.enqueue_bulk([EnqueueRequest("work", workflow_id="wf", delay=5)])
        for job_id in (single, bulk.id):
            assert await state_of(storage, job_id) is JobState.CANCELLED
            assert await storage.jobs.is_cancelled(job_id)
        await storage.jobs.clear_workflow("wf")
        again = await add(storage, workflow_id="wf")
        assert (await take(storage))[0].id == again

    async def test_a_late_job_holds_no_key(self, storage: Storage) -> None:
        """Q8: a job that is cancelled as it arrives does not keep its unique key."""
        await storage.jobs.cancel_workflow("wf")
        await add(storage, workflow_id="wf", unique_key="k")
        outcome = await storage.jobs.enqueue(EnqueueRequest("work", unique_key="k"))
        assert not outcome.deduped

    async def test_clearing_is_always_allowed(self, storage: Storage) -> None:
        """Q7: clearing a workflow that is not cancelled changes nothing."""
        await storage.jobs.clear_workflow("wf")
        assert await state_of(storage, await add(storage, workflow_id="wf")) is JobState.QUEUED


@pytest.mark.anyio
class TestPause:
    """Queues that stand still."""

    async def test_nobody_claims(self, storage_factory: StorageFactory) -> None:
        """Q7: a paused queue gives nothing to anybody in the cluster, other queues go on, resuming ends it."""
        async with storage_factory() as here, storage_factory() as there:
            await add(here, "held", queue="a")
            await add(here, "free", queue="b")
            await here.jobs.pause_queue("a")
            for storage in (here, there):
                assert await storage.jobs.claim("worker-1", queues=["a"]) is None
            assert kinds(await claim_all(there, queues=["a", "b"])) == ["free"]
            await there.jobs.resume_queue("a")
            assert kinds(await claim_all(here, queues=["a"])) == ["held"]

    async def test_a_pause_that_ends(self, storage: Storage) -> None:
        """Q7: a queue paused until a moment resumes by itself."""
        now = await storage.now()
        await add(storage)
        await storage.jobs.pause_queue("default", until=datetime.fromtimestamp(now + 30, UTC))
        assert await storage.jobs.claim("worker-1") is None
        await advance(storage, 31)
        await take(storage)

    async def test_a_pause_that_is_over_already(self, storage: Storage) -> None:
        """Q7: a pause until a moment in the past holds up nobody."""
        await add(storage)
        await storage.jobs.pause_queue("default", until=await storage.now() - 1)
        await take(storage)

    async def test_running_jobs_go_on(self, storage: Storage) -> None:
        """Q7: a pause alone leaves running jobs in peace, and they can be finished."""
        await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.pause_queue("default")
        assert (await storage.jobs.renew_leases([lease.id])).cancelled == {}
        await storage.jobs.complete(lease.id)

    async def test_running_jobs_are_given_back(self, storage: Storage) -> None:
        """Q7: with cancel_running the workers are told why, and the jobs they release wait for the queue."""
        job_id = await add(storage, max_attempts=1)
        elsewhere = await add(storage, queue="other")
        lease = await take_lease(storage)
        other = await take_lease(storage, queues=["other"])
        await storage.jobs.pause_queue("default", cancel_running=True)
        renewed = await storage.jobs.renew_leases([lease.id, other.id])
        assert renewed.cancelled == {lease.id: CancelReason.QUEUE_PAUSED}
        assert not await storage.jobs.is_cancelled(job_id)
        await storage.jobs.release(lease.id)
        assert await state_of(storage, job_id) is JobState.QUEUED
        assert await storage.jobs.claim("worker-1") is None
        await storage.jobs.resume_queue("default")
        job, lease = await take(storage)
        assert (job.id, job.attempt, job.cancel_requested) == (job_id, 1, None)
        assert await state_of(storage, elsewhere) is JobState.RUNNING

    async def test_a_users_cancel_is_stronger(self, storage: Storage) -> None:
        """Q7: a job that a user cancelled is not put back because its queue is paused too."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        await storage.jobs.cancel(job_id)
        await storage.jobs.pause_queue("default", cancel_running=True)
        assert (await storage.jobs.renew_leases([lease.id])).cancelled == {lease.id: CancelReason.USER}
        await storage.jobs.release(lease.id)
        assert await state_of(storage, job_id) is JobState.CANCELLED

    async def test_a_paused_queue_takes_jobs(self, storage: Storage) -> None:
        """Q7: jobs can be enqueued into, retried in and cancelled in a paused queue."""
        await storage.jobs.pause_queue("default")
        job_id = await add(storage)
        await storage.jobs.cancel(job_id)
        await storage.jobs.retry(job_id)
        assert await state_of(storage, job_id) is JobState.QUEUED

    async def test_a_pause_is_shown(self, storage: Storage) -> None:
        """Q7: a paused queue is listed, with jobs or without, and until when."""
        until = await storage.now() + 60
        await storage.jobs.pause_queue("a", until=until)
        await storage.jobs.pause_queue("b")
        await add(storage, queue="c")
        infos = {info.name: info for info in await storage.jobs.queues()}
        assert sorted(infos) == ["a", "b", "c"]
        assert [infos[name].paused for name in "abc"] == [True, True, False]
        assert infos["a"].paused_until == pytest.approx(until, abs=0.001)
        assert infos["b"].paused_until is None
        await storage.jobs.resume_queue("a")
        await storage.jobs.resume_queue("b")
        assert [info.name for info in await storage.jobs.queues()] == ["c"]

    @pytest.mark.parametrize("name", ["", "a\ud800"])
    async def test_a_queue_needs_a_name(self, storage: Storage, name: str) -> None:
        """Q13: what is no name of a queue can neither be paused nor resumed nor woken."""
        with pytest.raises(InvalidRequest):
            await storage.jobs.pause_queue(name)
        with pytest.raises(InvalidRequest):
            await storage.jobs.resume_queue(name)
        with pytest.raises(InvalidRequest):
            await storage.jobs.wake(name)
