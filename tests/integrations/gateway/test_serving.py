"""A worker at a gateway: it registers, is handed jobs as far as it has room, and tells what became of them."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import anyio
import msgspec
import pytest

from workerctx.errors import InvalidConfig
from workerctx.queue import CancelReason, Constant, EnqueueRequest, JobState, Schedule, connect
from workerctx.remote.asking import encode_call, read_reply
from workerctx.remote.calls import AwaitEnd, Enqueue, GetJob, RetryJob
from workerctx.remote.frames import (
    Began,
    Cancel,
    Credit,
    Drain,
    Failure,
    Heartbeat,
    HeartbeatAck,
    Progress,
    Reply,
    Request,
    Result,
    ResultAck,
    Task,
)
from workerctx.remote.records import ErrorRecord, RequestRecord
from workerctx.testing import Faults, wait_until
from workerctx_starlette.gateway import Gateway, GatewayConfig, Identity, bearer_tokens

AT_ONCE = Constant(0.0, jitter=False)


async def enqueue(storage, number=1, kind="resize", **options):
    options = {"retry": AT_ONCE} | options
    outcomes = await storage.jobs.enqueue_bulk([EnqueueRequest(kind, {"n": n}, **options) for n in range(number)])
    return [outcome.id for outcome in outcomes]


def state_of(storage, job_id, expected):
    async def has_it():
        return (await storage.jobs.get(job_id)).state is expected

    return has_it


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
        assert {(job.state, job.result) for job in jobs} == {(JobState.SUCCEEDED, "done")}
        assert gateway.workers == 1


async def test_no_more_tasks_are_sent_than_there_is_room_for(gateway, storage, peer_of, eventually):
    """R7: a worker gets as many tasks as it has credit for, and the others stay for whoever has room."""
    async with gateway, peer_of(gateway) as one, peer_of(gateway) as two:
        await one.register(worker_id="one")
        await two.register(worker_id="two")
        await enqueue(storage, 5)
        first = await one.tasks(2)
        assert (await storage.jobs.counts())[JobState.QUEUED] == 3
        await two.tasks(1)
        await one.finish(*first)
        await one.tasks(2)
        assert (await storage.jobs.counts())[JobState.QUEUED] == 0
        assert not [frame for frame in (*one.heard, *two.heard) if isinstance(frame, Task)]


async def test_what_a_worker_cannot_run_is_left_for_others(gateway, storage, peer_of):
    """Q6: kinds, queues and labels of each worker count, also where several are connected."""
    async with gateway, peer_of(gateway) as plain, peer_of(gateway) as special:
        await plain.register(worker_id="plain")
        await special.register(worker_id="special", queues=("urgent",), kinds=("resize", "mail"), labels=("gpu",))
        await plain.say(Credit(0, 10))
        ids = [
            *await enqueue(storage, queue="urgent"),
            *await enqueue(storage, kind="mail", queue="urgent", required_labels=["gpu"]),
        ]
        (own,) = await enqueue(storage)
        assert [task.job.id for task in await special.tasks(2)] == ids
        assert (await plain.hear(Task)).job.id == own


async def test_limits_of_kinds_hold_back_only_these(gateway, storage, peer_of):
    """R7: a worker that takes at most so many of a kind gets no more of it, whatever others would take."""
    async with gateway, peer_of(gateway) as bounded, peer_of(gateway) as other:
        kinds = ("resize", "mail")
        await bounded.register(worker_id="bounded", kinds=kinds)
        await enqueue(storage, 3)
        await enqueue(storage, 2, kind="mail")
        await bounded.say(Credit(0, 10, kind_limits={"resize": 1}))
        taken = [(await bounded.hear(Task)).job.kind for _ in range(3)]
        assert sorted(taken) == ["mail", "mail", "resize"]
        await bounded.say(Credit(0, 10, kind_limits={"resize": 1}))  # said before these had come
        await other.register(worker_id="other", kinds=kinds)
        await other.say(Credit(0, 2, kind_limits={"mail": 0}))
        assert [(await other.hear(Task)).job.kind for _ in range(2)] == ["resize", "resize"]
        assert not [frame for frame in bounded.heard if isinstance(frame, Task)]


async def test_room_for_a_kind_that_was_full_is_filled_at_once(gateway_of, storage, peer_of):
    """W6: a run of a limited kind that ends makes room for the next one, which waits for no poll."""
    gateway = gateway_of(poll_interval=3600)
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await enqueue(storage, 3)
        for received in range(3):
            await worker.say(Credit(received, 10, kind_limits={"resize": 1}))
            await worker.say(Result((await worker.hear(Task)).lease_id))


async def test_jobs_are_dealt_out_by_room(gateway, storage, peer_of):
    """R7: what is claimed for several workers together goes to those that have most room."""
    async with gateway, peer_of(gateway) as small, peer_of(gateway) as large:
        gateway.context.pause()
        await small.register(worker_id="small")
        await large.register(worker_id="large")
        await small.say(Credit(0, 2), Heartbeat())
        await large.say(Credit(0, 5), Heartbeat())
        for worker in (small, large):
            await worker.hear(HeartbeatAck)
        await enqueue(storage, 5)
        gateway.context.resume()
        for _ in range(4):
            await large.hear(Task)
        await small.hear(Task)


async def test_every_ending_reaches_the_store(gateway, storage, peer_of):
    """Q4: failing, aborting, giving back, snoozing and being throttled mean what they mean in a local loop."""
    await storage.rate_limits.configure("api", capacity=1, per=60)
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        ids = await enqueue(storage, 5)
        fail, abort, release, snooze, throttle = await worker.tasks(5)
        error = ErrorRecord("ValueError", "no", details=b'{"a":1}')
        await worker.say(
            Failure(fail.lease_id, "fail", error, delay=60),
            Failure(abort.lease_id, "abort", error),
            Failure(release.lease_id, "release"),
            Failure(snooze.lease_id, "snooze", delay=60),
            Failure(throttle.lease_id, "throttle", delay=60, scope="api"),
        )
        accepted = (await worker.hear(ResultAck)).accepted
        while len(accepted) < 5:
            accepted += (await worker.hear(ResultAck)).accepted
        jobs = [await storage.jobs.get(job_id) for job_id in ids]
        assert [(job.state.value, job.attempt) for job in jobs] == [
            ("scheduled", 1),
            ("dead", 1),
            ("queued", 0),
            ("scheduled", 0),
            ("scheduled", 0),
        ]
        assert jobs[1].error.details == {"a": 1}
        assert (await storage.rate_limits.acquire("api")).retry_after > 50


async def test_a_result_told_again_is_acknowledged_again(gateway, storage, peer_of):
    """R4: what was stored is stored once, however often a worker tells it, and a lost lease changes nothing."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        (job_id,) = await enqueue(storage)
        (task,) = await worker.tasks(1)
        await worker.say(*[Result(task.lease_id, b"1")] * 3)
        await worker.finish(task, outputs=b"2")
        await worker.say(Result("never granted", b"3"))
        while not (ack := await worker.hear(ResultAck)).lost:
            pass
        assert ack.lost == ("never granted",)
        assert (await storage.jobs.get(job_id)).result == 1


async def test_an_outcome_that_cannot_be_stored_is_refused(gateway, storage, peer_of):
    """R8: outputs that are no JSON, or too large, come back with the reason; lease and session live on."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await enqueue(storage)
        (task,) = await worker.tasks(1)
        await worker.say(Result(task.lease_id, b"{no json"))
        assert "JSON is malformed" in (await worker.hear(ResultAck)).refused[task.lease_id]
        await worker.say(Result(task.lease_id, b'"' + b"x" * 1024 * 1024 + b'"'))
        assert "the limit is" in (await worker.hear(ResultAck)).refused[task.lease_id]
        await worker.say(Failure(task.lease_id, "snooze", delay=float("nan")))
        assert (await worker.hear(ResultAck)).refused[task.lease_id]
        await worker.finish(task)


async def test_leases_live_as_long_as_their_worker(gateway_of, storage, peer_of, eventually):
    """Q11: the gateway renews what connected workers hold; a cut leaves them the resume window, then they expire."""
    gateway = gateway_of(lease_ttl=1.2, resume_window=0.2)
    async with gateway:
        (job_id,) = await enqueue(storage, max_attempts=2)
        async with peer_of(gateway) as worker:
            await worker.register()
            (task,) = await worker.tasks(1)
            await worker.say(Began((task.lease_id,)))
            began = await storage.now()

            async def outlived_its_time():
                assert (await storage.jobs.get(job_id)).lease_id == task.lease_id
                return await storage.now() > began + 1.6

            await eventually(outlived_its_time)
        await eventually(state_of(storage, job_id, JobState.QUEUED))
        job = await storage.jobs.get(job_id)
        assert (job.attempt, job.error.kind) == (1, "lease expired")


async def test_a_run_that_never_began_costs_no_attempt(gateway, storage, peer_of, eventually):
    """Q3: a task that a worker took and never began, like one that never reached it, is no attempt."""
    async with gateway:
        (job_id,) = await enqueue(storage)
        async with peer_of(gateway) as worker:
            await worker.register()
            await worker.tasks(1)
        await storage.advance(60)
        await eventually(state_of(storage, job_id, JobState.QUEUED))
        assert (await storage.jobs.get(job_id)).attempt == 0


async def test_tasks_that_were_not_sent_go_to_others_at_once(gateway, storage, peer_of, eventually):
    """Q3: what still waited to be sent when the worker left is given back, without the resume window."""
    async with gateway:
        ids = await enqueue(storage, 2, priority=1)
        async with peer_of(gateway, buffer=0) as worker:
            await worker.register()
            await worker.say(Credit(0, 1))
            # The first task waits to be read, so the second one waits to be sent.
            await eventually(state_of(storage, ids[0], JobState.RUNNING))
            await worker.say(Credit(0, 2))
            await eventually(state_of(storage, ids[1], JobState.RUNNING))
            worker.hang_up()
            await eventually(state_of(storage, ids[1], JobState.QUEUED))
            assert (await storage.jobs.get(ids[0])).state is JobState.RUNNING


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_worker_comes_back_with_what_it_holds(gateway, gateway_of, storage, peer_of, eventually, elsewhere):
    """R4: after a cut a worker reports to the same or another gateway, and nothing is computed twice."""
    other = gateway_of()

    def has_parted():
        """Whether the first gateway has done its last for the leases, which gave them the resume window."""
        return not gateway.workers and not gateway._door.engines["default"].leases._parting

    async with gateway, other:
        ids = await enqueue(storage, 2)
        async with peer_of(gateway) as worker:
            await worker.register()
            done, running = await worker.tasks(2)
            await worker.say(Began((done.lease_id, running.lease_id)))
        await eventually(has_parted)
        async with peer_of(other if elsewhere else gateway) as worker:
            ack = await worker.register(holding=(done.lease_id, running.lease_id))
            assert not ack.lost
            await worker.finish(done, outputs=b'"before the cut"')
            await worker.say(Credit(0, 5), Heartbeat((running.lease_id,), 1))
            await worker.hear(HeartbeatAck)
            await storage.advance(15)  # longer than the resume window
            assert not await storage.jobs.reap_expired_leases()
            await worker.finish(running)
            assert not [frame for frame in worker.heard if isinstance(frame, Task)]
        jobs = [await storage.jobs.get(job_id) for job_id in ids]
        assert [(job.state, job.attempt) for job in jobs] == [(JobState.SUCCEEDED, 1)] * 2


FAILED = ErrorRecord("ValueError", "no", "the traceback", b"[1]")


@pytest.mark.parametrize(
    ("said", "again", "lost"),
    [
        (Result("", b'{"a": 1}'), Result("", b'{"a":1}'), False),
        (Result("", b"1"), Result("", b"2"), True),
        (Failure("", "fail", FAILED), Failure("", "fail", FAILED), False),
        (Failure("", "abort", FAILED), Failure("", "fail", ErrorRecord("ValueError", "no")), True),
        (Failure("", "snooze", delay=60), Failure("", "snooze", delay=60), True),
    ],
)
async def test_what_another_gateway_stored_is_acknowledged(gateway, gateway_of, storage, peer_of, said, again, lost):
    """R4: an outcome told again, as its gateway died before it said that it was stored, did not come too late."""
    other = gateway_of()
    async with gateway, other:
        (job_id,) = await enqueue(storage)
        async with peer_of(gateway) as worker:
            await worker.register()
            (task,) = await worker.tasks(1)
            about = {"lease_id": task.lease_id, "job_id": job_id}
            await worker.say(msgspec.structs.replace(said, **about))
            await worker.hear(ResultAck)
        async with peer_of(other) as worker:
            await worker.register(holding=(task.lease_id,))
            await worker.say(msgspec.structs.replace(again, **about))
            ack = await worker.hear(ResultAck)
            assert (ack.lost, ack.accepted) == (((task.lease_id,), ()) if lost else ((), (task.lease_id,)))
            await worker.say(msgspec.structs.replace(again, lease_id=task.lease_id, job_id=""))  # an older worker
            assert (await worker.hear(ResultAck)).lost == ((task.lease_id,) if lost else ())


async def test_a_result_under_an_expired_lease_counts_until_it_is_reaped(gateway_of, storage, peer_of):
    """Q11: an outcome told after the lease ran out is stored; once the job was taken away, it is lost."""
    gateway = gateway_of(reap_interval=3600)
    async with gateway:
        early, late = await enqueue(storage, 2)
        async with peer_of(gateway) as worker:
            await worker.register()
            tasks = await worker.tasks(2)
            await worker.say(Began(tuple(task.lease_id for task in tasks)))
        await storage.advance(100)
        async with peer_of(gateway) as worker:
            ack = await worker.register(holding=tuple(task.lease_id for task in tasks))
            assert not ack.lost  # it might not tell their outcome then
            await worker.finish(tasks[0])
            await storage.jobs.reap_expired_leases()
            await worker.say(Result(tasks[1].lease_id))
            assert (await worker.hear(ResultAck)).lost == (tasks[1].lease_id,)
        assert (await storage.jobs.get(early)).state is JobState.SUCCEEDED
        assert (await storage.jobs.get(late)).state is not JobState.SUCCEEDED


async def test_a_worker_that_was_started_again_speaks_for_the_one_before(gateway, storage, peer_of):
    """R4: outcomes from the journal of a process that is gone are taken, even if its connection is not known to be."""
    async with gateway, peer_of(gateway) as before, peer_of(gateway) as after:
        await before.register(worker_id="before")
        (job_id,) = await enqueue(storage)
        (task,) = await before.tasks(1)
        await after.register(worker_id="after", holding=(task.lease_id,))
        await after.finish(task, outputs=b'"from the journal"')
        assert (await storage.jobs.get(job_id)).result == "from the journal"


async def test_a_run_whose_lease_is_lost_is_told_so(gateway, storage, peer_of):
    """R4: who comes back too late hears, after it has told its outcomes, which runs nobody waits for."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register(holding=("long gone",))
        await worker.say(Credit(0, 1), Heartbeat(("long gone",), 1))
        assert (await worker.hear(HeartbeatAck)).lost == ("long gone",)


async def test_cancelling_reaches_the_worker(gateway, storage, peer_of, eventually):
    """Q7: the owner of a running job hears at once that it should stop, and how it ended is its word."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        user, queue = await enqueue(storage, 2)
        tasks = {task.job.id: task.lease_id for task in await worker.tasks(2)}
        await storage.jobs.cancel(user)
        assert await worker.hear(Cancel) == Cancel(tasks[user], CancelReason.USER)
        await storage.jobs.pause_queue("default", cancel_running=True)
        assert await worker.hear(Cancel) == Cancel(tasks[queue], CancelReason.QUEUE_PAUSED)
        await worker.say(
            Failure(tasks[user], "abort", ErrorRecord("Cancelled", "stopped")), Failure(tasks[queue], "release")
        )
        await eventually(state_of(storage, user, JobState.CANCELLED))
        await eventually(state_of(storage, queue, JobState.QUEUED))


async def test_a_job_that_fits_into_no_message_fails_alone(gateway, storage, peer_of, eventually):
    """R8: a job with more results of its parents than a message can hold is dead with the reason; others go on."""
    parents = await enqueue(storage, 9, kind="parent")
    for _, lease in await storage.jobs.claim_many("somebody", kinds=["parent"]):
        await storage.jobs.complete(lease.id, "x" * 1_000_000)
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        (large,) = await enqueue(storage, depends_on=parents)
        await enqueue(storage)
        (task,) = await worker.tasks(1, free=2)
        await eventually(state_of(storage, large, JobState.DEAD))
        assert (await storage.jobs.get(large)).error.kind == "TooLarge"
        await enqueue(storage)
        await worker.finish(task, *await worker.tasks(1))


async def test_progress_is_stored(gateway, storage, peer_of, eventually):
    """W7: the newest progress of a run reaches its job; that of a stranger's run does not."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        (job_id,) = await enqueue(storage)
        (task,) = await worker.tasks(1)
        await worker.say(
            Progress("not mine", b"1"), Progress(task.lease_id, b'{"done":1}'), Progress(task.lease_id, b'{"done":2}')
        )

        async def stored():
            return (await storage.jobs.get(job_id)).progress == {"done": 2}

        await eventually(stored)


async def test_handlers_ask_the_store_of_their_namespace(gateway, storage, peer_of):
    """W7: enqueueing and looking up from afar, once although told twice; steering is not for everybody."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()

        async def ask(call, number, *, again=False):
            await worker.say(Request(number, encode_call(call), again))
            reply = await worker.hear(Reply)
            assert reply.id == number
            return read_reply(call, reply)

        record = RequestRecord.of(EnqueueRequest("mail", {"to": "you"}), "job-1")
        (outcome,) = await ask(Enqueue((record,)), 1)
        (told_again,) = await ask(Enqueue((record,)), 2, again=True)
        assert outcome.id == told_again.id == "job-1"
        assert (await ask(GetJob("job-1"), 3)).job().payload == {"to": "you"}
        with pytest.raises(LookupError, match="no job 'job-2'"):
            await ask(GetJob("job-2"), 4)
        assert not (await ask(AwaitEnd("job-1", 0.01), 5)).job().state.is_final
        with pytest.raises(Exception, match="may not call RetryJob"):
            await ask(RetryJob("job-1"), 6)


async def test_what_two_gateways_are_asked_at_once_is_done_once(gateway_of, storage, peer_of, url):
    """W7: a request told again while another gateway is still at the first telling does not fail because of that."""
    faults = Faults()
    call = Enqueue((RequestRecord.of(EnqueueRequest("mail"), "job-1"),))
    async with gateway_of(store=faults.wrap(connect(url))) as gateway, peer_of(gateway) as worker:
        await worker.register()
        with faults.hang("jobs.enqueue_bulk") as adding:
            await worker.say(Request(1, encode_call(call), again=True))
            await adding.met()
            await storage.jobs.enqueue(EnqueueRequest("mail", job_id="job-1"))
        (outcome,) = read_reply(call, await worker.hear(Reply))
        assert outcome.id == "job-1"


async def test_schedules_fire_where_there_is_only_a_gateway(gateway, storage, peer_of):
    """W11: a gateway fires what is due, like any worker loop, as there may be nobody else to do so."""
    await storage.schedules.put(Schedule(name="often", request=EnqueueRequest("resize"), every=0.2))
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await worker.tasks(2)


async def test_a_stop_drains_the_workers(gateway, storage, peer_of):
    """R6, L26: a stopping gateway hands out nothing, takes what is under way, and ends when its workers have left."""
    async with anyio.create_task_group() as tasks:
        async with gateway, peer_of(gateway) as worker:
            await worker.register()
            (job_id,) = await enqueue(storage)
            (task,) = await worker.tasks(1)
            gateway.context.stop("deploy")
            assert (await worker.hear(Drain)).reason == "deploy"
            await enqueue(storage)
            await worker.say(Credit(1, 5))
            await worker.finish(task)
            async with peer_of(gateway) as late:
                assert (await late.ended())[0] == 503
            worker.hang_up()
            await gateway.context
        assert (await storage.jobs.get(job_id)).state is JobState.SUCCEEDED
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1
        tasks.cancel_scope.cancel()


async def test_at_the_deadline_the_gateway_hangs_up(gateway, storage, peer_of):
    """L26: a worker that does not end is cut off, and its jobs wait for it at another gateway."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        (job_id,) = await enqueue(storage)
        await worker.tasks(1)
        gateway.context.stop("deploy", grace=0.1)
        assert (await worker.ended())[0] == 1012
        await gateway.context
    assert (await storage.jobs.get(job_id)).state is JobState.RUNNING


async def test_who_registers_after_the_end_is_sent_away(eventually, gateway_of, peer_of, monkeypatch):
    """R3: a worker that took its time with its registration is told to come back, and not left with a dead gateway."""
    monkeypatch.setattr("workerctx_starlette.gateway._gateway._GOODBYE", 0.01)
    gateway = gateway_of(grace=0.0)
    async with anyio.create_task_group() as tasks:
        stop = anyio.Event()
        tasks.start_soon(gateway.run_while, stop.wait)
        await eventually(lambda: gateway.context.is_running)
        async with peer_of(gateway) as late:
            await eventually(lambda: gateway._connections)
            stop.set()
            await gateway.context
            await eventually(lambda: gateway._door is None)
            await late.register()
            assert await late.hear(Drain)
            assert (await late.ended())[0] == 1012


async def test_a_store_that_hangs_keeps_no_worker_out(gateway_of, peer_of, url):
    """W4: a worker that comes back during an outage is let in, with what it holds, before its patience is at an end."""
    faults = Faults()
    async with gateway_of(store=faults.wrap(connect(url)), register_timeout=0.5) as gateway, peer_of(gateway) as worker:
        faults.hang()
        try:
            assert not (await worker.register(holding=("a lease",))).lost
        finally:
            faults.lift()


async def test_a_paused_gateway_keeps_its_workers(gateway, storage, peer_of):
    """L3: paused, a gateway claims nothing, takes results and new workers, and goes on when resumed."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await enqueue(storage, 2)
        (task,) = await worker.tasks(1)
        gateway.context.pause()
        async with peer_of(gateway) as other:
            await other.register(worker_id="w2")
            await other.say(Credit(0, 1), Heartbeat())
            await other.hear(HeartbeatAck)
        await worker.finish(task)
        await worker.say(Credit(1, 1), Heartbeat())
        await worker.hear(HeartbeatAck)
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1
        gateway.context.resume()
        await worker.hear(Task)


async def test_a_gateway_can_run_again(gateway, storage, peer_of):
    """H3: each run of an application has a context of its own; two runs at once are refused."""
    contexts = []
    for _ in range(2):
        async with gateway, peer_of(gateway) as worker:
            await worker.register()
            contexts.append(gateway.context)
            with pytest.raises(RuntimeError, match="already been entered"):
                await gateway.run()
    assert contexts[0] is not contexts[1]
    async with peer_of(gateway) as worker:
        assert (await worker.ended())[0] == 503


def test_without_authentication_there_is_no_gateway():
    """H5: a gateway that would let in anybody is refused with a sentence, and so is one without a store."""
    with pytest.raises(InvalidConfig, match="does not start without authentication"):
        Gateway("memory://")
    shared = {"acme": "sqlite:///jobs.db", "globex": "sqlite:///jobs.db?namespace=default"}
    with pytest.raises(InvalidConfig, match="each would get the other's jobs"):
        Gateway(shared, authenticate=bearer_tokens({"a" * 20: Identity("x")}))
    with pytest.raises(InvalidConfig, match="at least one namespace"):
        Gateway({}, authenticate=bearer_tokens({"a" * 20: Identity("x")}))
    with pytest.raises(InvalidConfig, match=r"silence must be more than 0.*grace must not be negative"):
        GatewayConfig(silence=0, grace=-1)
    with pytest.raises(InvalidConfig, match="half of lease_ttl"):
        GatewayConfig(heartbeat=20)
    with pytest.raises(InvalidConfig, match="half of resume_window"):
        GatewayConfig(resume_window=3)
    with pytest.raises(InvalidConfig, match="'many' is not a value for max_sessions"):
        GatewayConfig(max_sessions="many")
    with pytest.raises(InvalidConfig, match=r"1\.5 is not a value for max_message: it is not a whole number"):
        GatewayConfig(max_message=1.5)
    assert GatewayConfig(grace=timedelta(minutes=1)).grace == 60.0


async def test_progress_that_could_not_be_stored_takes_no_other_with_it(gateway_of, peer_of):
    """R8: each newest value is stored at last, although a write of one of them fails."""
    faults = Faults()
    store = faults.wrap(connect(f"memory://{uuid4().hex}"))
    faults.fail("jobs.progress", times=1)
    gateway = gateway_of(store=store)

    async def all_there():
        return all(job.progress == 50 for job in (await store.jobs.list(limit=250)).jobs)

    async with gateway, peer_of(gateway) as worker:
        await worker.register(concurrency=250)
        await enqueue(store, 150)
        tasks = await worker.tasks(150)
        await worker.say(*(Progress(task.lease_id, b"50") for task in tasks))
        await wait_until(all_there, timeout=10)
