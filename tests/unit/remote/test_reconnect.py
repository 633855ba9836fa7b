"""The life of a worker's sessions, row by row, in virtual time."""

import math
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace

import anyio
import pytest
from attrs import frozen

from workerctx.errors import (
    CleanCloseExhausted,
    InvalidConfig,
    PermissionDenied,
    ProtocolError,
    RegistrationFailed,
    SessionLost,
    Unauthenticated,
)
from workerctx.queue import ClaimRequest, CompleteLease
from workerctx.remote.asks import Asks
from workerctx.remote.frames import Credit, Denied, Drain, Heartbeat, Register, RegisterAck, Result, ResultAck
from workerctx.remote.hatch import Hatch
from workerctx.remote.link import Link
from workerctx.remote.reconnect import Connect, End, Phase, Reconnect, ReconnectConfig, Serve, Wait
from workerctx.remote.unacked import UnackedResults
from workerctx.remote.wire import gateway_reader, messages_of

ACK = RegisterAck(version=1, worker_id="w", heartbeat=1000.0, lease_ttl=1000.0)
BREAK = SessionLost("broken")
CLOSE = None
DRAIN = Drain("restart")
HANG = "hang"
REPORT, REPORT_UNHEARD = "report", "report and hear nothing"
HOLD = "hold"


@frozen
class Rest:
    """The gateway says nothing for a while."""

    seconds: float


@frozen
class Row:
    """What gateways do, one session after the other, and what becomes of the run."""

    name: str
    sessions: list
    ends: type | None
    tries: list[float]
    over_at: float | None = None
    says: str = ""
    attempts: int = 3
    shutdown_at: float | None = None
    owed: int = 0
    runs_go_on: bool = False


def refuse(error=SessionLost("refused")):  # noqa: B008 - an exception is a value here
    return [error]


ROWS = [
    # Establishment
    Row("exhausted", [refuse()] * 3, SessionLost, [0, 1, 3], 3),
    Row(
        "the last error counts",
        [refuse(), refuse(), refuse(SessionLost("third"))],
        SessionLost,
        [0, 1, 3],
        3,
        says="third",
    ),
    Row("pauses double and are capped", [refuse()] * 6, SessionLost, [0, 1, 3, 7, 15, 23], 23, attempts=6),
    Row("permission denied", [refuse(PermissionDenied("no"))], PermissionDenied, [0], 0),
    Row("unauthenticated", [refuse(), refuse(Unauthenticated("who"))], Unauthenticated, [0, 1], 1),
    Row("denied by a frame", [[Denied("permission_denied", "not you")]], PermissionDenied, [0], 0, says="not you"),
    Row("unknown by a frame", [[Denied("unauthenticated")]], Unauthenticated, [0], 0),
    Row("busy is not denied", [[Denied("busy", "full")]] * 3, RegistrationFailed, [0, 1, 3], 3, says="full"),
    Row("no answer to the registration", [[HANG]] * 3, RegistrationFailed, [0, 9, 19], 27),
    Row("something else than an answer", [[DRAIN]] * 3, ProtocolError, [0, 1, 3], 3, says="Drain"),
    Row("an empty message, then nothing", [[(), CLOSE]] * 3, RegistrationFailed, [0, 1, 3], 3),
    Row("closed before the answer", [[CLOSE]] * 3, RegistrationFailed, [0, 1, 3], 3),
    Row("a version that nobody speaks", [[RegisterAck(version=99, worker_id="w")]] * 3, ProtocolError, [0, 1, 3], 3),
    Row("a foreign failure", [refuse(OSError("no route"))] * 3, SessionLost, [0, 1, 3], 3, says="no route"),
    Row(
        "tries are counted afresh",
        [refuse(), refuse(), [ACK, BREAK], refuse(), refuse(), [ACK, BREAK], refuse(), refuse(), refuse()],
        SessionLost,
        [0, 1, 3, 4, 5, 7, 9, 10, 12],
        12,
        says="refused",
        attempts=3,
    ),
    # Drops
    Row("failures", [[ACK, BREAK]] * 3, SessionLost, [0, 1, 3], 3, says="broken"),
    Row("clean closes", [[ACK, CLOSE]] * 3, CleanCloseExhausted, [0, 1, 3], 3),
    Row("a second acknowledgement", [[ACK, ACK]] * 3, ProtocolError, [0, 1, 3], 3, says="twice"),
    Row("one kind after the other", [[ACK, BREAK], [ACK, CLOSE], [ACK, BREAK]], SessionLost, [0, 1, 3], 3),
    Row("denied in the middle", [[ACK, Denied("permission_denied")]], PermissionDenied, [0], 0),
    Row("one try only", [[ACK, REPORT, BREAK]], SessionLost, [0], 0, attempts=1),
    Row(
        "an outcome resets",
        [[ACK, BREAK], [ACK, BREAK], [ACK, REPORT, BREAK], [ACK, BREAK], [ACK, BREAK]],
        SessionLost,
        [0, 1, 3, 4, 6],
        6,
    ),
    Row(
        "long life resets",
        [[ACK, BREAK], [ACK, BREAK], [ACK, Rest(8.5), BREAK], [ACK, BREAK], [ACK, BREAK]],
        SessionLost,
        [0, 1, 3, 12.5, 14.5],
        14.5,
    ),
    Row(
        "a life of max_backoff does not",
        [[ACK, BREAK], [ACK, BREAK], [ACK, Rest(8.0), BREAK]],
        SessionLost,
        [0, 1, 3],
        11,
    ),
    Row("telling again does not reset", [[ACK, BREAK]] * 3, SessionLost, [0, 1, 3], 3, owed=1),
    Row(
        "connecting fails in the end",
        [[ACK, BREAK], refuse(), refuse(), refuse()],
        SessionLost,
        [0, 1, 2, 4],
        4,
        says="refused",
    ),
    # Drains
    Row("drains cost nothing", [[ACK, DRAIN]] * 6, None, [0, 1, 2, 3, 4, 5, 6], 6.5, shutdown_at=6.5),
    Row("a drain that breaks", [[ACK, HOLD, DRAIN, BREAK]] * 4, None, [0, 1, 2, 3, 4], 4.5, shutdown_at=4.5),
    Row(
        "a drain neither adds nor clears",
        [[ACK, BREAK], [ACK, DRAIN], [ACK, BREAK], [ACK, DRAIN], [ACK, BREAK]],
        SessionLost,
        [0, 1, 2, 4, 5],
        5,
    ),
    Row(
        "a healthy drain clears",
        [[ACK, BREAK], [ACK, BREAK], [ACK, REPORT, DRAIN], [ACK, BREAK], [ACK, BREAK], [ACK, BREAK]],
        SessionLost,
        [0, 1, 3, 4, 5, 7],
        7,
    ),
    Row(
        "time in a drain is no life",
        [[ACK, BREAK], [ACK, HOLD, Rest(5), DRAIN, Rest(9), BREAK], [ACK, BREAK], [ACK, BREAK]],
        SessionLost,
        [0, 1, 16, 18],
        18,
    ),
    # Shutdown
    Row("stopped while connecting", [[Rest(60)]], None, [0], 4, shutdown_at=4),
    Row("stopped while registering", [[HANG]], None, [0], 4, shutdown_at=4),
    Row("stopped before the second try", [refuse()], None, [0], 0.5, shutdown_at=0.5),
    Row("stopped while idle", [[ACK, HANG]], None, [0], 4, shutdown_at=4),
    Row("stopped while telling again", [["stuck", ACK, HANG]], None, [0], 4, shutdown_at=4, owed=1),
    Row(
        "stopped while telling again after a failure",
        [[ACK, BREAK], ["stuck", ACK, HANG]],
        None,
        [0, 1],
        4,
        shutdown_at=4,
        owed=1,
    ),
    Row("stopped after a failure", [[ACK, BREAK]], SessionLost, [0], 0.5, shutdown_at=0.5, says="broken"),
    Row("stopped after a clean close", [[ACK, CLOSE]], None, [0], 0.5, shutdown_at=0.5),
    Row("stopped after a drain", [[ACK, DRAIN]], None, [0], 0.5, shutdown_at=0.5),
    Row(
        "stopped while connecting after a failure",
        [[ACK, BREAK], [Rest(60)]],
        SessionLost,
        [0, 1],
        4,
        shutdown_at=4,
        says="broken",
    ),
    Row("stopped while connecting after a drain", [[ACK, DRAIN], [Rest(60)]], None, [0, 1], 4, shutdown_at=4),
    Row(
        "stopped between failed tries after a failure",
        [[ACK, BREAK], refuse(), refuse()],
        SessionLost,
        [0, 1, 2],
        3,
        shutdown_at=3,
        says="broken",
    ),
    Row("the last outcome is acknowledged", [[ACK, REPORT, HANG]], None, [0], 4, shutdown_at=4),
    Row(
        "the session breaks before that",
        [[ACK, REPORT_UNHEARD, Rest(6), BREAK]],
        SessionLost,
        [0],
        6,
        shutdown_at=4,
        says="broken",
    ),
    Row(
        "the gateway closes before that",
        [[ACK, REPORT_UNHEARD, Rest(6), CLOSE]],
        SessionLost,
        [0],
        6,
        shutdown_at=4,
        says="1 outcomes were not acknowledged",
    ),
    Row(
        "the session breaks while runs go on",
        [[ACK, HOLD, Rest(6), BREAK]],
        SessionLost,
        [0],
        6,
        shutdown_at=4,
        says="broken",
        runs_go_on=True,
    ),
    Row(
        "the session breaks and nothing is lost by it",
        [[ACK, REPORT, Rest(6), BREAK]],
        None,
        [0],
        6,
        shutdown_at=4,
        runs_go_on=True,
    ),
    # Telling again
    Row("telling again fails", [["torn", ACK, HANG]] * 3, SessionLost, [0, 1, 3], 3, owed=1, says="torn"),
    Row("telling again is stuck", [["stuck", ACK, HANG]] * 3, SessionLost, [0, 9, 19], 27, owed=1),
]


class Played:
    """A session in which the gateway plays its part of a row."""

    max_message = 0
    silence = 0.0

    def __init__(self, script, world):
        self.flaw = script[0] if script and script[0] in ("stuck", "torn") else None
        self.script = list(script[1:] if self.flaw else script)
        self.world = world
        self.sent = []

    async def send(self, frames, /):
        await anyio.lowlevel.checkpoint()
        if any(isinstance(frame, Result) for frame in frames):
            if self.flaw == "stuck":
                await anyio.sleep_forever()
            if self.flaw == "torn":
                raise SessionLost("torn")
        self.sent += [frame for frame in frames if not isinstance(frame, Heartbeat)]

    async def receive(self):
        await anyio.lowlevel.checkpoint()
        while True:
            part = self.script.pop(0) if self.script else HANG
            match part:
                case Rest():
                    self.script.insert(0, part)  # whoever is cancelled meanwhile has not received it
                    await anyio.sleep(part.seconds)
                    self.script.pop(0)
                case "hang":
                    await anyio.sleep_forever()
                case "hold":
                    self.world.hatch._held.take("held")
                case "report" | "report and hear nothing":
                    lease_id = f"lease {len(self.world.tries)}"
                    self.world.hatch.tell([CompleteLease(lease_id)], ())
                    while not any(getattr(frame, "lease_id", None) == lease_id for frame in self.sent):
                        await anyio.lowlevel.checkpoint()
                    if part == "report":
                        return [ResultAck(accepted=(lease_id,))]
                case Exception():
                    raise part
                case None:
                    self.world.hatch._held.drop("held")
                    return None
                case tuple():
                    return part
                case _:
                    return [part]


def play(row):
    """A link whose gateways play a row; what happens is noted in the world."""
    asks = Asks()
    unacked = UnackedResults()
    unacked.record([CompleteLease(f"owed {number}") for number in range(row.owed)])
    world = SimpleNamespace(tries=[], sessions=[], alive=0, hatch=Hatch("w", {"k"}, unacked, asks))
    asks.wake = world.hatch.wake
    scripts = iter(row.sessions)

    @asynccontextmanager
    async def connect():
        world.tries.append(anyio.current_time())
        script = next(scripts, [ACK, HANG])
        assert world.alive == 0, "two sessions at once"
        await anyio.lowlevel.checkpoint()
        if len(script) == 1 and isinstance(script[0], Exception):
            raise script[0]
        if len(script) == 1 and isinstance(script[0], Rest):
            await anyio.sleep(script[0].seconds)
        world.sessions.append(Played(script, world))
        world.alive += 1
        try:
            yield world.sessions[-1]
        finally:
            world.alive -= 1

    config = ReconnectConfig(initial_backoff=1, max_backoff=8, max_attempts=row.attempts, jitter=0)
    world.link = Link(connect, lambda: Register(worker_id="w"), world.hatch, config, 0.05)
    return world


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_the_life_of_sessions(row, virtual_time):
    """R2, R3, R5: when a worker connects, how long it waits, and how its run ends."""
    virtual_time()
    began = anyio.current_time()
    world = play(row)

    async def stop():
        await anyio.sleep(row.shutdown_at)
        if row.runs_go_on:
            world.link.stop()
        else:
            world.link.finish()

    async with anyio.create_task_group() as tasks:
        if row.shutdown_at is not None:
            tasks.start_soon(stop)
        with anyio.fail_after(200):
            await world.link.run()
        over = anyio.current_time() - began
        tasks.cancel_scope.cancel()
    error = world.link.error
    assert type(error) is (type(None) if row.ends is None else row.ends), error
    assert row.says in str(error)
    assert [moment - began for moment in world.tries] == pytest.approx(row.tries, abs=0.01)
    assert over == pytest.approx(row.over_at, abs=0.01)
    assert world.alive == 0
    assert world.link.is_over


async def test_what_was_not_acknowledged_comes_before_anything_new(virtual_time):
    """R1, R4: a session begins with the registration; then come all owed outcomes in order, and only then credit."""
    virtual_time()
    row = Row("", [[ACK, Rest(1), BREAK], [ACK, ResultAck(accepted=("owed 0",)), Rest(1), BREAK]], None, [])
    world = play(Row(row.name, row.sessions, None, [], owed=3))
    world.hatch.take(ClaimRequest(worker_id="w", limit=5))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.link.run)
        await anyio.sleep(3.5)
        first, second = (session.sent for session in world.sessions[:2])
        assert [type(frame).__name__ for frame in first] == ["Register", "Result", "Result", "Result", "Credit"]
        assert [frame.lease_id for frame in first[1:4]] == ["owed 0", "owed 1", "owed 2"]
        assert first[0].holding == () or set(first[0].holding) <= {"owed 0", "owed 1", "owed 2"}
        assert [type(frame).__name__ for frame in second] == ["Register", "Result", "Result", "Result", "Credit"]
        await anyio.sleep(4)
        third = world.sessions[2].sent
        assert [frame.lease_id for frame in third[1:3]] == ["owed 1", "owed 2"]
        tasks.cancel_scope.cancel()


class Slow(Played):
    """A session whose gateway takes its time for each message, acknowledges outcomes, and may break after some."""

    def __init__(self, world, breaks_after=math.inf):
        super().__init__([ACK], world)
        self.breaks_after = breaks_after
        self.acks, self.acknowledged = [], anyio.Event()

    async def send(self, frames, /):
        for message in messages_of(frames):
            if any(isinstance(frame, Result) for frame in frames):
                await anyio.sleep(5)
            told = gateway_reader().read(message)
            self.sent += told
            leases = tuple(frame.lease_id for frame in told if isinstance(frame, Result))
            if leases:
                self.acks.append(ResultAck(accepted=leases))
                self.acknowledged.set()
                self.breaks_after -= 1
            if not self.breaks_after:
                await anyio.sleep(1)
                raise BREAK

    async def receive(self):
        if self.script:
            return [self.script.pop(0)]
        await self.acknowledged.wait()
        self.acknowledged = anyio.Event()
        acks, self.acks = self.acks, []
        return acks


async def test_telling_again_takes_as_long_as_it_takes(virtual_time):
    """R3, R4: a gateway that takes each message in time is told a backlog that takes longer, in one session."""
    virtual_time()
    world = play(Row("", [], None, []))
    world.hatch.unacked.record([CompleteLease(f"owed {number}", b'"' + b"x" * 200_000 + b'"') for number in range(6)])
    world.hatch.take(ClaimRequest(worker_id="w", limit=5))
    session = Slow(world)

    @asynccontextmanager
    async def connect():
        world.tries.append(anyio.current_time())
        yield session

    world.link.connect = connect
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.link.run)
        await anyio.sleep(29)
        assert world.link.machine.phase is Phase.REPLAYING
        assert world.hatch.owes == 1
        assert not any(isinstance(frame, Credit) for frame in session.sent)
        await anyio.sleep(2)
        assert world.link.machine.phase is Phase.SERVING
        assert world.hatch.owes == 0
        assert isinstance(session.sent[-1], Credit)
        world.hatch.tell([CompleteLease(f"new {number}", b'"' + b"x" * 200_000 + b'"') for number in range(6)], ())
        await anyio.sleep(31)
        assert world.hatch.owes == 0
        assert len(world.tries) == 1
        tasks.cancel_scope.cancel()


async def test_what_was_acknowledged_while_it_was_told_again_is_done(virtual_time):
    """R4: a session that breaks in the middle of a backlog has told a part of it; the next one goes on from there."""
    virtual_time()
    world = play(Row("", [], None, []))
    world.hatch.unacked.record([CompleteLease(f"owed {number}", b'"' + b"x" * 200_000 + b'"') for number in range(3)])
    sessions = []

    @asynccontextmanager
    async def connect():
        sessions.append(Slow(world, breaks_after=2 if not sessions else math.inf))
        yield sessions[-1]

    world.link.connect = connect
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.link.run)
        await anyio.sleep(20)
        assert [[frame.lease_id for frame in session.sent if isinstance(frame, Result)] for session in sessions] == [
            ["owed 0", "owed 1"],
            ["owed 2"],
        ]
        assert world.hatch.owes == 0
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("says", "tries"), [([DRAIN, CLOSE], [0, 1]), ([CLOSE], [0, 1]), ([Denied("permission_denied")], [0])]
)
async def test_a_gateway_is_heard_while_it_is_told_again(says, tries, virtual_time):
    """R3: who drains, closes or denies while a backlog is told need not wait until it cannot take any more."""
    virtual_time()
    began = anyio.current_time()
    world = play(Row("", [["stuck", ACK, *says]], None, [], owed=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.link.run)
        await anyio.sleep(2)
        assert [moment - began for moment in world.tries] == pytest.approx(tries)
        assert world.link.machine.drops == int(says == [CLOSE])
        assert world.link.is_over == (len(tries) == 1)
        tasks.cancel_scope.cancel()


async def test_an_unknown_acknowledgement_is_ignored(virtual_time):
    """R4: an acknowledgement of what is not owed changes nothing."""
    virtual_time()
    world = play(Row("", [[ACK, ResultAck(accepted=("nobody's",), lost=("neither",)), HANG]], None, [], owed=2))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.link.run)
        await anyio.sleep(1)
        assert world.hatch.owes == 2
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("heartbeat", [0.0, 0.25])
async def test_a_silent_gateway_is_given_up(heartbeat, virtual_time):
    """R3: a gateway that does not answer heartbeats is gone, however short their interval."""
    virtual_time()
    ack = RegisterAck(version=1, worker_id="w", heartbeat=heartbeat, lease_ttl=2.0)
    world = play(Row("", [[ack, HANG]], None, []))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.link.run)
        await anyio.sleep(2.9)
        assert len(world.tries) == 1
        await anyio.sleep(1)
        assert len(world.tries) == 2
        tasks.cancel_scope.cancel()


def broken_outside(world, *, stuck, on_exit=False):
    """A connector whose connection breaks beside the session, in its own task, or when it is closed."""

    @asynccontextmanager
    async def connect():
        world.tries.append(anyio.current_time())
        session = Played([*stuck, HANG], world)
        async with anyio.create_task_group() as tasks:

            async def read():
                await anyio.sleep(0.5)
                raise BREAK

            if not on_exit:
                tasks.start_soon(read)
            try:
                yield session
            finally:
                if on_exit:
                    raise BREAK

    return connect


@pytest.mark.parametrize("script", [[HANG], ["stuck", ACK], [ACK]], ids=["registering", "replaying", "serving"])
async def test_a_connection_may_break_beside_its_session(script, virtual_time):
    """R2, R3: a session that is cut down by its own connector counts like one that broke, whatever it was doing."""
    virtual_time()
    began = anyio.current_time()
    world = play(Row("", [], None, [], owed=1))
    world.link.connect = broken_outside(world, stuck=script)
    with anyio.fail_after(100):
        await world.link.run()
    assert world.link.error is BREAK
    assert [moment - began for moment in world.tries] == pytest.approx([0, 1.5, 4])


@pytest.mark.parametrize("script", [[HANG], ["stuck", ACK], [ACK]], ids=["registering", "replaying", "serving"])
async def test_a_connection_that_cannot_be_closed_is_no_error_after_a_stop(script, virtual_time):
    """R5: a stop before anything was lost ends well, however badly the connection is closed."""
    virtual_time()
    world = play(Row("", [], None, [], owed=1))
    world.link.connect = broken_outside(world, stuck=script, on_exit=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.link.run)
        await anyio.sleep(1)
        world.hatch.acknowledged(ResultAck(accepted=("owed 0",)))
        world.link.finish()
    assert world.link.error is None
    assert len(world.tries) == 1


def test_the_machine_alone():
    """R3: no clock and no I/O are needed to know what follows from what."""
    machine = Reconnect(ReconnectConfig(initial_backoff=1, max_backoff=4, max_attempts=2, jitter=0.5), lambda: 1.0)
    assert isinstance(machine.begin(), Connect)
    assert machine.connect_failed(BREAK) == Wait(0.5)
    assert machine.phase is Phase.WAITING
    assert isinstance(machine.waited(), Connect)
    machine.registered(10.0)
    machine.reported()  # told again, not new: no proof of health
    assert isinstance(machine.replayed(), Serve)
    assert machine.lost(None, 10.0) == Wait(0.5)
    assert machine.drops == 1
    machine.waited()
    machine.registered(20.0)
    machine.replayed()
    assert isinstance(machine.shutdown(), Serve)
    assert machine.finished() == End(None)
    assert machine.phase is Phase.ENDED


def test_delays_never_overflow():
    """R2: the pause after any number of failures is at most max_backoff."""
    config = ReconnectConfig(initial_backoff=0.1, max_backoff=30)
    assert [config.delay(number) for number in (1, 2, 3, 4)] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert config.delay(10**9) == 30


def test_pauses_may_be_timedeltas():
    """R2: as every other duration."""
    config = ReconnectConfig(initial_backoff=timedelta(milliseconds=250), max_backoff=timedelta(minutes=1))
    assert config == ReconnectConfig(initial_backoff=0.25, max_backoff=60)
    with pytest.raises(InvalidConfig, match="initial_backoff must be more than 0"):
        ReconnectConfig(initial_backoff=timedelta(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"initial_backoff": 0}, "initial_backoff"),
        ({"initial_backoff": float("inf")}, "initial_backoff"),
        ({"initial_backoff": 5, "max_backoff": 1}, "max_backoff"),
        ({"max_backoff": 0}, "max_backoff"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"jitter": 1.0}, "jitter"),
        ({"initial_backoff": 0, "max_attempts": 0}, "max_attempts"),
    ],
)
def test_impatience_is_refused(settings, words):
    """R2: settings without a pause or a try are refused before anything connects."""
    with pytest.raises(InvalidConfig, match=words):
        ReconnectConfig(**settings)
