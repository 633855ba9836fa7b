"""The nouns of the queue: what a request accepts, how backoff counts, when a schedule fires."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import attrs
import pytest

from workerctx.errors import InvalidRequest, JobFailed, Throttled, UnknownBackend
from workerctx.queue import (
    FINAL_STATES,
    ClaimRequest,
    Constant,
    EnqueueRequest,
    Exponential,
    FailedAttempt,
    JobError,
    JobState,
    Linear,
    Misfire,
    QueuedJob,
    RateLimit,
    RetryPolicy,
    Schedule,
    StoreURL,
    Workflow,
    connect,
    decode_json,
    encode_json,
    new_id,
)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": ""}, "kind"),
        ({"kind": "a\n"}, "kind"),
        ({"queue": ""}, "queue"),
        ({"payload": object()}, "cannot store"),
        ({"payload": {1, 2, object()}}, "cannot store"),
        ({"payload": {"deep": [1.0, float("nan")]}}, "NaN"),
        ({"payload": float("inf")}, "NaN"),
        ({"payload": "x" * 2_000_000}, "limit"),
        ({"delay": -1}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": 1, "run_at": 5.0}, "either"),
        ({"run_at": datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None)}, "time zone"),
        ({"expires_at": float("inf")}, "expires_at"),
        ({"timeout": 0}, "timeout"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 3.0}, "max_attempts"),
        ({"priority": 2**40}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"retry": 3}, "retry policy 3: use Constant, Linear or Exponential"),
        ({"priority": "high"}, "priority"),
        ({"delay": 1e18}, "delay"),
        ({"run_at": 1.8e12}, "run_at"),
        ({"unique_key": ""}, "unique_key"),
        ({"depends_on": "parent"}, "several names"),
        ({"required_labels": ["ok", ""]}, "label"),
        ({"headers": {"a": 1}}, "headers"),
        ({"headers": {"a": "\udcff"}}, "headers"),
        ({"on_parent_failure": "ignore"}, "on_parent_failure"),
    ],
)
def test_bad_requests_are_refused_when_they_are_made(options, says):
    """Q13: what cannot be stored or meant is refused by name before anything is written."""
    with pytest.raises(InvalidRequest, match=says):
        EnqueueRequest(**{"kind": "a", **options})


def test_durations_and_moments_come_in_two_forms():
    """Seconds or timedelta, epoch seconds or aware datetime, are the same request."""
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    request = EnqueueRequest("a", delay=timedelta(minutes=1), timeout=timedelta(seconds=2), expires_at=moment)
    assert (request.delay, request.timeout, request.expires_at) == (60.0, 2.0, moment.timestamp())


def test_the_payload_is_fixed_when_the_request_is_made():
    """Changing a payload afterwards does not change what is stored."""
    payload = {"a": 1}
    request = EnqueueRequest("a", payload)
    payload["a"] = 2
    assert decode_json(request.payload_json) == {"a": 1}


def test_with_options_checks_again_and_swaps_delay_for_run_at():
    """A copy with options is as valid as a new request."""
    request = EnqueueRequest("a", {"x": 1}, delay=5)
    moved = request.with_options(run_at=9.0, queue="other", unique_key="k")
    assert (moved.delay, moved.run_at, moved.queue, moved.payload) == (0.0, 9.0, "other", {"x": 1})
    assert moved.with_options(delay=1).run_at is None
    with pytest.raises(InvalidRequest):
        request.with_options(max_attempts=-1)


def test_stored_json_is_readable_and_exact():
    """Q16: what is stored is JSON text, and large integers survive."""
    raw = encode_json({"name": "Zoë", "n": 2**70})
    assert "Zoë".encode() in raw
    assert decode_json(raw) == {"name": "Zoë", "n": 2**70}


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (Constant(3, jitter=False), [3, 3, 3, 3]),
        (Linear(2, cap=5, jitter=False), [2, 4, 5, 5]),
        (Exponential(1, cap=5, jitter=False), [1, 2, 4, 5]),
        (Exponential(0, cap=0, jitter=False), [0, 0, 0, 0]),
    ],
)
def test_retry_n_waits_backoff_of_n(policy, delays):
    """Q4: the first retry waits the base, later ones more, never above the cap."""
    assert [policy.delay(retry) for retry in (1, 2, 3, 4)] == delays
    assert policy.delay(100_000) <= max(5, delays[-1])


def test_jitter_is_full_and_on_by_default():
    """Q4: by default a retry waits anything between nothing and the full delay."""
    policy = Exponential(8, cap=100)
    assert policy.jitter
    assert policy.delay(1, uniform=lambda: 0.0) == 0
    assert policy.delay(2, uniform=lambda: 0.5) == 8


@pytest.mark.parametrize("wrong", [(-1, 5), (6, 5), (0, float("inf")), (float("nan"), 1)])
def test_impossible_policies_are_refused(wrong):
    """Q13: a backoff outside of 0 <= base <= cap is no backoff."""
    with pytest.raises(InvalidRequest):
        Exponential(*wrong)
    with pytest.raises(NotImplementedError):
        RetryPolicy().delay(1)


def test_states_know_whether_they_are_final():
    """Three states are final, and the error of a job depends on how it ended."""
    assert {state for state in JobState if state.is_final} == FINAL_STATES
    history = (FailedAttempt(1, 0.0, JobError("E", "first")), FailedAttempt(2, 0.0, JobError("E", "last")))
    dead = QueuedJob(id="1", kind="k", state=JobState.DEAD, error_history=history)
    assert str(dead.error) == "E: last"
    assert QueuedJob(id="1", kind="k", state=JobState.SUCCEEDED, error_history=history).error is None


@pytest.mark.parametrize(
    "options",
    [
        *({"lease_ttl": 0}, {"lease_ttl": float("nan")}, {"limit": 0}, {"queues": ()}, {"queues": "default"}),
        *({"queues": [b"default"]}, {"kinds": [b"k"]}, {"labels": [1]}, {"kind_limits": {b"k": 1}}),
    ],
)
def test_claims_that_cannot_be_meant_are_refused(options):
    """Q13: a lease without length, no limit, no queue, names that are no texts."""
    with pytest.raises(InvalidRequest):
        ClaimRequest(worker_id="w", **options)


def test_ids_sort_by_time():
    """Ids made one after the other are in order."""
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(set(ids))


def test_a_backend_without_its_driver_names_the_extra(monkeypatch):
    """Q13: an installed backend whose driver is missing says which extra to install."""

    class WithoutDriver:
        def load(self):
            raise ImportError("workerctx_x needs the 'x' extra: pip install 'workerctx[x]'")

    monkeypatch.setattr(sys.modules["workerctx.queue.connect"], "entry_points", lambda **_: [WithoutDriver()])
    with pytest.raises(UnknownBackend, match=r"no backend for x:// URLs: .*pip install 'workerctx\[x\]'"):
        connect("x://localhost")


def test_unknown_schemes_name_the_known_ones():
    """Q13: a URL without a backend says what there is."""
    with pytest.raises(UnknownBackend, match=r"installed are memory, .*, sqlite"):
        connect("mysql://localhost")
    for url in (
        "jobs.db",
        "sqlite://host/x.db",
        "sqlite://",
        "sqlite:///x.db?what=1",
        "sqlite:///x.db?namespace=",
        "sqlite:///x#1.db",
    ):
        with pytest.raises(InvalidRequest):
            connect(url)
    with pytest.raises(InvalidRequest, match="synchronous"):
        connect("sqlite:///x.db?synchronous=maybe")
    assert StoreURL.parse("sqlite:///a%20b.db?namespace=n-1").namespace == "n-1"


@pytest.mark.parametrize("url", ["redis://me:se?cret@host/0", "postgresql://me:se?cret@host/db?timeout=3"])
def test_a_password_that_is_not_encoded_is_refused_and_not_repeated(url):
    """Q13: what looks like options and cannot be may be a password, and is not shown."""
    with pytest.raises(InvalidRequest, match="write %3F") as refused:
        connect(url)
    assert "cret" not in str(refused.value)


def test_a_workflow_puts_parents_first_and_refuses_circles():
    """Unknown names and circles are refused before anything is written; ten thousand jobs in a row are fine."""
    flow = Workflow()
    flow.add("child", EnqueueRequest("b"), after=["parent"])
    flow.add("parent", EnqueueRequest("a"))
    requests = flow.requests()
    assert list(requests) == ["parent", "child"]
    assert requests["child"].depends_on == (requests["parent"].job_id,)
    assert {request.workflow_id for request in requests.values()} == {flow.id}
    with pytest.raises(InvalidRequest, match="already"):
        flow.add("child", EnqueueRequest("b"))
    flow.add("lost", EnqueueRequest("a"), after="nobody")
    with pytest.raises(InvalidRequest, match="unknown"):
        flow.requests()
    circle = Workflow()
    circle.add("a", EnqueueRequest("a"), after="b")
    circle.add("b", EnqueueRequest("a"), after="a")
    with pytest.raises(InvalidRequest, match="circle"):
        circle.requests()
    chain = Workflow()
    for number in range(10_000):
        chain.add(str(number), EnqueueRequest("a"), after=[str(number - 1)] if number else [])
    assert len(chain.requests()) == 10_000


def test_limits_and_throttles_are_values():
    """A limit must allow something; what acquire hands back can be raised."""
    assert RateLimit("a", 10, 5.0).interval == 0.5
    for wrong in (("", 1, 1.0), ("a", 0, 1.0), ("a", 1, 0.0)):
        with pytest.raises(InvalidRequest):
            RateLimit(*wrong)
    assert "0.500" in str(Throttled(0.5, "slack"))
    assert JobFailed("1", "E: x").error == "E: x"


BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "either"),
        ({"cron": "* * * * *", "every": 5}, "either"),
        ({"cron": "61 * * * *"}, "not valid"),
        ({"every": 0}, "every"),
        ({"every": 5, "timezone": "Mars/Olympus"}, "time zone"),
        ({"every": 5, "name": ""}, "name"),
    ],
)
def test_bad_schedules_are_refused(options, says):
    """Q13: a schedule is checked when it is made."""
    with pytest.raises(InvalidRequest, match=says):
        Schedule(**{"name": "s", "request": EnqueueRequest("a"), **options})


def test_cron_follows_its_time_zone_through_daylight_saving():
    """W11: a job at half past two runs once on the night when that hour happens twice, and not never in spring."""
    schedule = Schedule(name="s", request=EnqueueRequest("a"), cron="30 2 * * *", timezone=BERLIN)
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC).timestamp()
    tick = schedule.next_after(spring)
    assert tick is not None
    assert datetime.fromtimestamp(tick, UTC) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    autumn = datetime(2026, 10, 24, 12, tzinfo=UTC).timestamp()
    first = schedule.next_after(autumn)
    assert first is not None
    second = schedule.next_after(first)
    assert second is not None
    assert second - first > 23 * 3600


@pytest.mark.parametrize("misfire", Misfire)
@pytest.mark.parametrize("cron", ["30 2 * * *", "15,45 2 * * 0", "*/7 * * * *", "0 30 2 * * *"])
def test_a_tick_is_never_before_the_moment_that_it_follows(cron, misfire):
    """W11: in the hour that comes twice, nothing fires that has fired."""
    schedule = Schedule(name="s", request=EnqueueRequest("a"), cron=cron, timezone=BERLIN, misfire=misfire)
    begins = datetime(2026, 10, 24, 23, tzinfo=UTC).timestamp()
    for minutes in range(240):
        moment = begins + 60.0 * minutes + 7
        following = schedule.next_after(moment)
        assert following is not None
        assert following > moment
        due = attrs.evolve(schedule, next_fire_at=moment - 7).due(moment)
        assert due.next_fire_at is not None
        assert due.next_fire_at > moment


@pytest.mark.parametrize(
    ("misfire", "late", "fires"),
    [
        (Misfire.SKIP, 30.0, 1),
        (Misfire.SKIP, 350.0, 1),
        (Misfire.SKIP, 390.0, 0),
        (Misfire.ONE, 390.0, 1),
        (Misfire.ALL, 390.0, 4),
    ],
)
def test_missed_ticks_follow_the_policy(misfire, late, fires):
    """W11: missed ticks are skipped, made up for once, or all fired."""
    schedule = Schedule(name="s", request=EnqueueRequest("a"), every=100, misfire=misfire, next_fire_at=1000.0)
    due = schedule.due(1000.0 + late)
    assert len(due.fire) == fires
    assert due.next_fire_at is not None
    assert due.next_fire_at > 1000.0 + late
    assert schedule.due(999.0).fire == ()


@pytest.mark.parametrize("seconds", ["5", "soon", True, b"5", 1j, [], object(), 10**400])
@pytest.mark.parametrize("option", ["timeout", "delay", "run_at", "expires_at"])
def test_times_that_are_no_numbers_are_refused(option, seconds):
    """Q13: what is no number of seconds is refused before anything is written, and names itself."""
    with pytest.raises(InvalidRequest, match=r"number of seconds|more than 0 seconds"):
        EnqueueRequest("k", **{option: seconds})


@pytest.mark.parametrize("seconds", [Decimal(5), Fraction(10, 2), 5])
def test_times_are_kept_as_floats(seconds):
    """Q13: numbers of every kind become what every store can read back."""
    request = EnqueueRequest("k", timeout=seconds, delay=seconds, expires_at=seconds)
    assert {type(value) for value in (request.timeout, request.delay, request.expires_at)} == {float}
    assert request.timeout == 5.0


@pytest.mark.parametrize(
    "options", [{"base": Decimal(5)}, {"base": "5"}, {"base": True}, {"base": 1, "cap": Decimal(5)}, {"jitter": "no"}]
)
def test_policies_that_could_not_be_read_back_are_refused(options):
    """Q13: a policy is stored with its job, and is numbers and a yes or no."""
    with pytest.raises(InvalidRequest):
        Exponential(**options)
