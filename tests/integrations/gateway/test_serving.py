"""A worker at a gateway: it registers, is handed jobs as far as it has room, and tells what became of them."""

from __future__ import annotations

from workerctx.queue import EnqueueRequest, JobState


async def enqueue(storage, number, kind="resize", **options):
    outcomes = await storage.jobs.enqueue_bulk([EnqueueRequest(kind, {"n": n}, **options) for n in range(number)])
    return [outcome.id for outcome in outcomes]


async def test_jobs_go_out_and_results_come_back(gateway, storage, peer_of):
    """R1, R4: after registration jobs go out under a lease, and a result is acknowledged once it is stored."""
    async with gateway, peer_of(gateway) as worker:
        ack = await worker.register()
        assert (ack.worker_id, ack.namespace) == ("w1", "default")
        ids = await enqueue(storage, 3)
        tasks = await worker.tasks(3)
        assert [task.job.id for task in tasks] == ids
        assert tasks[0].job.payload == b'{"n":0}'
        assert tasks[0].job.attempt == 1
        await worker.finish(*tasks, outputs=b'"done"')
        jobs = [await storage.jobs.get(job_id) for job_id in ids]
        assert {(job.state, job.result, job.worker_id) for job in jobs} == {(JobState.SUCCEEDED, "done", "w1")}
