"""A remote worker from end to end, over sessions in memory."""

import random
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from anyio import to_thread
from attrs import evolve

from workerctx import Credentials, JobCtx, JobRegistry, RemoteConfig, Shutdown, Worker
from workerctx.errors import (
    Abort,
    InvalidConfig,
    InvalidHandler,
    InvalidRequest,
    InvalidTransition,
    JobFailed,
    JobNotFound,
    PermissionDenied,
    QueueError,
    RegistrationFailed,
    RegistryInUse,
    RetryAfter,
    SessionLost,
    Snooze,
    Throttled,
    UnknownScope,
)
from workerctx.lifecycle import Idle, Outcome, Start
from workerctx.queue import CancelReason, CompleteLease, EnqueueRequest, JobState
from workerctx.remote import ReconnectConfig, UnackedResults
from workerctx.remote.asks import Asks
from workerctx.remote.calls import GetJob
from workerctx.remote.faults import Fault
from workerctx.remote.frames import (
    Began,
    Cancel,
    Credit,
    Drain,
    Failure,
    Heartbeat,
    HeartbeatAck,
    Progress,
    Register,
    RegisterAck,
    Reply,
    Result,
    ResultAck,
)
from workerctx.runtime import JobLost
from workerctx.service.layers import Timeout
from workerctx.testing import wait_until
from workerctx.testing.sessions import session_pair


async def test_a_job_is_run_far_from_its_store(jobs, serving, enqueue, loopback):
    """W7, R1: a handler runs jobs that a gateway sends, after the worker has registered with all that it can do."""

    @jobs.register(aliases=["former"])
    async def add(a: int, b: int) -> int:
        return a + b

    async with serving(jobs) as worker:
        job_id = await enqueue(add.request(1, 2))
        assert await loopback.storage.jobs.result(job_id, timeout=10) == 3
        assert worker.context.is_ready
    register = loopback.heard[0]
    assert isinstance(register, Register)
    assert set(register.kinds) == {add.kind, "former"}
    assert register.concurrency == 3
    assert worker.context.outcome is Outcome.CLEAN
    assert (await loopback.storage.jobs.get(job_id)).attempt == 1


async def test_a_handler_cannot_tell_where_it_runs(jobs, serving, enqueue, loopback):
    """W7: a remote JobCtx enqueues, waits for results, is limited, reports progress and looks like any other."""
    limits = loopback.storage.rate_limits
    await limits.configure("api", capacity=1, per=1000)

    @jobs.register
    async def child(n: int) -> int:
        return n * 2

    @jobs.register
    async def probe(ctx: JobCtx) -> dict[str, object]:
        one = await child.enqueue(1)
        two = await ctx.enqueue(child.request(2).with_options(unique_key="two"))
        again = await ctx.enqueue_bulk([child.request(2).with_options(unique_key="two"), child.request(3)])
        seen: dict[str, object] = {"results": [await one.result(10), await ctx.storage.jobs.result(two.id, timeout=10)]}
        seen["deduped"] = [outcome.deduped for outcome in again]
        seen["first"] = type(await ctx.rate_limit.acquire("api")).__name__
        seen["second"] = type(await ctx.rate_limit.acquire("api")).__name__
        await ctx.rate_limit.drain("api", retry_after=5)
        seen["limits"] = [limit.scope for limit in await ctx.rate_limit.list()]
        with pytest.raises(UnknownScope):
            await ctx.rate_limit.acquire("nothing")
        with pytest.raises(JobNotFound) as missing:
            await ctx.storage.jobs.get("nobody")
        seen["missing"] = missing.value.job_id
        seen["state"] = (await ctx.storage.jobs.get(ctx.job_id)).state
        seen["counts"] = (await ctx.storage.jobs.counts())[JobState.RUNNING]
        seen["page"] = [job.kind for job in (await ctx.storage.jobs.list(state=JobState.RUNNING)).jobs]
        seen["cancelled"] = await ctx.storage.jobs.is_cancelled(ctx.job_id)
        seen["now"] = (await ctx.storage.now()) > 1e9
        seen["attempt"] = ctx.attempt
        seen["namespace"] = ctx.storage.namespace
        ctx.progress(1, 2)

        async def stored() -> bool:
            return (await ctx.storage.jobs.get(ctx.job_id)).progress is not None

        await wait_until(stored)
        return seen

    async with serving(jobs):
        far = await loopback.storage.jobs.result(await enqueue(probe.request()), timeout=20)
    assert far == {
        "results": [2, 4],
        "deduped": far["deduped"],
        "first": "Granted",
        "second": "Throttled",
        "limits": ["api"],
        "missing": "nobody",
        "state": "running",
        "counts": far["counts"],
        "page": far["page"],
        "cancelled": False,
        "now": True,
        "attempt": 1,
        "namespace": "default",
    }
    assert "probe" in str(far["page"])


async def test_what_is_no_handler_s_business_is_refused(jobs, serving, enqueue, loopback):
    """H5: a remote handler may not steer the store unless its gateway lets it, and learns what it cannot have."""

    @jobs.register(max_attempts=1)
    async def meddle(ctx: JobCtx) -> list[str]:
        said: list[str] = []
        store = ctx.storage
        for call in (
            lambda: store.jobs.pause_queue("default"),
            lambda: store.jobs.resume_queue("default"),
            lambda: store.jobs.retry("x"),
            lambda: store.jobs.delete("x"),
            lambda: store.jobs.prune(1),
            lambda: store.rate_limits.configure("x", capacity=1, per=1),
            lambda: store.schedules.enable("x"),
            lambda: store.schedules.delete("x"),
            lambda: store.advance(1),
        ):
            try:
                await call()
            except QueueError as exc:
                said.append(str(exc))
        try:
            async with store.jobs.subscribe():
                pass
        except QueueError as exc:
            said.append(str(exc))
        return said

    async with serving(jobs):
        said = await loopback.storage.jobs.result(await enqueue(meddle.request()), timeout=10)
    assert len(said) == 10
    assert all("remote worker" in words for words in said)


async def test_steering_can_be_allowed(jobs, serving, enqueue, loopback):
    """H5: with its gateway's consent, a remote handler does what an operator does."""
    loopback.steering = True

    @jobs.register
    async def operate(ctx: JobCtx) -> list[object]:
        jobs = ctx.storage.jobs
        other = await jobs.enqueue(operate.request().with_options(queue="elsewhere", delay=100))
        await jobs.pause_queue("elsewhere", until=9e9)
        paused = [queue.paused for queue in await jobs.queues() if queue.name == "elsewhere"]
        await jobs.resume_queue("elsewhere")
        cancelled = await jobs.cancel(other.id)
        await jobs.retry(other.id)
        await jobs.cancel_workflow("w")
        await jobs.clear_workflow("w")
        await jobs.cancel(other.id)
        await jobs.delete(other.id)
        await jobs.wake()
        await ctx.rate_limit.configure("x", capacity=1, per=1)
        workers = await ctx.storage.workers.list()
        return [paused, cancelled, await jobs.prune(1000), len(workers), len(await ctx.storage.schedules.list())]

    async with serving(jobs):
        assert await loopback.storage.jobs.result(await enqueue(operate.request()), timeout=10) == [
            [True],
            True,
            0,
            0,
            0,
        ]


async def test_every_word_of_a_handler_arrives(jobs, serving, enqueue, loopback):
    """Q4: aborts, retries, snoozes and throttles from afar do what they do from near."""
    await loopback.storage.rate_limits.configure("api", capacity=5, per=1)

    @jobs.register(max_attempts=3)
    async def say(word: str) -> None:
        match word:
            case "abort":
                raise Abort("no use")
            case "retry":
                raise RetryAfter(500)
            case "snooze":
                raise Snooze(500)
            case "throttle":
                raise Throttled(500, "api")
            case _:
                raise ValueError(word)

    store = loopback.storage.jobs
    async with serving(jobs):
        ids = {word: await enqueue(say.request(word)) for word in ("abort", "retry", "snooze", "throttle", "crash")}

        async def told():
            return len(loopback.heard_of(Failure)) >= 5

        await wait_until(told)
        found = {word: await store.get(job_id) for word, job_id in ids.items()}
    assert found["abort"].state is JobState.DEAD
    assert found["abort"].error.message == "no use"
    assert found["abort"].error.traceback
    for word, attempt in (("retry", 1), ("snooze", 0), ("throttle", 0), ("crash", 1)):
        assert (found[word].state, found[word].attempt) == (JobState.SCHEDULED, attempt), word
    assert isinstance(await loopback.storage.rate_limits.acquire("api"), Throttled)


async def test_what_is_wrong_with_a_job_fails_that_job(jobs, serving, enqueue, loopback):
    """R8: outputs that are no JSON, payloads that do not fit and names of no text fail alone; the session lives."""

    @jobs.register(max_attempts=1)
    async def odd() -> object:
        return object()

    @jobs.register(max_attempts=1)
    async def even(n: int) -> int:
        return n

    @jobs.register(max_attempts=1)
    async def limited() -> None:
        raise Throttled(1, "caf\udce9")

    store = loopback.storage.jobs
    async with serving(jobs):
        with pytest.raises(JobFailed, match="a rate limit's scope must be 1 to 255"):
            await store.result(await enqueue(limited.request()), timeout=10)
        unencodable = await enqueue(odd.request())
        undecodable = await enqueue(EnqueueRequest(even.kind, {"args": ["x"]}))
        with pytest.raises(JobFailed):
            await store.result(unencodable, timeout=10)
        with pytest.raises(JobFailed):
            await store.result(undecodable, timeout=10)
        assert await store.result(await enqueue(even.request(4)), timeout=10) == 4
    assert len(loopback.peers) == 1


@pytest.mark.parametrize("broken", ["attempt", "kind", "shape", "twice"])
async def test_a_malformed_task_fails_alone(broken, jobs, serving, enqueue, loopback):
    """R8: a task with an attempt of 0, an unknown kind or no sense is answered; one that comes twice runs once."""
    runs = []

    @jobs.register
    async def fine() -> None:
        runs.append(1)

    async with serving(jobs):
        await wait_until(lambda: loopback.heard_of(Credit))
        (peer,) = loopback.peers
        lease = {"t": "task", "lease_id": "odd", "ttl": 30.0}
        good = {"id": "j", "kind": fine.kind, "attempt": 1, "payload": fine.request().payload_json}
        task = {
            "attempt": lease | {"job": good | {"attempt": 0}},
            "kind": lease | {"job": good | {"kind": "unheard of"}},
            "shape": lease | {"job": 7},
            "twice": lease | {"job": good},
        }[broken]
        loopback.deaf = True
        peer.send_bytes(msgspec.msgpack.encode([task, task]))
        await wait_until(lambda: loopback.heard_of(Failure) or loopback.heard_of(Result))
        peer.send(ResultAck(accepted=("odd",)))
        loopback.deaf = False
        assert await loopback.storage.jobs.result(await enqueue(fine.request()), timeout=10) is None
    if broken == "twice":
        assert len(runs) == 2
    else:
        (failure,) = loopback.heard_of(Failure)
        assert (failure.outcome, failure.error.kind) == ("abort", "MalformedTask")
    assert len(loopback.peers) == 1


async def test_a_session_that_breaks_loses_nothing(jobs, serving, enqueue, loopback):
    """R4: what was not acknowledged is told again after a reconnect; runs go on meanwhile, and run once."""
    runs, go = [], anyio.Event()

    @jobs.register
    async def quick(n: int) -> int:
        runs.append(n)
        return n

    @jobs.register
    async def slow() -> str:
        runs.append("slow")
        await go.wait()
        return "done"

    store = loopback.storage.jobs
    async with serving(jobs):
        loopback.deaf = True
        slow_id = await enqueue(slow.request())
        quick_id = await enqueue(quick.request(1))
        await wait_until(lambda: loopback.heard_of(Result) and "slow" in runs)
        loopback.peers[0].close(SessionLost("cut"))
        await wait_until(lambda: len(loopback.heard_of(Register)) == 2)
        loopback.deaf = False
        lease = loopback.heard_of(Result)[0].lease_id
        again = loopback.heard_of(Register)[1]
        assert lease in again.holding
        assert len(again.holding) == 2
        loopback.peers[1].close()
        assert await store.result(quick_id, timeout=10) == 1
        go.set()
        assert await store.result(slow_id, timeout=10) == "done"

        def later() -> list[str]:
            order = [type(frame).__name__ for frame in loopback.heard if isinstance(frame, (Register, Result, Credit))]
            return order[order.index("Register", 1) :]

        await wait_until(lambda: "Credit" in later())
    assert sorted(map(str, runs)) == ["1", "slow"]
    assert later().index("Result") < later().index("Credit")
    assert {frame.job_id for frame in loopback.heard_of(Result)} == {quick_id, slow_id}


async def test_progress_outlives_its_session(jobs, serving, enqueue, loopback):
    """W7, R8: a run's newest progress is told again in the next session, once, unless its gateway accepts less."""
    gate = anyio.Event()

    @jobs.register
    async def work(ctx: JobCtx, value: str) -> None:
        ctx.heartbeat(value)
        await gate.wait()

    def told():
        return Counter(b"short" in frame.value for frame in loopback.heard_of(Progress))

    async def cut():
        registered = len(loopback.heard_of(Register))
        loopback.peers[-1].close(SessionLost("cut"))
        await wait_until(lambda: len(loopback.heard_of(Register)) > registered)
        beats = len(loopback.heard_of(Heartbeat))
        await wait_until(lambda: len(loopback.heard_of(Heartbeat)) > beats + 2)

    store = loopback.storage.jobs
    async with serving(jobs):
        ids = [await enqueue(work.request(value)) for value in ("short", "x" * 6000)]
        await wait_until(lambda: told() == {True: 1, False: 1})
        loopback.ack = {"max_message": 5000}
        await cut()
        assert told() == {True: 2, False: 1}
        assert len(loopback.peers) == 2
        gate.set()
        for job_id in ids:
            await store.result(job_id, timeout=10)
        await cut()
        assert told() == {True: 2, False: 1}


async def test_a_question_outlives_its_session(jobs, serving, enqueue, loopback):
    """W7: what a handler asks while the session breaks is asked again in the next one, and done once."""

    @jobs.register
    async def child() -> int:
        return 1

    @jobs.register
    async def parent() -> str:
        handle = await child.enqueue()
        return handle.id

    store = loopback.storage.jobs
    asked = []

    async def first_time_silent(peer, frame):
        asked.append(frame)
        if b"enqueue" in bytes(frame.call) and sum(b"enqueue" in bytes(each.call) for each in asked) == 1:
            await loopback.answer(session_pair()[1], frame)  # done, and the answer is lost
            peer.close(SessionLost("cut"))
        else:
            await loopback.answer(peer, frame)

    loopback.on_request = first_time_silent
    async with serving(jobs):
        child_id = await store.result(await enqueue(parent.request()), timeout=10)
        assert await store.result(child_id, timeout=10) == 1
    children = [job for job in (await store.list()).jobs if "child" in job.kind]
    assert [job.id for job in children] == [child_id]
    assert [frame.again for frame in asked if b"enqueue" in bytes(frame.call)] == [False, True]


async def test_who_waits_for_a_result_waits_for_a_busy_gateway(jobs, serving, enqueue, loopback, monkeypatch):
    """W7: a gateway that answers only so many requests at once makes waiting for a job longer, and fails nobody."""
    monkeypatch.setattr("workerctx.remote.jobs.RESULT_FALLBACK", 0.01)

    @jobs.register
    async def child() -> int:
        return 1

    @jobs.register
    async def parent() -> int:
        return await (await child.with_options(delay=0.2).enqueue()).result()

    waits = []

    async def busy(peer, frame):
        if b"await" in bytes(frame.call):
            waits.append(frame)
            if len(waits) < 3:
                peer.send(Reply(frame.id, fault=Fault("StoreBusy", "too many")))
                return
        await loopback.answer(peer, frame)

    loopback.on_request = busy
    async with serving(jobs):
        assert await loopback.storage.jobs.result(await enqueue(parent.request()), timeout=10) == 1
    assert len(waits) >= 3


async def test_a_worker_stays_in_its_namespace(jobs, serving, enqueue, loopback, config):
    """Q19: a gateway that would grant another namespace after a reconnect is left again, and hears no outcome."""
    go_on = threading.Event()

    @jobs.register
    def slow() -> int:
        go_on.wait(20)
        return 1

    store = loopback.storage.jobs
    loopback.ack = {"namespace": "first"}
    patient = evolve(config.reconnect, max_attempts=1000)
    config = evolve(config, namespaces=("first", "second"), reconnect=patient)
    async with serving(jobs, config=config) as worker:
        job_id = await enqueue(slow.request())
        await wait_until(lambda: worker.in_flight)
        loopback.ack = {"namespace": "second"}
        loopback.peers[-1].close(SessionLost("cut"))
        go_on.set()
        await wait_until(lambda: len(loopback.heard_of(Register)) >= 3)
        assert not loopback.heard_of(Result)
        loopback.ack = {"namespace": "first"}
        assert await store.result(job_id, timeout=10) == 1


async def test_a_cancel_is_pushed(jobs, serving, enqueue, loopback):
    """Q7: a cancelled job's run is told at once and cancelled, wherever it is."""
    told = []

    @jobs.register
    async def endless(ctx: JobCtx) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            told.append(ctx.cancel.reason)

    store = loopback.storage.jobs
    async with serving(jobs):
        job_id = await enqueue(endless.request())

        async def running():
            return (await store.get(job_id)).state is JobState.RUNNING and loopback.heard_of(Began) is not None

        await wait_until(running)
        await wait_until(lambda: loopback.heard_of(Heartbeat)[-1].leases)
        lease_id = (await store.get(job_id)).lease_id
        loopback.peers[0].send(Cancel("nobody's"), Cancel(lease_id))
        await wait_until(lambda: told)
        assert told == [CancelReason.USER]
        await store.cancel(job_id)


async def test_a_lost_lease_ends_its_run_and_is_not_reported(jobs, serving, enqueue, loopback):
    """Q1: a run whose lease was lost is cancelled, and nobody is told of its outcome."""
    told, lost = [], []

    @jobs.register
    async def endless(ctx: JobCtx) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            told.append(ctx.cancel.reason)

    async with serving(jobs) as worker:
        worker.context.listen(lambda _, event: lost.append(event), JobLost)
        await enqueue(endless.request())
        await wait_until(lambda: worker.in_flight)
        await wait_until(lambda: loopback.heard_of(Heartbeat)[-1].leases)
        (lease_id,) = loopback.heard_of(Heartbeat)[-1].leases
        loopback.peers[0].send(HeartbeatAck(lost=(lease_id,)))
        await wait_until(lambda: told)
    assert told == [CancelReason.LEASE_LOST]
    assert [event.after_run for event in lost] == [False]
    assert not [frame for frame in loopback.heard_of(Failure) if frame.lease_id == lease_id]


async def test_an_outcome_that_comes_too_late_is_an_event(jobs, serving, enqueue, loopback):
    """Q1: an outcome whose lease was lost is dropped by the gateway, and the worker's listeners hear of it."""
    lost = []

    @jobs.register
    async def quick() -> None:
        pass

    async with serving(jobs) as worker:
        worker.context.listen(lambda _, event: lost.append(event), JobLost)
        loopback.deaf = True
        await enqueue(quick.request())
        await wait_until(lambda: loopback.heard_of(Result))
        lease_id = loopback.heard_of(Result)[0].lease_id
        loopback.peers[0].send(ResultAck(lost=(lease_id,)))
        await wait_until(lambda: lost)
    assert [(event.lease_id, event.after_run) for event in lost] == [(lease_id, True)]


async def test_an_outcome_that_cannot_be_stored_fails_the_job(jobs, serving, enqueue, loopback):
    """R8: an outcome that the gateway refuses becomes a failure that says why."""

    @jobs.register(max_attempts=1)
    async def quick() -> str:
        return "x"

    async with serving(jobs):
        loopback.deaf = True
        job_id = await enqueue(quick.request())
        await wait_until(lambda: loopback.heard_of(Result))
        loopback.deaf = False
        reason = "it is too large: " + "x" * 100_000  # which may be what was too large
        loopback.peers[0].send(ResultAck(refused={loopback.heard_of(Result)[0].lease_id: reason}))
        with pytest.raises(JobFailed, match="it is too large"):
            await loopback.storage.jobs.result(job_id, timeout=10)
        assert len((await loopback.storage.jobs.get(job_id)).error.message) < 3000


async def test_a_full_worker_still_listens(jobs, serving, enqueue, loopback):
    """R7: with every slot busy, heartbeats and progress go out, cancels come in, and no task is sent too many."""
    most, running, stopped = 0, 0, []

    @jobs.register
    async def hold(ctx: JobCtx) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        ctx.progress(1)
        try:
            await anyio.sleep_forever()
        finally:
            running -= 1
            stopped.append(ctx.job_id)

    store = loopback.storage.jobs
    async with serving(jobs):
        ids = [await enqueue(hold.request()) for _ in range(8)]
        await wait_until(lambda: running == 3)
        await wait_until(lambda: loopback.heard_of(Progress))
        beats = len(loopback.heard_of(Heartbeat))
        await wait_until(lambda: len(loopback.heard_of(Heartbeat)) > beats + 2)
        counts = await store.counts()
        assert counts[JobState.RUNNING] == 3
        await store.cancel(ids[0])
        await wait_until(lambda: ids[0] in stopped)
        await wait_until(lambda: running == 3)
        for job_id in ids[1:]:
            await store.cancel(job_id)
        await wait_until(lambda: running == 0)
    assert most == 3


async def test_handlers_in_threads_hold_up_no_outcome(tmp_path, jobs, serving, enqueue, loopback, config):
    """R7: with every thread of the event loop taken, outcomes that wait for the disk are told all the same."""

    @jobs.register
    async def quick() -> int:
        return 1

    limiter, handlers = to_thread.current_default_thread_limiter(), []
    async with serving(jobs, config=evolve(config, journal=tmp_path / "outcomes.journal", journal_fsync=True)):
        try:
            while limiter.available_tokens:
                handlers.append(object())
                limiter.acquire_on_behalf_of_nowait(handlers[-1])
            assert await loopback.storage.jobs.result(await enqueue(quick.request()), timeout=5) == 1
        finally:
            for handler in handlers:
                limiter.release_on_behalf_of(handler)


async def test_a_handler_that_blocks_does_not_lose_the_session(jobs, serving, enqueue, loopback):
    """R9: while a handler blocks the event loop, heartbeats go on from the session's own thread."""
    blocked, go = threading.Event(), threading.Event()

    @jobs.register
    async def block() -> str:
        blocked.set()
        go.wait(10)
        return threading.current_thread().name

    beats = []

    def watch():
        blocked.wait(10)
        peer = loopback.peers[0]
        before, deadline = peer.pending, time.monotonic() + 8
        while peer.pending < before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        beats.append(peer.pending - before)
        go.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    async with serving(jobs):
        await loopback.storage.jobs.result(await enqueue(block.request()), timeout=15)
    watcher.join()
    assert beats[0] >= 3
    assert len(loopback.peers) == 1
    assert not any(thread.name.startswith("session of") for thread in threading.enumerate())


async def test_a_worker_without_jobs_says_less(jobs, serving, enqueue, loopback):
    """R7: heartbeats come often while leases are held and seldom while none are; a new state is told at once."""
    loopback.ack = {"idle_heartbeat": 3600.0}
    gate = anyio.Event()

    @jobs.register
    async def hold() -> None:
        await gate.wait()

    store = loopback.storage.jobs
    async with serving(jobs) as worker:
        await wait_until(lambda: [beat.state for beat in loopback.heard_of(Heartbeat)][-1:] == ["running"])
        idle = len(loopback.heard_of(Heartbeat))
        assert idle <= 2
        job_id = await enqueue(hold.request())
        await wait_until(lambda: len(loopback.heard_of(Heartbeat)) > idle + 2)
        assert all(beat.leases for beat in loopback.heard_of(Heartbeat)[idle:])
        gate.set()
        await store.result(job_id, timeout=10)
        worker.context.pause("lunch")
        await wait_until(lambda: loopback.heard_of(Heartbeat)[-1].state == "paused")
        worker.context.resume()
        await wait_until(lambda: loopback.heard_of(Heartbeat)[-1].state == "running")


async def test_a_stop_drains_and_reports(jobs, serving, enqueue, loopback):
    """R6: a stop announces itself, tells handlers, lets them end, and reports them; heartbeats go on until then."""
    reasons, beats = [], []

    @jobs.register
    async def tidy(ctx: JobCtx) -> str:
        reason = await ctx.cancel.wait()
        reasons.append(reason)
        beats.append(len(loopback.heard_of(Heartbeat)))
        await wait_until(lambda: len(loopback.heard_of(Heartbeat)) > beats[0] + 2)
        return "tidied"

    store = loopback.storage.jobs
    async with serving(jobs) as worker:
        job_id = await enqueue(tidy.request())
        await wait_until(lambda: worker.in_flight)
        worker.shutdown("deploy")
        later = await enqueue(tidy.request())
    assert reasons == [CancelReason.SHUTDOWN]
    assert await store.result(job_id, timeout=1) == "tidied"
    assert (await store.get(later)).state is JobState.QUEUED
    assert loopback.heard_of(Drain) == [Drain("deploy")]


@pytest.mark.parametrize(("end", "words"), [(SessionLost("cut"), "cut"), (None, "1 outcomes were not acknowledged")])
async def test_a_session_that_ends_while_runs_drain_is_an_error(end, words, jobs, loopback, config, caplog):
    """R5: after a stop, a session that ends before the last runs have is told, as nobody hears of their outcomes."""
    go = anyio.Event()

    @jobs.register
    async def slow() -> None:
        await go.wait()

    worker = Worker.builder(config).register(jobs).build()

    async def drain() -> None:
        await loopback.storage.jobs.enqueue(slow.request())
        await wait_until(lambda: worker.in_flight)
        worker.shutdown("deploy")
        await wait_until(lambda: loopback.heard_of(Drain))
        loopback.peers[-1].close(end)
        await wait_until(lambda: "the session with the gateway is over" in caplog.text)
        go.set()

    with anyio.fail_after(20), pytest.raises(SessionLost, match=words):
        await worker.run_with_connector_until(loopback.connect, drain())
    assert len(loopback.peers) == 1


async def test_a_thread_that_is_left_behind_with_outcomes_is_an_error(jobs, loopback, config, monkeypatch):
    """R5: a connector that blocks its thread keeps nobody from hearing that the last outcomes were not acknowledged."""
    monkeypatch.setattr("workerctx.remote.worker._GOODBYE", 0.1)
    blocked, release = threading.Event(), threading.Event()
    loopback.deaf = True

    @jobs.register
    async def quick() -> None: ...

    @asynccontextmanager
    async def connect():
        if loopback.peers:
            blocked.set()
            release.wait(20)
            raise SessionLost("late")
        async with loopback.connect() as session:
            yield session

    async def until() -> None:
        await loopback.storage.jobs.enqueue(quick.request())
        await wait_until(lambda: loopback.heard_of(Result))
        loopback.peers[0].close()
        await wait_until(blocked.is_set)

    worker = Worker.builder(evolve(config, hard_limit=0.1)).register(jobs).build()
    try:
        with anyio.fail_after(20), pytest.raises(SessionLost, match="1 outcomes were not acknowledged in time"):
            await worker.run_with_connector_until(connect, until())
    finally:
        release.set()


async def test_what_does_not_end_in_time_is_given_back(jobs, serving, enqueue, loopback, config):
    """W3, R6: at the deadline a run is cancelled and given back without using up an attempt."""

    @jobs.register
    async def endless() -> None:
        await anyio.sleep_forever()

    async with serving(jobs, config=evolve(config, grace=0.05)) as worker:
        job_id = await enqueue(endless.request())
        await wait_until(lambda: worker.in_flight)
    job = await loopback.storage.jobs.get(job_id)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)


@pytest.fixture
def arrived(loopback):
    """Enqueue a job that reaches a worker which takes no more, and return its id once it is there."""

    async def arrived(worker, request):
        await wait_until(lambda: worker.context.is_ready and loopback.heard_of(Credit))
        worker.context.pause()
        await wait_until(lambda: loopback.heard_of(Credit)[-1].free == 0)
        loopback.unasked = 1
        job_id = (await loopback.storage.jobs.enqueue(request)).id
        await wait_until(lambda: loopback.heard_of(Heartbeat)[-1].leases)
        return job_id

    return arrived


async def test_a_stop_gives_back_what_has_arrived(jobs, serving, loopback, arrived, config):
    """W3, R6: a job that the worker has not taken when it is stopped is free again when it ends."""

    @jobs.register
    async def quick() -> None: ...

    async with serving(jobs, config=evolve(config, prefetch_window=30)) as worker:
        job_id = await arrived(worker, quick.request())
    job = await loopback.storage.jobs.get(job_id)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)
    assert worker.context.outcome is Outcome.CLEAN


async def test_what_arrives_after_a_stop_is_given_back(jobs, serving, enqueue, loopback, config):
    """W3, R6: a job that was on its way when the worker was stopped is given back at once, whatever still runs."""
    go = anyio.Event()

    @jobs.register
    async def slow() -> None:
        await go.wait()

    @jobs.register
    async def quick() -> None: ...

    store = loopback.storage.jobs
    async with serving(jobs, config=evolve(config, prefetch_window=30)) as worker:
        await enqueue(slow.request())
        await wait_until(lambda: worker.in_flight)
        worker.shutdown("deploy")
        await wait_until(lambda: loopback.heard_of(Drain))
        await wait_until(lambda: loopback.heard_of(Credit)[-1].free == 0)
        loopback.unasked = 1
        job_id = await enqueue(quick.request())

        async def is_given_back() -> bool:
            return bool(loopback.heard_of(Failure)) and (await store.get(job_id)).state is JobState.QUEUED

        await wait_until(is_given_back)
        assert worker.in_flight
        go.set()
    assert loopback.heard_of(Credit)[-1].free == 0


async def test_giving_back_does_not_hold_up_a_stop(jobs, loopback, arrived, config):
    """W3: a worker whose gateway does not acknowledge what is given back ends at its hard limit, and says so."""

    @jobs.register
    async def quick() -> None: ...

    hurried = evolve(config, prefetch_window=30, hard_limit=0.1)
    worker = Worker.builder(hurried).register(jobs).build()
    loopback.deaf = True

    async def until() -> None:
        await arrived(worker, quick.request())

    with anyio.fail_after(10), pytest.raises(SessionLost, match="1 outcomes were not acknowledged in time"):
        await worker.run_with_connector_until(loopback.connect, until())


async def test_a_pause_takes_nothing(jobs, serving, enqueue, loopback):
    """R6: a paused worker asks for nothing, and what is on its way is given back; resumed, it works again."""

    @jobs.register
    async def quick() -> int:
        return 1

    store = loopback.storage.jobs
    async with serving(jobs) as worker:
        assert await store.result(await enqueue(quick.request()), timeout=10) == 1
        worker.context.pause("lunch")
        await wait_until(lambda: loopback.heard_of(Credit)[-1].free == 0)
        job_id = await enqueue(quick.request())
        beats = len(loopback.heard_of(Heartbeat))
        await wait_until(lambda: len(loopback.heard_of(Heartbeat)) > beats + 3)
        assert (await store.get(job_id)).state is JobState.QUEUED
        worker.context.resume()
        assert await store.result(job_id, timeout=10) == 1


async def test_the_drain_of_a_gateway_is_followed(jobs, serving, enqueue, loopback):
    """R3: after a gateway's drain, runs go on and are reported; then the worker comes back."""
    go = anyio.Event()

    @jobs.register
    async def slow() -> int:
        await go.wait()
        return 1

    store = loopback.storage.jobs
    async with serving(jobs) as worker:
        job_id = await enqueue(slow.request())
        await wait_until(lambda: worker.in_flight)
        loopback.peers[0].send(Drain("restart"))
        await wait_until(lambda: loopback.heard_of(Credit)[-1].free == 0)
        assert len(loopback.peers) == 1
        go.set()
        assert await store.result(job_id, timeout=10) == 1
        await wait_until(lambda: len(loopback.heard_of(Register)) == 2)
        assert await store.result(await enqueue(slow.request()), timeout=10) == 1


async def test_a_denied_worker_fails(jobs, loopback, config):
    """R2, L29: a denial surfaces after one attempt, and the worker has failed."""

    @jobs.register
    async def quick() -> None:
        pass

    tries = []

    @asynccontextmanager
    async def connect():
        tries.append(1)
        raise PermissionDenied("not you")
        yield

    worker = Worker.builder(config).register(jobs).build()
    with pytest.raises(PermissionDenied, match="not you"):
        await worker.run_with_connector_until(connect, anyio.sleep_forever())
    assert tries == [1]
    assert worker.context.outcome is Outcome.FAILED
    with pytest.raises(InvalidTransition, match="runs once"):
        await worker.run()


async def test_a_worker_without_sessions_fails(jobs, serving, enqueue, loopback):
    """R3, L29: when the gateway stays away the worker fails, waiters learn it, and its runs are cancelled."""

    @jobs.register
    async def endless() -> None:
        await anyio.sleep_forever()

    async with serving(jobs, fails=SessionLost) as worker:
        await enqueue(endless.request())
        await wait_until(lambda: worker.in_flight)
        loopback.closed = True
        loopback.peers[0].close(SessionLost("cut"))
        await wait_until(lambda: not worker.context.is_ready)
        await wait_until(lambda: worker.context.is_finished)
    assert worker.context.outcome is Outcome.FAILED


async def test_readiness_follows_the_session(jobs, serving, loopback, config):
    """L35: a worker is ready while it has a session, and says why it is not."""

    @jobs.register
    async def quick() -> None:
        pass

    patient = evolve(config, reconnect=ReconnectConfig(initial_backoff=0.01, max_attempts=1000))
    async with serving(jobs, config=patient) as worker:
        await wait_until(lambda: worker.context.is_ready and loopback.heard_of(Credit))
        loopback.closed = True
        loopback.peers[0].close(SessionLost("cut"))
        await wait_until(lambda: not worker.context.is_ready)
        assert "cut" in worker.context.ready_reason
        loopback.closed = False
        await wait_until(lambda: worker.context.is_ready)


async def test_a_session_that_breaks_at_once_is_not_forgotten(jobs, loopback, config):
    """L35: a worker whose session is lost before it has looked for jobs is not ready, whatever it does meanwhile."""

    @jobs.register
    async def quick() -> None:
        pass

    patient = evolve(config, reconnect=ReconnectConfig(initial_backoff=0.01, max_attempts=1000))
    worker = Worker.builder(patient).register(jobs).build()

    note, broken, looked = worker._note_session, threading.Event(), anyio.Event()

    def note_session(trouble):
        note(trouble)
        if trouble is not None:
            broken.set()

    def cut(*_):
        loopback.closed = True
        loopback.peers[0].close(SessionLost("cut"))
        assert broken.wait(10)

    worker._note_session = note_session
    worker.context.listen(cut, Start)
    worker.context.listen(lambda *_: looked.set(), Idle)

    async def look():
        await looked.wait()
        assert not worker.context.is_ready
        assert "cut" in worker.context.ready_reason

    with pytest.raises(SessionLost, match="cut"):
        await worker.run_with_connector_until(loopback.connect, look())


async def test_a_shutdown_token_stops_a_worker(jobs, loopback, config):
    """L38, R5: anything that can be awaited ends a run; what it raises is raised after the drain."""

    @jobs.register
    async def quick() -> None:
        pass

    token = Shutdown()
    worker = Worker.builder(config).register(quick).build()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run_with_connector_until, loopback.connect, token)
        await wait_until(lambda: worker.context.is_ready)
        token.set("enough")
    assert worker.context.outcome is Outcome.CLEAN

    async def fails():
        raise KeyError("odd")

    other = Worker.builder(config).register(quick).build()
    with pytest.raises(KeyError):
        await other.run_with_connector_until(loopback.connect, fails())


async def test_a_stop_before_the_run_means_that_there_is_none(jobs, loopback, config):
    """L6, R5: a worker that is stopped while it connects ends at once, without an error."""

    @jobs.register
    async def quick() -> None:
        pass

    loopback.closed = True
    tries = []

    def connect():
        tries.append(1)
        return loopback.connect()

    worker = Worker.builder(config).register(quick).build()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run_with_connector_until, connect, anyio.sleep_forever())
        await wait_until(lambda: tries)
        worker.shutdown()
    assert worker.context.outcome is Outcome.NEVER_STARTED


async def test_a_stop_does_not_wait_for_a_token(jobs, config, monkeypatch):
    """R5: neither for a function that asks somebody who does not answer, nor for a connector that blocks its thread."""

    @jobs.register
    async def quick() -> None:
        pass

    monkeypatch.setattr("workerctx.remote.worker._GOODBYE", 0.1)
    asked, answer = threading.Semaphore(0), threading.Event()

    def token() -> str:
        asked.release()
        answer.wait(20)
        return "late"

    @asynccontextmanager
    async def blocking():
        token()
        raise SessionLost("late")
        yield

    config = evolve(config, endpoint="ws://127.0.0.1:1/", credentials=Credentials(token=token), hard_limit=0.1)
    try:
        for run in (Worker.run, lambda worker: worker.run_with_connector_until(blocking, anyio.sleep_forever())):
            worker = Worker.builder(config).register(quick).build()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, worker)
                await wait_until(lambda: asked.acquire(blocking=False))
                worker.shutdown()
            assert worker.context.outcome is Outcome.NEVER_STARTED
            assert not answer.is_set()
    finally:
        answer.set()


async def test_one_session_can_be_served_by_hand(jobs, loopback, config):
    """R9: the single-session forms use the caller's loop, hand the session back, and do not reconnect."""

    @jobs.register
    async def add(a: int, b: int) -> int:
        return a + b

    store = loopback.storage.jobs
    session, peer = session_pair()
    loopback.peers.append(peer)
    job_id = (await store.enqueue(add.request(1, 2))).id
    worker = Worker.builder(config).register(add).build()

    async def until():
        await store.result(job_id, timeout=10)

    assert await worker.run_with_session_until(session, until()) is session
    assert (await store.get(job_id)).result == 3

    async def end(peer, error):
        await peer.receive()
        peer.send(RegisterAck(version=1, worker_id="w"))
        peer.close(error)

    async with anyio.create_task_group() as tasks:
        broken, peer = session_pair()
        tasks.start_soon(end, peer, SessionLost("cut"))
        with pytest.raises(SessionLost, match="cut"):
            await Worker.builder(config).register(add).build().run_with_session(broken)
        closed, peer = session_pair()
        tasks.start_soon(end, peer, None)
        assert await Worker.builder(config).register(add).build().run_with_session(closed) is closed


async def test_the_handlers_registry_is_the_remote_one_while_it_runs(jobs, serving, enqueue, loopback):
    """W7: `handler.enqueue` inside a run goes to the gateway's store; a registry that is open here is refused."""

    @jobs.register
    async def quick() -> str:
        return jobs.storage.url

    async with serving(jobs):
        assert (
            await loopback.storage.jobs.result(await enqueue(quick.request()), timeout=10)
            == "ws://gateway.invalid/workers"
        )
    local = JobRegistry("memory://")

    @local.register
    async def other() -> None:
        pass

    async with local:
        worker = Worker.builder(RemoteConfig(endpoint="ws://x.invalid")).register(local).build()
        with pytest.raises(RegistryInUse, match="open on this event loop"):
            await worker.run_with_connector_until(loopback.connect, anyio.sleep_forever())


def test_a_builder_refuses_what_makes_no_sense(jobs, config):
    """R8: duplicates, an empty set and what is no handler are refused; the kinds are told sorted."""

    @jobs.register(name="b", aliases=["old b"])
    async def second() -> None:
        pass

    @jobs.register(name="a")
    async def first() -> None:
        pass

    worker = Worker.builder(config).register(second, first).build()
    assert worker.activity_types == ("a", "b")
    assert worker.available_handlers == {"a", "b", "old b"}
    with pytest.raises(InvalidHandler, match="'b' already"):
        Worker.builder(config).register(jobs, second)
    with pytest.raises(InvalidConfig, match="at least one"):
        Worker.builder(config).build()
    with pytest.raises(InvalidHandler, match=r"put @jobs\.register above it"):
        Worker.builder(config).register(len)


def test_a_builder_says_which_schedules_it_leaves_to_others(config, caplog):
    """W11: a remote worker does not put its registry's schedules into the store, and does not keep silent about it."""
    jobs = JobRegistry()

    @jobs.schedule(every=60, name="tick")
    @jobs.register
    async def sweep() -> None: ...

    Worker.builder(config).register(jobs).build()
    assert "are left to workers with a store" in caplog.text
    assert "'tick'" in caplog.text


async def test_layers_and_injected_data_work_afar(jobs, config, loopback):
    """W7: layers stand around a remote handler and data are injected as on a local loop."""

    @jobs.register(layers=[Timeout(0.05)], max_attempts=1)
    async def slow() -> None:
        await anyio.sleep_forever()

    worker = Worker.builder(config).register(slow).data({int: 7}).build()
    job_id = (await loopback.storage.jobs.enqueue(slow.request())).id

    async def until():
        with pytest.raises(JobFailed, match="Timeout"):
            await loopback.storage.jobs.result(job_id, timeout=10)

    await worker.run_with_connector_until(loopback.connect, until())


async def test_commands_of_operators_arrive(jobs, serving, loopback):
    """L1: a command that was sent to a worker through the store reaches it over its session."""

    @jobs.register
    async def quick() -> None:
        pass

    async with serving(jobs) as worker:
        await wait_until(lambda: worker.context.is_ready)
        loopback.peers[0].send(HeartbeatAck(commands=("dance", "pause")))
        await wait_until(lambda: worker.context.is_paused)


async def test_what_is_too_large_for_the_gateway_fails_alone(jobs, serving, enqueue, loopback):
    """R8: a result, error, request or progress that the gateway would not accept fails alone; the session lives."""
    loopback.ack = {"max_message": 5000}
    said = []

    @jobs.register(max_attempts=1)
    async def large(ctx: JobCtx, size: int) -> str:
        ctx.heartbeat("x" * size)
        try:
            await ctx.enqueue_bulk([large.request(0)] * (size // 10))
        except InvalidRequest as exc:
            said.append(str(exc))
        return "x" * size

    store = loopback.storage.jobs

    @jobs.register(max_attempts=1)
    async def talkative() -> None:
        raise ValueError("x" * 6000)

    async with serving(jobs):
        with pytest.raises(JobFailed, match="ValueError: xxx"):
            await store.result(await enqueue(talkative.request()), timeout=10)
        with pytest.raises(JobFailed, match="the result has 6002 bytes, and the gateway accepts 4488"):
            await store.result(await enqueue(large.request(6000)), timeout=10)
        assert await store.result(await enqueue(large.request(0)), timeout=10) == ""
    assert "ask for less at once" in said[0]
    assert len(loopback.peers) == 1


async def test_what_is_too_large_for_the_next_gateway_fails_alone(jobs, serving, enqueue, loopback):
    """R8: an open question that the gateway after a reconnect would not accept fails alone; the worker goes on."""
    said = []

    @jobs.register
    async def child(data: str) -> None: ...

    @jobs.register
    async def parent(ctx: JobCtx) -> int:
        try:
            await ctx.enqueue(child.request("x" * 6000))
        except InvalidRequest as exc:
            said.append(str(exc))
        return 1

    async def replaced(peer, frame):
        if b"enqueue" not in bytes(frame.call):
            await loopback.answer(peer, frame)
            return
        loopback.ack = {"max_message": 5000}
        peer.close(SessionLost("cut"))

    loopback.on_request = replaced
    async with serving(jobs):
        assert await loopback.storage.jobs.result(await enqueue(parent.request()), timeout=10) == 1
    assert "the gateway accepts 4488: the gateway before it may have done it" in said[0]
    assert len(loopback.peers) == 2


@pytest.mark.parametrize(("sent", "words"), [(False, "ask for less at once"), (True, "may have done it")])
async def test_what_cannot_be_asked_again_says_whether_it_may_be_done(sent, words):
    """R8: a question that became too large is asked no more, and was perhaps done only if it was sent."""
    asks = Asks()

    async def ask():
        with pytest.raises(InvalidRequest, match=words):
            await asks.ask(GetJob("x" * 100))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await wait_until(lambda: asks._open)
        if sent:
            assert asks.collect()
        asks.limit = 50
        asks.renew()
        assert not asks.collect()


async def test_sync_handlers_work_afar(jobs, serving, enqueue, loopback):
    """W7: handlers in threads enqueue, report and return as on a local worker."""

    @jobs.register
    def child(n: int) -> int:
        return n + 1

    @jobs.register
    def parent(ctx: JobCtx) -> str:
        ctx.progress(1)
        return ctx.sync.enqueue(child.request(1)).id

    store = loopback.storage.jobs
    async with serving(jobs):
        child_id = await store.result(await enqueue(parent.request()), timeout=10)
        assert await store.result(child_id, timeout=10) == 2


@pytest.mark.parametrize("seed", [1, 2])
async def test_cuts_at_any_moment_lose_nothing(seed, jobs, serving, loopback, config):
    """R4: sessions that break again and again, before, during and after anything, cost no result and no second run."""
    chance = random.Random(seed)
    runs = Counter()

    @jobs.register
    async def work(n: int) -> int:
        runs[n] += 1
        await anyio.sleep(chance.random() / 50)
        return n

    store = loopback.storage.jobs
    patient = evolve(config, reconnect=ReconnectConfig(initial_backoff=0.001, max_backoff=5, max_attempts=10_000))
    async with serving(jobs, config=patient):
        outcomes = await store.enqueue_bulk([work.request(n) for n in range(150)])
        for _ in range(25):
            await anyio.sleep(chance.random() / 40)
            loopback.deaf = chance.random() < 0.3
            if loopback.peers:
                loopback.peers[-1].close(SessionLost("cut") if chance.random() < 0.7 else None)
        loopback.deaf = False
        assert [await store.result(outcome.id, timeout=20) for outcome in outcomes] == list(range(150))
    assert runs == dict.fromkeys(range(150), 1)
    assert {(await store.get(outcome.id)).attempt for outcome in outcomes} == {1}


def left_by_an_earlier_worker(path, lease_id, job_id, namespace):
    """A journal with an outcome that was not acknowledged."""
    unacked = UnackedResults.open(path)
    unacked.namespace = namespace
    unacked.record([CompleteLease(lease_id, b"7")], lambda _: job_id)
    unacked.close()


async def test_a_journal_is_told_in_its_namespace(tmp_path, jobs, serving, loopback, config):
    """R4, Q19: what an earlier worker left is told where it belongs, and with the job that it is about."""

    @jobs.register
    async def quick() -> None: ...

    path = tmp_path / "outcomes.journal"
    left_by_an_earlier_worker(path, "lease", "job", "second")
    loopback.ack = {"namespace": "second"}
    loopback.deaf = True
    async with serving(jobs, config=evolve(config, journal=path, namespaces=("first", "second"))):
        await wait_until(lambda: loopback.heard_of(Result))
        assert loopback.heard_of(Register)[0].namespaces == ("second", "first")
        assert loopback.heard_of(Result)[0].job_id == "job"
        loopback.deaf = False
        loopback.peers[-1].close()
        await wait_until(lambda: not path.read_bytes())


async def test_a_journal_of_another_namespace_is_told_nowhere(tmp_path, jobs, serving, loopback, config):
    """R4, Q19: a gateway that grants another namespace hears no outcome; a worker that would ask for none refuses."""

    @jobs.register
    async def quick() -> None: ...

    path = tmp_path / "outcomes.journal"
    left_by_an_earlier_worker(path, "lease", "job", "second")
    left = path.read_bytes()
    async with serving(jobs, config=evolve(config, journal=path), fails=InvalidConfig):
        pass
    loopback.ack = {"namespace": "first"}
    both = evolve(config, journal=path, namespaces=("first", "second"))
    async with serving(jobs, config=both, fails=RegistrationFailed) as worker:
        await wait_until(lambda: worker.context.is_finished)
    assert not loopback.heard_of(Result)
    assert path.read_bytes() == left


async def test_the_journal_is_the_worker_s_while_it_runs(tmp_path, jobs, serving, enqueue, loopback, config):
    """R4: outcomes are in the journal until they are acknowledged, and what an earlier worker left is told first."""

    @jobs.register
    async def quick(n: int) -> int:
        return n

    path = tmp_path / "outcomes.journal"
    store = loopback.storage.jobs
    job_id = await enqueue(quick.request(1))
    ((_, lease),) = await store.claim_many("earlier", kinds=[quick.kind], limit=1)
    left = UnackedResults.open(path)
    left.record([CompleteLease(lease.id, b"7")])
    left.close()
    async with serving(jobs, config=evolve(config, journal=path, journal_fsync=True)):
        assert await store.result(job_id, timeout=10) == 7
        assert loopback.heard_of(Register)[0].holding == (lease.id,)
        loopback.deaf = True
        later = await enqueue(quick.request(2))
        await wait_until(lambda: len(loopback.heard_of(Result)) == 2)
        assert b'"outputs":2' in path.read_bytes()
        with pytest.raises(InvalidConfig, match="another worker"):
            UnackedResults.open(path)
        loopback.deaf = False
        loopback.peers[-1].close()
        assert await store.result(later, timeout=10) == 2
        await wait_until(lambda: path.read_bytes() == b"")  # a stop that comes before the acknowledgement keeps it
