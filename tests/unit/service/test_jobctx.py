"""`JobCtx`: what a handler knows and can do, and how it learns that it should stop."""

from __future__ import annotations

import logging
import threading

import anyio
import pytest

from workerctx.errors import InvalidRequest, MissingData, RunCancelled, Snooze, StoreBusy, Throttled, UnknownScope
from workerctx.lifecycle import WorkerContext
from workerctx.queue import CancelReason, EnqueueRequest, Granted, QueuedJob
from workerctx.service import CallableRouter, JobCancel, JobCtx, KindPrefixRouter, Site


def context(storage, **job) -> JobCtx:
    site = Site(storage, router=KindPrefixRouter({"gh_": "gh"}), host_id="host")
    return JobCtx(QueuedJob(id="1", kind="gh_pull", queue="gh", attempt=2, **job), site, "gh-3-host")


async def test_the_context_is_data_over_the_storage(storage):
    """W7: storage, router, rate_limit, job_id, process_id, host_id, cancel, worker, job and attempt."""
    async with WorkerContext("mailer") as worker:
        ctx = JobCtx(context(storage).job, Site(storage, worker, host_id="host"), "gh-3-host")
        assert (ctx.job_id, ctx.attempt, ctx.kind, ctx.queue) == ("1", 2, "gh_pull", "gh")
        assert (ctx.process_id, ctx.host_id) == ("gh-3-host", "host")
        assert ctx.storage is storage
        assert ctx.rate_limit is storage.rate_limits
        assert ctx.worker is worker
        assert ctx.router.route("x") == "default"
        assert ctx.upstream_outputs == {}
        assert not ctx.stopping
        worker.stop()
        assert ctx.stopping
    assert not context(storage).stopping


async def test_follow_up_jobs_are_routed(storage):
    """W7: `enqueue` applies the router where the request names no queue of its own."""
    ctx = context(storage)
    routed = await ctx.enqueue(EnqueueRequest("gh_issue"))
    pinned = await ctx.enqueue(EnqueueRequest("gh_issue", queue="slow"))
    default = await ctx.enqueue(EnqueueRequest("gh_issue", queue="default").with_options(priority=1))
    other = await ctx.enqueue(EnqueueRequest("mail").with_options(priority=1))
    queues = [(await storage.jobs.get(outcome.id)).queue for outcome in (routed, pinned, default, other)]
    assert queues == ["gh", "slow", "default", "default"]


def test_a_request_knows_whether_its_queue_was_named():
    """W7: the queue ``default`` by name is not the same as no queue; a change of other options keeps the difference."""
    assert EnqueueRequest("a").queue == EnqueueRequest("a", queue="default").queue == "default"
    assert EnqueueRequest("a").with_options(delay=1).pinned_queue is None
    assert EnqueueRequest("a", queue="default").with_options(delay=1).pinned_queue == "default"
    with pytest.raises(InvalidRequest, match="a queue's name"):
        EnqueueRequest("a", queue="")


async def test_follow_up_jobs_inherit_tenant_workflow_and_trace(storage):
    """Tenant, workflow and trace headers travel along, unless the request has its own."""
    headers = {"traceparent": "00-a-b-01", "other": "x"}
    ctx = context(storage, tenant_id="t1", workflow_id="w1", headers=headers)
    plain, own = await ctx.enqueue_bulk(
        [
            EnqueueRequest("mail"),
            EnqueueRequest("mail", tenant_id="t2", workflow_id="w2", headers={"traceparent": "own", "mine": "y"}),
        ]
    )
    first, second = await storage.jobs.get(plain.id), await storage.jobs.get(own.id)
    assert (first.tenant_id, first.workflow_id, first.headers) == ("t1", "w1", {"traceparent": "00-a-b-01"})
    assert (second.tenant_id, second.workflow_id) == ("t2", "w2")
    assert second.headers == {"traceparent": "own", "mine": "y"}


async def test_bulk_is_all_or_none(storage):
    """Q9: if one follow-up job cannot be added, none is."""
    ctx = context(storage)
    with pytest.raises(Exception, match="nobody"):
        await ctx.enqueue_bulk([EnqueueRequest("mail"), EnqueueRequest("mail", depends_on=["nobody"])])
    assert not (await storage.jobs.list()).jobs


class BusyJobs:
    """A queue in front of a real one that is busy a few times first."""

    def __init__(self, inner, failures: int) -> None:
        self.inner, self.failures, self.calls = inner, failures, 0

    async def enqueue(self, request):
        self.calls += 1
        if self.calls <= self.failures:
            raise StoreBusy("busy")
        return await self.inner.enqueue(request)


class BusyStorage:
    def __init__(self, inner, failures: int) -> None:
        self.jobs = BusyJobs(inner.jobs, failures)


@pytest.mark.parametrize(("failures", "calls"), [(0, 1), (3, 4)])
async def test_a_busy_store_is_asked_three_times_more(storage, monkeypatch, failures, calls):
    """W7: a transient conflict is retried after 0.1, 0.3 and 1 s, so that a fan-out does not fail of it."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("workerctx.service.jobctx.anyio.sleep", sleep)
    busy = BusyStorage(storage, failures)
    outcome = await JobCtx(QueuedJob(id="1", kind="a"), Site(busy)).enqueue(EnqueueRequest("mail"))
    assert (await storage.jobs.get(outcome.id)).kind == "mail"
    assert busy.jobs.calls == calls
    assert waits == [0.1, 0.3, 1.0][:failures]


async def test_a_store_that_stays_busy_and_other_errors_come_through(storage, monkeypatch):
    """After the last try the error is the handler's to see; other errors are not retried."""

    async def sleep(seconds: float) -> None: ...

    monkeypatch.setattr("workerctx.service.jobctx.anyio.sleep", sleep)
    busy = BusyStorage(storage, 9)
    with pytest.raises(StoreBusy):
        await JobCtx(QueuedJob(id="1", kind="a"), Site(busy)).enqueue(EnqueueRequest("mail"))
    assert busy.jobs.calls == 4
    with pytest.raises(Exception, match="nobody"):
        await context(storage).enqueue(EnqueueRequest("mail", depends_on=["nobody"]))


async def test_threads_use_the_sync_side(jobs, run, storage):
    """Decision 17: a handler in a thread enqueues and takes from limits through `ctx.sync`."""
    await storage.rate_limits.configure("gh", capacity=1, per=60)
    await storage.rate_limits.configure("mail", capacity=5, per=60)

    @jobs.register(name="job")
    def job(ctx: JobCtx) -> list[str]:
        one = ctx.sync.enqueue(EnqueueRequest("mail"))
        many = ctx.sync.enqueue_bulk([EnqueueRequest("mail"), EnqueueRequest("mail")])
        assert isinstance(ctx.sync.acquire("gh"), Granted)
        assert isinstance(ctx.sync.acquire("gh"), Throttled)
        with pytest.raises(UnknownScope):
            ctx.sync.acquire("nobody")
        ctx.sync.drain("mail", retry_after=60)
        assert isinstance(ctx.sync.acquire("mail", amount=2), Throttled)
        assert ctx.sync.sleep(0)
        return [one.id, *(each.id for each in many)]

    assert len(set(await run(job))) == 3
    assert len((await storage.jobs.list()).jobs) == 3


async def test_progress_goes_to_who_runs_the_job(storage):
    """Progress is handed on from any thread; a runner that keeps none says so."""
    seen: list[object] = []
    ctx = JobCtx(QueuedJob(id="1", kind="a"), Site(storage, report=lambda ctx, value: seen.append((ctx.job_id, value))))
    ctx.progress(1)
    await anyio.to_thread.run_sync(ctx.progress, 2, 4)
    ctx.progress(3)
    assert seen == [("1", {"done": 1}), ("1", {"done": 2, "total": 4}), ("1", {"done": 3})]
    with pytest.raises(MissingData, match="stores no progress"):
        context(storage).progress(1)


async def test_a_heartbeat_stands_beside_the_progress(storage):
    """`heartbeat(detail)` says what the run does; neither it nor the progress overwrites the other."""
    seen: list[object] = []
    ctx = JobCtx(QueuedJob(id="1", kind="a"), Site(storage, report=lambda ctx, value: seen.append(value)))
    ctx.heartbeat()
    ctx.progress(0, 4)
    await anyio.to_thread.run_sync(ctx.heartbeat, {"file": "cat.jpg"})
    ctx.progress(1, 4)
    ctx.heartbeat()
    assert seen == [
        {},
        {"done": 0, "total": 4},
        {"done": 0, "total": 4, "detail": {"file": "cat.jpg"}},
        {"done": 1, "total": 4, "detail": {"file": "cat.jpg"}},
        {"done": 1, "total": 4},
    ]
    with pytest.raises(MissingData, match="stores no progress"):
        context(storage).heartbeat("alive")


@pytest.mark.usefixtures("virtual_time")
async def test_a_sleep_ends_early_when_the_run_should(storage):
    """`ctx.sleep` tells whether it slept in full; a cancel of the run or a stop of the worker ends it."""
    ctx = context(storage)
    began = anyio.current_time()
    assert await ctx.sleep(5)
    assert anyio.current_time() - began == 5
    async with anyio.create_task_group() as group, WorkerContext("mailer") as worker:
        group.start_soon(after, 1, ctx.cancel.set, CancelReason.USER)
        assert not await ctx.sleep(5)
        assert not await ctx.sleep(5)
        here = JobCtx(ctx.job, Site(storage, worker))
        assert await here.sleep(5)
        group.start_soon(after, 1, here.cancel.set, CancelReason.LEASE_LOST)
        assert not await here.sleep(5)
        another = JobCtx(ctx.job, Site(storage, worker))
        group.start_soon(after, 1, worker.stop)
        assert not await another.sleep(5)
    assert anyio.current_time() - began == 13


async def after(seconds: float, function, *args) -> None:
    await anyio.sleep(seconds)
    function(*args)


async def test_a_handler_can_tie_a_scope_of_its_own_to_the_cancel():
    """`cancel.cancelling(scope)` cancels it from the moment the run is being cancelled, and only inside the block."""
    cancel = JobCancel()
    before = anyio.CancelScope()
    with cancel.cancelling(before):
        assert not before.cancel_called
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope, cancel.cancelling(scope):
            group.start_soon(after, 0, cancel.set, CancelReason.SHUTDOWN)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not before.cancel_called
    with anyio.CancelScope() as late, cancel.cancelling(late):
        await anyio.sleep_forever()
    assert late.cancelled_caught


async def test_snooze_ends_the_run(storage):
    """`ctx.snooze(seconds)` is the same as raising Snooze."""
    with pytest.raises(Snooze, match="put off for 30 s") as caught:
        context(storage).snooze(30)
    assert caught.value.seconds == 30


async def test_the_logger_is_bound_to_the_run(storage, caplog):
    """Every record names kind, id and attempt, in its text and in `extra`."""
    with caplog.at_level(logging.INFO, "workerctx"):
        context(storage).log.info("halfway of %d", 3, extra={"more": 1})
    record = caplog.records[0]
    assert record.getMessage() == "gh_pull 1 (run 2): halfway of 3"
    assert (record.kind, record.job_id, record.attempt, record.more) == ("gh_pull", "1", 2, 1)


async def test_a_run_learns_that_and_why_it_should_stop():
    """W7: the first reason stays; every waiter learns it, whenever it comes."""
    cancel = JobCancel()
    reasons: list[CancelReason] = []
    assert cancel.reason is None
    cancel.check()

    async def wait() -> None:
        reasons.append(await cancel.wait())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not cancel.is_set()
        assert cancel.set(CancelReason.SHUTDOWN)
        assert not cancel.set(CancelReason.USER)
    assert await cancel.wait() is CancelReason.SHUTDOWN
    assert reasons == [CancelReason.SHUTDOWN] * 2
    with pytest.raises(RunCancelled, match=r"being cancelled \(shutdown\)") as caught:
        cancel.check()
    assert caught.value.reason == "shutdown"


async def test_a_sleeping_handler_is_woken_from_a_thread(jobs, run):
    """Item 40: a cancel wakes a handler that waits for it, at once, whatever thread it comes from."""
    cancel = JobCancel()
    async with anyio.create_task_group() as group:
        group.start_soon(cancel.wait)
        await anyio.wait_all_tasks_blocked()
        thread = threading.Thread(target=cancel.set, args=(CancelReason.LEASE_LOST,))
        thread.start()
        with anyio.fail_after(10):
            assert await cancel.wait() is CancelReason.LEASE_LOST
        thread.join()


async def test_a_cancelled_waiter_leaves_nothing():
    """A handler that stops waiting touches nobody else."""
    cancel = JobCancel()
    with anyio.move_on_after(0):
        await cancel.wait()
    assert not cancel.is_set()
    assert cancel.set(CancelReason.USER)


def test_a_function_can_be_the_router():
    """Routers are objects with `route`; a function becomes one."""
    assert CallableRouter(str.upper).route("a") == "A"
