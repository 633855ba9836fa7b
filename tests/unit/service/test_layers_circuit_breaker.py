"""Circuit breaker: spare something that fails, and find out when it is well again."""

from __future__ import annotations

import logging

import anyio
import pytest

from workerctx.errors import Abort, CircuitOpen, RetryAfter, Snooze, Throttled
from workerctx.service import Request
from workerctx.service.layers import CircuitBreaker, CircuitState, by_kind

pytestmark = pytest.mark.usefixtures("virtual_time")


async def succeed(request: Request) -> str:
    return "done"


async def fail(request: Request) -> str:
    raise OSError("unreachable")


async def failing(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="unreachable"):
            await breaker(Request("job"), fail)


class Probes:
    """Probes that wait until the test lets them end."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.breaker, self.inside, self.refused = breaker, 0, []
        self.ends: list[tuple[anyio.Event, list[Exception]]] = []

    async def one(self) -> None:
        ended, error = anyio.Event(), []
        self.ends.append((ended, error))

        async def endpoint(request: Request) -> None:
            self.inside += 1
            await ended.wait()
            if error:
                raise error[0]

        try:
            await self.breaker(Request("job"), endpoint)
        except CircuitOpen as exc:
            self.refused.append(exc.retry_after)
            self.ends.remove((ended, error))
        except Exception:
            pass

    async def end(self, *outcomes: Exception | None) -> None:
        for outcome in outcomes:
            ended, error = self.ends.pop(0)
            if outcome is not None:
                error.append(outcome)
            ended.set()
        await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("threshold", [1, 2, 7])
async def test_it_opens_at_the_configured_number_of_failures(threshold, caplog):
    """Item 28: the configured threshold holds, not a fixed one; then nothing reaches the handler."""
    breaker = CircuitBreaker(threshold, 30)
    await failing(breaker, threshold - 1)
    assert breaker.state() is CircuitState.CLOSED
    await failing(breaker, 1)
    assert breaker.state() is CircuitState.OPEN
    assert "the circuit in front of job opens" in caplog.text
    with pytest.raises(CircuitOpen, match=r"in front of job is open: try again in 30\.000 s") as caught:
        await breaker(Request("job"), fail)
    assert isinstance(caught.value, Throttled)
    assert caught.value.scope is None


async def test_only_failures_in_a_row_count():
    """Item 28: a success in between begins the count anew."""
    breaker = CircuitBreaker(3, 30)
    for _ in range(5):
        await failing(breaker, 2)
        assert await breaker(Request("job"), succeed) == "done"
    assert breaker.state() is CircuitState.CLOSED
    await failing(breaker, 3)
    assert breaker.state() is CircuitState.OPEN


async def test_a_refused_job_learns_the_time_left():
    """Item 28: who comes back after exactly that time is let in; nobody has to wake the circuit."""
    breaker = CircuitBreaker(1, 30)
    await failing(breaker, 1)
    await anyio.sleep(12)
    with pytest.raises(CircuitOpen) as caught:
        await breaker(Request("job"), succeed)
    assert round(caught.value.retry_after, 6) == round(breaker.time_left(), 6) == 18
    await anyio.sleep(caught.value.retry_after)
    assert breaker.state() is CircuitState.HALF_OPEN
    assert breaker.time_left() == 0
    assert await breaker(Request("job"), succeed) == "done"


async def test_exactly_so_many_probes_are_let_in():
    """Item 28: `half_open_max_calls` probes, not one more; the others come back soon."""
    breaker = CircuitBreaker(1, 30, half_open_max_calls=3)
    await failing(breaker, 1)
    await anyio.sleep(30)
    probes = Probes(breaker)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(probes.one)
        await anyio.wait_all_tasks_blocked()
        assert probes.inside == 3
        assert probes.refused == [1.0] * 7
        await probes.end(None, None, None)
    assert breaker.state() is CircuitState.CLOSED


@pytest.mark.parametrize(
    ("share", "outcomes", "state"),
    [
        (0.5, [None, None], CircuitState.CLOSED),
        (0.5, [OSError(), None], CircuitState.HALF_OPEN),
        (0.5, [OSError(), None, OSError()], CircuitState.HALF_OPEN),
        (0.5, [OSError(), None, OSError(), None], CircuitState.CLOSED),
        (0.5, [OSError(), OSError(), OSError()], CircuitState.OPEN),
        (1.0, [None, None, None], CircuitState.HALF_OPEN),
        (1.0, [None, None, None, None], CircuitState.CLOSED),
        (1.0, [OSError()], CircuitState.OPEN),
        (0.0, [OSError(), OSError(), OSError()], CircuitState.HALF_OPEN),
        (0.0, [OSError(), OSError(), OSError(), OSError()], CircuitState.OPEN),
        (0.0, [None], CircuitState.CLOSED),
    ],
)
async def test_the_share_of_successes_decides(share, outcomes, state):
    """Item 28: of four probes the configured share must succeed, and it is decided as soon as it is certain."""
    breaker = CircuitBreaker(1, 30, share, 4)
    await failing(breaker, 1)
    await anyio.sleep(30)
    probes = Probes(breaker)
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(probes.one)
        await anyio.wait_all_tasks_blocked()
        await probes.end(*outcomes)
        assert breaker.state() is state
        group.cancel_scope.cancel()


async def test_all_counters_begin_anew():
    """Item 28: after opening again the whole recovery time runs, and after closing the whole threshold counts."""
    breaker = CircuitBreaker(3, 30, 1.0, 2)
    await failing(breaker, 3)
    await anyio.sleep(30)
    assert await breaker(Request("job"), succeed) == "done"
    await failing(breaker, 1)
    assert breaker.state() is CircuitState.OPEN
    assert breaker.time_left() == 30
    await anyio.sleep(30)
    for _ in range(2):
        assert await breaker(Request("job"), succeed) == "done"
    assert breaker.state() is CircuitState.CLOSED
    await failing(breaker, 2)
    assert breaker.state() is CircuitState.CLOSED
    await failing(breaker, 1)
    assert breaker.state() is CircuitState.OPEN


async def test_late_results_of_an_earlier_era_do_not_count():
    """A job that began before the circuit opened says nothing about whether it is well again."""
    breaker = CircuitBreaker(1, 30, 1.0, 1)
    old = Probes(breaker)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(old.one)
        await anyio.wait_all_tasks_blocked()
        await old.end(OSError())
        assert breaker.state() is CircuitState.OPEN
        await anyio.sleep(30)
        probe = Probes(breaker)
        group.start_soon(probe.one)
        await anyio.wait_all_tasks_blocked()
        assert probe.inside == 1
        await old.end(OSError(), None)
        assert breaker.state() is CircuitState.HALF_OPEN
        await probe.end(None)
        assert breaker.state() is CircuitState.CLOSED


async def test_a_probe_that_tells_nothing_makes_room_for_another():
    """A probe that is cancelled, put off or aborted is neither success nor failure; the circuit is not stuck."""
    breaker = CircuitBreaker(1, 30, 1.0, 1)
    await failing(breaker, 1)
    await anyio.sleep(30)
    with anyio.move_on_after(1):
        await breaker(Request("job"), lambda request: anyio.sleep_forever())
    for error in (Snooze(1), Throttled(1), Abort("mine"), ExceptionGroup("g", [Snooze(1)])):

        async def raising(request: Request, error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            await breaker(Request("job"), raising)
        assert breaker.state() is CircuitState.HALF_OPEN
    assert await breaker(Request("job"), succeed) == "done"
    assert breaker.state() is CircuitState.CLOSED


async def test_some_errors_are_no_failures():
    """`counts` chooses; `RetryAfter` is a failure, `Abort` is not."""
    breaker = CircuitBreaker(1, 30, counts=lambda error: not isinstance(error, KeyError))

    async def raising(error: Exception) -> None:
        async def endpoint(request: Request) -> None:
            raise error

        with pytest.raises(type(error)):
            await breaker(Request("job"), endpoint)

    await raising(KeyError())
    await raising(Abort("mine"))
    assert breaker.state() is CircuitState.CLOSED
    await raising(RetryAfter(1))
    assert breaker.state() is CircuitState.OPEN


async def test_keys_have_circuits_of_their_own(caplog):
    """Around a whole registry, `by_kind` lets one failing handler not block the others."""
    breaker = CircuitBreaker(1, 30, by=by_kind)
    with pytest.raises(OSError):
        await breaker(Request("bad"), fail)
    assert breaker.state("bad") is CircuitState.OPEN
    assert breaker.state("good") is CircuitState.CLOSED
    assert await breaker(Request("good"), succeed) == "done"
    for number in range(1000):
        await breaker(Request(f"kind {number}"), succeed)
    assert len(breaker._circuits) <= 65
    assert breaker.state("bad") is CircuitState.OPEN
    await anyio.sleep(30)
    with caplog.at_level(logging.INFO, "workerctx"):
        await breaker(Request("bad"), succeed)
    assert "the circuit in front of bad lets probes through" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"failure_threshold": 0},
        {"recovery_timeout": 0},
        {"success_threshold": 1.1},
        {"success_threshold": -0.1},
        {"half_open_max_calls": 0},
    ],
)
def test_numbers_out_of_range_are_refused(options):
    """Nothing is clamped in silence."""
    with pytest.raises(ValueError):
        CircuitBreaker(**options)
