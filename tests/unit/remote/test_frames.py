"""Frames, messages, and what a reader makes of those that are not right."""

import contextlib
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerctx.errors import InvalidRequest, JobNotFound, ProtocolError, StoreUnavailable, WrongState
from workerctx.queue import (
    CancelReason,
    CompleteLease,
    EnqueueRequest,
    FailedAttempt,
    FailLease,
    JobError,
    JobState,
    Lease,
    Linear,
    QueuedJob,
    ReleaseLease,
    SnoozeLease,
    ThrottleLease,
)
from workerctx.remote.faults import Fault
from workerctx.remote.frames import (
    Credit,
    FromGateway,
    FromWorker,
    HeartbeatAck,
    Register,
    RegisterAck,
    Result,
    Task,
)
from workerctx.remote.outcomes import finish_of, outcome_frame
from workerctx.remote.records import JobRecord, RequestRecord
from workerctx.remote.wire import BrokenTask, gateway_reader, messages_of, worker_reader

FULL = QueuedJob(
    id="j",
    kind="resize",
    queue="images",
    payload_json=b'{"a":1}',
    state=JobState.RUNNING,
    priority=3,
    attempt=2,
    max_attempts=5,
    deliveries=2,
    retry=Linear(base=1.0, cap=2.0),
    timeout=30.0,
    run_at=10.0,
    expires_at=99.0,
    unique_key="u",
    workflow_id="w",
    depends_on=("p",),
    on_parent_failure="run",
    upstream_outputs={"p": 2**70},
    required_labels=("gpu",),
    tenant_id="t",
    headers={"traceparent": "00"},
    progress={"done": 1},
    created_at=9.0,
    claimed_at=11.0,
    worker_id="me",
    lease_id="l",
    cancel_requested=CancelReason.USER,
    error_history=(FailedAttempt(1, 10.5, JobError("ValueError", "no", "trace", {"x": [1]})),),
)


def test_a_job_travels_whole():
    """R8: a job that was claimed far away is the same job here, numbers beyond 64 bits among its data."""
    sent = Task.of(FULL, Lease("l", "j", "me", 11.0, 30.0, 41.0), ttl=12.0)
    (message,) = messages_of([sent])
    (task,) = worker_reader().read(message)
    assert isinstance(task, Task)
    job, lease = task.claimed("me")
    assert job == FULL
    assert lease == Lease("l", "j", "me", 11.0, 12.0, 23.0)


def test_a_plain_job_is_small_on_the_wire():
    """What is as usual is left out of a task."""
    job = QueuedJob(id="j" * 36, kind="noop", payload_json=b"[]", attempt=1, max_attempts=5)
    (message,) = messages_of([Task.of(job, Lease("l" * 36, job.id, "me", 0, 30, 30))])
    assert len(message) < 250


def test_every_field_of_a_job_and_of_a_request_has_a_place():
    """A field that is added to jobs or requests is not forgotten on the wire."""
    assert {name.removesuffix("_json") for name in QueuedJob.__struct_fields__} == set(JobRecord.__struct_fields__)
    asked = {each.name for each in EnqueueRequest.__attrs_attrs__} - {"payload_json"}
    assert {name.replace("pinned_queue", "queue") for name in asked} == set(RequestRecord.__struct_fields__)


def test_a_request_travels_whole_and_is_checked_again():
    """Q13: a request is the same at the gateway; one that was tampered with is refused there."""
    request = EnqueueRequest(
        "resize", {"a": 2**70}, queue="images", delay=2, retry=Linear(), depends_on=["p"], headers={"a": "b"}
    )
    record = RequestRecord.of(request, "id")
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=RequestRecord).request()
    assert back.job_id == "id"
    for name in ("kind", "payload", "pinned_queue", "delay", "retry", "depends_on", "headers", "timeout"):
        assert getattr(back, name) == getattr(request, name)
    with pytest.raises(InvalidRequest, match="max_attempts"):
        msgspec.structs.replace(record, max_attempts=0).request()


@pytest.mark.parametrize(
    "finish",
    [
        CompleteLease("l", b'{"width":1}'),
        FailLease("l", JobError("ValueError", "no", "trace", {"x": 1})),
        FailLease("l", JobError("ValueError", "no"), delay=3.0),
        FailLease("l", JobError("Abort", "no"), retryable=False),
        ReleaseLease("l"),
        SnoozeLease("l", 2.5),
        ThrottleLease("l", 1.5, "github"),
    ],
)
def test_every_outcome_travels(finish):
    """R4: whatever becomes of a run is told as it is."""
    (message,) = messages_of([outcome_frame(finish)])
    (frame,) = gateway_reader().read(message)
    assert finish_of(frame) == finish


def test_an_outcome_that_is_no_json_is_refused():
    """R8: a result that is not JSON is an error of that result."""
    with pytest.raises(ProtocolError, match="'l'"):
        finish_of(Result("l", b"{"))


def test_frames_share_messages_and_long_ones_are_parted():
    """Several frames travel in one message, in order; a message does not grow without end."""
    frames = [Result(f"l{number}", b'"' + b"x" * 100_000 + b'"') for number in range(7)]
    messages = messages_of(frames)
    assert len(messages) == 4
    assert [each for message in messages for each in gateway_reader().read(message)] == frames
    many = [Credit(number, number) for number in range(70_000)]
    (first, *_rest) = messages_of(many)
    assert gateway_reader().read(first)[0] == many[0]
    assert [len(gateway_reader().read(messages_of(many[:size])[0])) for size in (1, 15, 16, 300)] == [1, 15, 16, 300]
    assert messages_of([]) == []


def test_sizes_are_limited():
    """A frame that the other side would refuse is not sent, and a message that is too large is not read."""
    large = Result("l", b'"' + b"x" * 2000 + b'"')
    with pytest.raises(ProtocolError, match="accepts 1000"):
        messages_of([large], 1000)
    (message,) = messages_of([large])
    with pytest.raises(ProtocolError, match="1000 are accepted"):
        gateway_reader(1000).read(message)


def packed(*frames):
    return msgspec.msgpack.encode(frames)


def test_a_newer_peer_is_understood():
    """Fields and optional frames that only a newer release knows are passed over."""
    message = packed(
        {"t": "?weather", "sky": "blue"},
        {"t": "ack", "accepted": ["l"], "colour": "green"},
        {"t": "registered", "version": 1, "worker_id": "w", "features": ["x"]},
    )
    ack, registered = worker_reader().read(message)
    assert ack.accepted == ("l",)
    assert registered == RegisterAck(version=1, worker_id="w")


def test_an_older_peer_is_understood():
    """What an older release does not say has a default."""
    (register,) = gateway_reader().read(packed({"t": "register", "worker_id": "w"}))
    assert register == Register(worker_id="w")
    (alive,) = worker_reader().read(packed({"t": "alive"}))
    assert alive == HeartbeatAck()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"", "no array"),
        (b"\xc1", "no array"),
        (packed()[:0] + b"\x92\x80", "no array"),
        (b"\x80", "no array"),
        (packed(1), "cannot be understood"),
        (packed({"a": 1}), "cannot be understood"),
        (packed({"t": "weather"}), "'weather'"),
        (packed({"t": "task", "lease_id": 7}), "cannot be understood"),
        (packed({"t": "ack", "accepted": 1}), "'ack'"),
        (b"\x91" * 5000 + b"\x90", "recursion|cannot be understood"),
    ],
)
def test_nonsense_is_one_kind_of_error(message, words):
    """What cannot be understood is a ProtocolError that says why."""
    with pytest.raises(ProtocolError, match=words):
        worker_reader().read(message)


def test_a_broken_task_spoils_only_itself():
    """R8: a task that cannot be understood is known by its lease; the frames beside it are read."""
    message = packed({"t": "task", "lease_id": "l", "ttl": "soon"}, {"t": "ack", "accepted": ["m"]})
    broken, ack = worker_reader().read(message)
    assert isinstance(broken, BrokenTask)
    assert broken.lease_id == "l"
    assert "ttl" in broken.reason
    assert ack.accepted == ("m",)
    with pytest.raises(ProtocolError, match="'task'"):
        gateway_reader().read(message)


@pytest.mark.parametrize(("attempt", "ttl"), [(0, 30.0), (-1, 30.0), (1, 0.0), (1, float("nan"))])
def test_a_task_that_makes_no_sense_says_so(attempt, ttl):
    """R8: an attempt below 1, or a lease that is over, makes a task malformed and nothing more."""
    job = JobRecord(id="j", kind="k", attempt=attempt)
    with pytest.raises(ProtocolError, match="malformed"):
        Task(lease_id="l", ttl=ttl, job=job).claimed("w")


@given(st.binary(max_size=300))
def test_no_bytes_break_a_reader(message):
    """Any bytes are frames or a ProtocolError, on both sides."""
    for reader in (worker_reader(), gateway_reader()):
        with contextlib.suppress(ProtocolError):
            reader.read(message)


_leaf = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
_value = _leaf | st.lists(_leaf, max_size=3) | st.dictionaries(st.sampled_from(["a", "id", "kind"]), _leaf, max_size=3)
_names = [struct.__struct_config__.tag for struct in {*get_args(FromWorker), *get_args(FromGateway)}]
_fields = sorted({name for each in {*get_args(FromWorker), *get_args(FromGateway)} for name in each.__struct_fields__})


@given(
    st.lists(
        st.builds(
            lambda name, rest: {"t": name, **rest},
            st.sampled_from(_names),
            st.dictionaries(st.sampled_from(_fields), _value, max_size=5),
        ),
        max_size=4,
    )
)
def test_no_structure_breaks_a_reader(frames):
    """Frames with any values are frames, broken tasks or a ProtocolError, and tasks that are read can be judged."""
    message = msgspec.msgpack.encode(frames)
    for reader in (worker_reader(), gateway_reader()):
        try:
            read = reader.read(message)
        except ProtocolError:
            continue
        for frame in read:
            if isinstance(frame, Task):
                with contextlib.suppress(ProtocolError):
                    frame.claimed("w")


@pytest.mark.parametrize(
    "error",
    [
        JobNotFound("j"),
        WrongState("j", "running", "delete", "wait"),
        InvalidRequest("no"),
        StoreUnavailable("later"),
        TimeoutError("too long"),
    ],
)
def test_what_a_store_raises_is_raised_afar(error):
    """W7: a handler far away meets the exceptions that it would meet here."""
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(Fault.of(error)), type=Fault).exception()
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_what_is_no_word_of_a_store_is_its_failure():
    """W4: a gateway whose store breaks in its own way is a store that is unavailable."""
    back = Fault.of(KeyError("x")).exception()
    assert isinstance(back, StoreUnavailable)
    assert "KeyError" in str(back)
    assert "?" in str(Fault("Sorcery", "what?").exception())
