"""Workers that lie, shout, or fall silent: each harms itself, and nobody else."""

from __future__ import annotations

import threading
import time
from contextlib import AsyncExitStack
from uuid import uuid4

import anyio
import anyio.to_thread
import msgspec
import pytest

from workerctx.errors import InvalidConfig, PermissionDenied, Unauthenticated
from workerctx.queue import EnqueueRequest, JobState, connect
from workerctx.remote.asking import encode_call, read_reply
from workerctx.remote.calls import AwaitEnd, CountJobs, ListJobs
from workerctx.remote.frames import (
    Began,
    Credit,
    Denied,
    Heartbeat,
    HeartbeatAck,
    Progress,
    Register,
    RegisterAck,
    Reply,
    Request,
    Result,
    ResultAck,
    Task,
)
from workerctx.testing import Faults, wait_until
from workerctx_starlette.gateway import Identity, bearer_tokens, client_certificates

TOKEN = "a token that nobody guesses"
LIMITS = {
    "max_sessions": 3,
    "max_message": 10_000,
    "max_concurrency": 2,
    "max_requests": 2,
    "max_rate": 50,
    "resume_window": 1.0,
}
IMPATIENT = LIMITS | {"silence": 0.6, "register_timeout": 0.3, "send_timeout": 0.3}
"""For what is about time; anything else must not depend on the speed of the machine."""


@pytest.fixture
def gateway(gateway_of):
    """A gateway with narrow limits."""
    return gateway_of(**LIMITS)


@pytest.fixture
def impatient(gateway_of):
    """The same, with little patience."""
    return gateway_of(**IMPATIENT)


@pytest.fixture
def decent(gateway, storage, peer_of):
    """A worker that behaves is served as if nothing had happened; called after the misdeed."""

    async def decent():
        (outcome,) = await storage.jobs.enqueue_bulk([EnqueueRequest("resize")])
        async with peer_of(gateway) as worker:
            await worker.register(worker_id="decent")
            (task,) = await worker.tasks(1)
            await worker.finish(task)
        assert (await storage.jobs.get(outcome.id)).state is JobState.SUCCEEDED

    return decent


async def shut_out(worker):
    """Wait until a worker is shut out, and return the reason."""
    denied = await worker.hear(Denied)
    code, reason = await worker.ended()
    assert code == 1008
    assert denied.message.startswith(reason[:100])
    return denied.message


@pytest.mark.parametrize("token", [None, "", "a token that somebody guessed"])
async def test_nobody_comes_in_without_a_token_that_is_known(gateway, peer_of, token):
    """H5: who cannot say who it is gets 401 before anything else is done, and is not told more."""
    async with gateway, peer_of(gateway, token) as worker:
        status, reason = await worker.ended()
        assert status == 401
        assert TOKEN not in reason


@pytest.mark.parametrize(
    ("authenticate", "status"),
    [
        (lambda _: None, 401),
        (lambda _: (_ for _ in ()).throw(Unauthenticated("who are you?")), 401),
        (lambda _: (_ for _ in ()).throw(PermissionDenied("not today")), 403),
        (lambda _: (_ for _ in ()).throw(OSError("the directory is down")), 503),
        (lambda _: "yes", 503),
    ],
)
async def test_the_answer_tells_whether_to_try_again(gateway_of, peer_of, authenticate, status):
    """R2: a refusal is final, a failure of the authentication itself is not; without an HTTP answer it is 1008."""
    gateway = gateway_of(authenticate, **LIMITS)
    async with gateway:
        async with peer_of(gateway) as worker:
            assert (await worker.ended())[0] == status
        async with peer_of(gateway, extensions={}) as worker:
            assert (await worker.ended())[0] == 1008


async def test_authentication_may_be_async_and_sees_the_connection(gateway_of, peer_of):
    """H5: a function of one's own gets headers and client address, and its time is bounded."""
    seen = []

    async def authenticate(connection):
        seen.append((connection.client.host, connection.headers["authorization"]))
        if len(seen) > 1:
            await anyio.sleep_forever()
        return Identity("tests")

    gateway = gateway_of(authenticate, **IMPATIENT)
    async with gateway:
        async with peer_of(gateway) as worker:
            await worker.register()
        async with peer_of(gateway) as worker:
            assert (await worker.ended())[0] == 503
    assert seen == [("127.0.0.1", f"Bearer {TOKEN}")] * 2


async def test_a_client_certificate_says_who_a_worker_is(gateway_of, peer_of):
    """H5: with mutual TLS the name in the verified certificate decides, as the server tells it."""
    gateway = gateway_of(client_certificates({"CN=images": Identity("images")}), **LIMITS)
    shown = [
        ({"client_cert_name": "CN=images"}, None),
        ({"client_cert_name": "CN=mallory"}, 401),
        ({"client_cert_name": "CN=images", "client_cert_error": "expired"}, 401),
        ({}, 401),
    ]
    async with gateway:
        for tls, status in shown:
            async with peer_of(gateway, extensions={"tls": tls, "websocket.http.response": {}}) as worker:
                if status is None:
                    await worker.register()
                else:
                    assert (await worker.ended())[0] == status


def test_what_could_let_in_anybody_is_refused():
    """H5: no tokens, no names, and a token that can be guessed are mistakes in the configuration."""
    with pytest.raises(InvalidConfig, match="no tokens"):
        bearer_tokens({})
    with pytest.raises(InvalidConfig, match="no names"):
        client_certificates({})
    with pytest.raises(InvalidConfig, match="can be guessed"):
        bearer_tokens({"secret": Identity("x")})


@pytest.mark.parametrize("token", [f" {TOKEN}", f"{TOKEN}\n", f"{TOKEN}ß", f"{TOKEN}\0"])
def test_a_token_that_no_worker_can_send_is_refused(token):
    """H5: nobody would ever come in with it; it is not shown."""
    with pytest.raises(InvalidConfig, match="printable ASCII") as refused:
        bearer_tokens({token: Identity("x")})
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    "make", [lambda value: bearer_tokens({TOKEN: value}), lambda value: client_certificates({"CN=x": value})]
)
def test_who_a_worker_is_said_to_be_is_an_identity(make):
    """H5: anything else would turn every worker away once it comes."""
    with pytest.raises(InvalidConfig, match="pass Identity"):
        make("images")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ((5,), "5 is not a value for subject"),
        (("me", 5), "5 is not a value for namespaces"),
        (("me", [5]), "not a value for namespaces: each name must be"),
        (("me", "mine"), "not a value for namespaces: expected several names"),
    ],
)
def test_an_identity_is_checked(about, words):
    """H5: where it is made, and not where a worker comes."""
    with pytest.raises(InvalidConfig, match=words):
        Identity(*about)


async def test_a_namespace_sees_only_its_own(gateway_of, tmp_path, peer_of):
    """Q19, H5: a worker serves, asks and finishes in a namespace that its identity allows, and in no other."""
    urls = {name: f"sqlite:///{tmp_path}/jobs.db?namespace={name}" for name in ("mine", "yours")}
    identities = {"a" * 20: Identity("me", ["mine"]), "b" * 20: Identity("you", ["yours", "mine"])}
    gateway = gateway_of(bearer_tokens(identities), urls, **LIMITS)
    async with gateway, connect(urls["yours"]) as yours:
        await yours.jobs.enqueue(EnqueueRequest("resize"))
        async with peer_of(gateway, "b" * 20) as you, peer_of(gateway, "a" * 20) as me:
            assert (await you.register(namespaces=("nowhere", "yours"), worker_id="you")).namespace == "yours"
            assert (await me.register(namespaces=("yours", "mine"), worker_id="me")).namespace == "mine"
            await me.say(Credit(0, 1))
            (task,) = await you.tasks(1)
            await me.say(Result(task.lease_id), Request(1, encode_call(ListJobs())), Progress(task.lease_id, b"1"))
            assert (await me.hear(ResultAck)).lost == (task.lease_id,)
            assert read_reply(ListJobs(), await me.hear(Reply)).jobs == ()
            assert not [frame for frame in me.heard if isinstance(frame, Task)]
            await you.finish(task)
        async with peer_of(gateway, "a" * 20) as me:
            await me.say(Register(worker_id="me", namespaces=("yours",), kinds=("resize",)))
            assert (await me.hear(Denied)).code == "permission_denied"
            assert (await me.ended())[0] == 1008


async def test_a_worker_cannot_take_the_place_of_another(gateway_of, peer_of):
    """H5: the id of a worker belongs to its subject; the same subject may begin anew, which ends the old session."""
    identities = {"a" * 20: Identity("me"), "b" * 20: Identity("you")}
    gateway = gateway_of(bearer_tokens(identities), **LIMITS)
    async with gateway, peer_of(gateway, "a" * 20) as first:
        await first.register()
        async with peer_of(gateway, "b" * 20) as thief:
            await thief.say(Register(worker_id="w1", kinds=("resize",)))
            assert (await thief.hear(Denied)).code == "permission_denied"
        async with peer_of(gateway, "a" * 20) as second:
            await second.register()
            assert "another session" in (await first.ended())[1]
            assert gateway.workers == 1


NO_REGISTRATION = [
    [Credit(0, 1)],
    [Heartbeat()],
    [Register(worker_id="w1", kinds=("resize",)), Credit(0, 1)],
    [Register(worker_id="", kinds=("resize",))],
    [Register(worker_id="w1")],
    [Register(worker_id="w1", kinds=("a\x00b",))],
    [Register(worker_id="w1", kinds=("resize",), node="x" * 1000)],
    [Register(worker_id="w1", kinds=("resize",), concurrency=0)],
    [Register(worker_id="w1", kinds=("resize",), weights={"default": 0})],
    [Register(worker_id="w1", kinds=("resize",), weights={"elsewhere": 1})],
    [Register(worker_id="w1", kinds=("resize",), holding=("",))],
    [Register(worker_id="w1", kinds=("resize",), holding=tuple(map(str, range(5))))],
]


async def test_what_comes_instead_of_a_registration_ends_it(gateway, decent, peer_of):
    """R1: nothing is served before a registration that makes sense, in a message of its own."""
    async with gateway:
        for frames in NO_REGISTRATION:
            async with peer_of(gateway) as worker:
                await worker.say(*frames)
                assert await shut_out(worker)
                assert not [frame for frame in worker.heard if isinstance(frame, RegisterAck)]
        await decent()


async def test_an_old_worker_is_told_which_versions_are_spoken(gateway, peer_of):
    """R1: a version that both speak is chosen; without one the worker hears which there are."""
    async with gateway:
        async with peer_of(gateway) as worker:
            assert (await worker.register(versions=(99, 1))).version == 1
        async with peer_of(gateway) as worker:
            await worker.say(Register(worker_id="w1", versions=(0, 99), kinds=("resize",)))
            assert await worker.hear(Denied) == Denied(
                "version", "the gateway speaks version 1 of the protocol, and the worker none of these"
            )


async def test_who_never_registers_is_shut_out(gateway, impatient, decent, peer_of):
    """R1: registration is bounded in time, and who only connects takes no place for long."""
    async with impatient, peer_of(impatient) as silent, peer_of(impatient) as empty:
        await empty.say_raw(b"\x90")  # no frame at all
        assert await shut_out(silent)
        assert await shut_out(empty)
    async with gateway:
        await decent()


async def test_there_is_room_for_so_many(gateway, peer_of):
    """R7: when every place is taken, the next one hears so and may try again."""
    async with gateway, peer_of(gateway) as one, peer_of(gateway) as two, peer_of(gateway) as three:
        for number, worker in enumerate((one, two, three)):
            await worker.register(worker_id=str(number))
        async with peer_of(gateway) as late:
            assert await late.ended() == (503, "this gateway serves 3 workers and takes no more: try again\n")


MALFORMED = [
    b"",
    b"\xc1",
    b"\x91\x81\xa1t\xa7invented",
    b"a text in bytes",
    "a text",
    b"\x91" * 9_000,
    b"\x00" * 10_001,
]


async def test_a_malformed_message_ends_only_its_session(gateway, decent, storage, peer_of):
    """R8: what cannot be understood, and what is too large, ends that session with a reason; its jobs are kept."""
    (outcome,) = await storage.jobs.enqueue_bulk([EnqueueRequest("resize")])
    async with gateway, peer_of(gateway) as patient:
        await patient.register(worker_id="patient")
        (task,) = await patient.tasks(1)
        for message in MALFORMED:
            async with peer_of(gateway) as worker:
                await worker.register()
                await worker.say_raw(message)
                assert await shut_out(worker)
        await decent()
        await patient.finish(task)
        assert (await storage.jobs.get(outcome.id)).state is JobState.SUCCEEDED


LIES = [
    Credit(1, 5),
    Credit(0, -1),
    Credit(-1, 5),
    Credit(0, 2**40),
    Register(worker_id="w1", kinds=("resize",)),
    Heartbeat(("1", "2", "3", "4", "5")),
    Heartbeat(("",)),
    Heartbeat(state="\x00"),
    Result("\x00"),
    Result("x" * 1000),
    Result("l", job_id="\x00"),
    Credit(0, 0, kind_limits={"resize": 1, "mail": 1}),
]


async def test_a_lie_ends_the_session(gateway, decent, peer_of):
    """R7: tasks never sent, negative or absurd credit, more leases than anybody can hold, ids that are none."""
    async with gateway:
        for lie in LIES:
            async with peer_of(gateway) as worker:
                await worker.register()
                await worker.say(lie)
                assert await shut_out(worker)
        await decent()


async def test_credit_is_capped(gateway, storage, peer_of):
    """R7: whatever a worker asks for, it holds no more jobs than the gateway lets it."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await storage.jobs.enqueue_bulk([EnqueueRequest("resize")] * 5)
        tasks = await worker.tasks(2, free=1000)
        await worker.say(Credit(2, 1000), Heartbeat())
        await worker.hear(HeartbeatAck)
        assert (await storage.jobs.counts())[JobState.QUEUED] == 3
        await worker.finish(*tasks)
        await worker.say(Credit(2, 1000))
        await worker.hear(Task)


async def test_credit_beyond_the_cap_is_not_forgotten(gateway, storage, peer_of):
    """R7: a worker that holds as much as it may gets more once an outcome is stored, without asking again."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await storage.jobs.enqueue_bulk([EnqueueRequest("resize")] * 5)
        tasks = await worker.tasks(2, free=1000)
        await worker.say(*(Result(task.lease_id) for task in tasks), Credit(2, 1000))
        for _ in range(3):
            task = await worker.hear(Task)
            await worker.say(Result(task.lease_id))


async def test_a_stolen_lease_helps_nobody(gateway_of, storage, peer_of):
    """Q1: a lease of somebody else's worker can neither be finished nor held by who has learnt its id."""
    identities = {"a" * 20: Identity("me"), "b" * 20: Identity("you")}
    gateway = gateway_of(bearer_tokens(identities), **LIMITS)
    async with gateway, peer_of(gateway, "a" * 20) as owner, peer_of(gateway, "b" * 20) as thief:
        await owner.register(worker_id="owner")
        await thief.register(worker_id="thief")
        (outcome,) = await storage.jobs.enqueue_bulk([EnqueueRequest("resize")])
        (task,) = await owner.tasks(1)
        await thief.say(Result(task.lease_id, b'"stolen"'), Heartbeat((task.lease_id,)))
        assert (await thief.hear(ResultAck)).lost == (task.lease_id,)
        assert (await thief.hear(HeartbeatAck)).lost == (task.lease_id,)
        await owner.finish(task, outputs=b'"mine"')
        assert (await storage.jobs.get(outcome.id)).result == "mine"


async def test_who_reads_nothing_is_hung_up_on(gateway, impatient, decent, peer_of, eventually):
    """R7: a slow reader is given a bounded time, holds a bounded amount, and delays nobody."""
    async with impatient, gateway:
        async with peer_of(impatient, buffer=0) as worker:
            await worker.register()
            await worker.say(*[Heartbeat()] * 10)
            await decent()
            await eventually(lambda: impatient.workers == 0)
        await decent()


async def test_who_says_nothing_is_hung_up_on(impatient, peer_of):
    """R7: a half-open connection is found by the heartbeats that do not come; they need not come often for nothing."""
    async with impatient, peer_of(impatient) as worker:
        ack = await worker.register()
        assert (ack.heartbeat, ack.idle_heartbeat) == pytest.approx((0.2, 0.4))
        assert await worker.ended() == (1001, "nothing was heard for 1.2 seconds")


async def test_who_holds_jobs_and_says_nothing_is_hung_up_on(impatient, storage, peer_of):
    """R7: a worker that holds jobs may not be silent for as long."""
    async with impatient, peer_of(impatient) as worker:
        await worker.register()
        await storage.jobs.enqueue(EnqueueRequest("resize"))
        await worker.tasks(1)
        assert await worker.ended() == (1001, "nothing was heard for 0.6 seconds")


async def test_who_shouts_is_read_slowly(gateway, decent, peer_of):
    """R7: above its rate a worker is read no faster, whatever it sends, and others are served meanwhile."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        began = anyio.current_time()
        for _ in range(100):
            await worker.say(Heartbeat())
        await decent()
        for _ in range(100):
            await worker.hear(HeartbeatAck)
        assert anyio.current_time() - began > 0.9  # 50 at once, then 50 a second


async def test_requests_are_bounded(gateway, decent, storage, peer_of):
    """W7: who asks for too much at once hears that the store is busy, and may try again."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        (outcome,) = await storage.jobs.enqueue_bulk([EnqueueRequest("mail")])
        call = AwaitEnd(outcome.id, 20.0)
        await worker.say(*[Request(number, encode_call(call)) for number in range(5)])
        busy = [await worker.hear(Reply) for _ in range(3)]
        assert {reply.fault.kind for reply in busy} == {"StoreBusy"}
        assert {reply.id for reply in busy} == {2, 3, 4}
        await decent()


async def test_more_outcomes_than_anybody_can_owe_are_a_breach(gateway, decent, peer_of):
    """R7: also in one message."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await worker.say(*[Result(f"lease-{number}") for number in range(5)])
        assert "more than 4 outcomes" in await shut_out(worker)
        await decent()


async def test_a_message_of_many_frames_holds_up_nobody(gateway_of, peer_of):
    """R7: others have their turn in between, and no more answers wait for who does not read than there is room for."""
    number = 30_000
    gateway = gateway_of(**LIMITS | {"max_message": 8_000_000, "send_timeout": 60.0})
    async with gateway, peer_of(gateway, buffer=0) as loud, peer_of(gateway) as calm:
        await loud.register(worker_id="loud")
        await calm.register(worker_id="calm")
        await loud.say_raw(msgspec.msgpack.encode([Request(number, b"") for number in range(number)]))
        outbox = gateway._door.engines["default"].sessions["loud"].outbox
        await wait_until(lambda: outbox.is_crowded)
        for _ in range(10):
            await calm.say(Heartbeat())
            await calm.hear(HeartbeatAck)
        assert outbox._bytes < 5 * 1024 * 1024
        answered = {(await loud.hear(Reply)).id for _ in range(number)}
        assert answered == set(range(number))


async def test_a_busy_worker_hears_that_it_has_lost_a_lease(gateway, peer_of):
    """R4: a worker whose slots are all taken asks for nothing, and must stop what nobody waits for all the same."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register(holding=("long gone",))
        await worker.say(Heartbeat(("long gone",), 1))
        assert (await worker.hear(HeartbeatAck)).lost == ("long gone",)
        await worker.say(Heartbeat((), 0))
        assert not (await worker.hear(HeartbeatAck)).lost


async def test_a_nonsensical_request_fails_alone(gateway, decent, peer_of):
    """R8: a call that nobody knows is answered with a fault, and the session goes on."""
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        for call in (b"\xa4what", b"\x81\xa4call\xa4what"):
            await worker.say_raw(b"\x91\x83\xa1t\xa7request\xa2id\x07\xa4call" + call)
            assert (await worker.hear(Reply)).fault is not None
        await decent()


async def test_other_protocols_are_told_what_is_spoken_here(gateway):
    """H1: a plain HTTP request gets 426, and the lifespan of the gateway alone is served."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    await gateway({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert sent[0]["status"] == 426


@pytest.mark.parametrize("names", ["queues", "kinds", "labels", "namespaces"])
async def test_who_names_too_much_is_turned_away(gateway_of, peer_of, names):
    """H5: what is compared with each other is bounded, or one worker could stop the gateway for minutes."""
    generous = gateway_of(**LIMITS | {"max_message": 8_000_000})
    async with generous, peer_of(generous) as worker:
        many = {names: tuple(f"name {number}" for number in range(10_001))}
        await worker.say(Register(**{"worker_id": "w1", "kinds": ("resize",)} | many))
        assert f"at most 10000 {names}" in (await worker.hear(Denied)).message
        await worker.ended()


async def test_values_that_are_too_deep(gateway, decent, storage, peer_of):
    """H5: a store could not read them back, so a result is refused, and progress left out."""
    deep = b"[" * 500 + b"]" * 500
    (outcome,) = await storage.jobs.enqueue_bulk([EnqueueRequest("resize")])
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        (task,) = await worker.tasks(1)
        await worker.say(Progress(task.lease_id, deep), Result(task.lease_id, deep))
        refused = (await worker.hear(ResultAck)).refused
        assert "more than 200 lists and objects inside each other" in refused[task.lease_id]
        await worker.finish(task)
        assert (await storage.jobs.get(outcome.id)).state is JobState.SUCCEEDED
        await decent()


async def test_who_repeats_a_beginning_holds_up_nobody(gateway_of, storage, peer_of):
    """Q3: the store hears of the beginnings of others, however often one worker tells its own."""
    jobs = await storage.jobs.enqueue_bulk([EnqueueRequest("resize"), EnqueueRequest("mail")])
    gateway = gateway_of()
    async with gateway, peer_of(gateway) as loud, peer_of(gateway) as calm:
        await loud.register(worker_id="loud")
        await calm.register(worker_id="calm", kinds=("mail",))
        (own,), (task,) = await loud.tasks(1), await calm.tasks(1)

        async def repeat():
            while True:
                await loud.say(Began((own.lease_id,)))
                await anyio.sleep(0.01)

        async def has_begun():
            return (await storage.jobs.get(jobs[1].id)).attempt == 1

        async with anyio.create_task_group() as tasks:
            await loud.say(Began((own.lease_id,)))
            tasks.start_soon(repeat)
            await calm.say(Began((task.lease_id,)))
            await wait_until(has_begun, timeout=5)
            tasks.cancel_scope.cancel()


async def test_a_look_up_that_hangs_is_bounded(gateway_of, peer_of):
    """H5: the worker hears that it may try again, and the threads of the application stay free."""
    free = threading.Event()
    hanging = []

    def authenticate(_):
        hanging.append(None)
        free.wait(60)

    gateway = gateway_of(authenticate=authenticate, register_timeout=0.2)
    try:
        async with gateway:
            for _ in range(2):  # the threads of the first do not end
                async with AsyncExitStack() as stack:
                    workers = [await stack.enter_async_context(peer_of(gateway)) for _ in range(45)]
                    for worker in workers:
                        assert (await worker.ended())[0] == 503
            assert len(hanging) == 40
            with anyio.fail_after(10):
                await anyio.to_thread.run_sync(time.monotonic)
    finally:
        free.set()


async def test_a_job_that_cannot_be_told_harms_no_other(gateway, storage, peer_of, monkeypatch):
    """R8: it fails for good, and those that were claimed with it are handed out."""
    packed = Task.of

    def of(job, lease):
        if job.payload == "bad":
            raise RecursionError("too deep")
        return packed(job, lease)

    monkeypatch.setattr(Task, "of", of)
    requests = [EnqueueRequest("resize", payload) for payload in ("bad", "good", "bad", "good")]
    outcomes = await storage.jobs.enqueue_bulk(requests)
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        tasks = await worker.tasks(2)
        assert [task.job.id for task in tasks] == [outcomes[1].id, outcomes[3].id]
        await worker.finish(*tasks)
        await wait_until(lambda: _dead(storage, 2))
        assert "cannot be sent to a worker: too deep" in (await storage.jobs.get(outcomes[0].id)).error.message


async def _dead(storage, number):
    return (await storage.jobs.counts())[JobState.DEAD] == number


async def test_answers_that_nobody_reads_are_few(gateway_of, peer_of):
    """H5: a worker that asks for a lot and reads nothing fills no memory: most of its questions wait."""
    faults = Faults()
    store = faults.wrap(connect(f"memory://{uuid4().hex}"))
    asked = faults.delay("jobs.list", seconds=0)
    gateway = gateway_of(store=store, send_timeout=60.0, max_message=8_000_000)
    async with gateway:
        await store.jobs.enqueue_bulk(EnqueueRequest("mail", "x" * 50_000) for _ in range(100))
        async with peer_of(gateway, buffer=0) as worker, peer_of(gateway) as other:
            await worker.register()
            await worker.say(*[Request(number, encode_call(ListJobs(limit=100))) for number in range(60)])
            await asked.met()
            await other.register(worker_id="w2")
            for _ in range(50):  # time enough for every question that does not wait
                await other.say(Heartbeat())
                await other.hear(HeartbeatAck)
            assert len(asked.calls) <= 16


async def test_a_quick_question_need_not_wait_for_large_answers(gateway_of, peer_of):
    """W7: as many large answers are made at once as there may be; whoever asks for a token or a job goes past them."""
    faults = Faults()
    store = faults.wrap(connect(f"memory://{uuid4().hex}"))
    slow = faults.delay("jobs.list", seconds=3600)
    gateway = gateway_of(store=store)
    async with gateway, peer_of(gateway) as worker:
        await worker.register()
        await worker.say(*[Request(number, encode_call(ListJobs())) for number in range(30)])
        await slow.met()
        await worker.say(Request(99, encode_call(CountJobs())))
        assert (await worker.hear(Reply)).id == 99


async def test_a_reason_of_any_language_fits_into_a_close_frame(gateway, peer_of):
    """H5: what is too long is cut between characters, at as many bytes as there are for it."""
    async with gateway, peer_of(gateway) as worker:
        await worker.say(Register(worker_id="w1", kinds=("resize",), weights={"ü" * 200: 1}))
        _, reason = await worker.ended()
        assert "üüü" in reason
        assert len(reason.encode()) <= 123
