"""The time of runs: timeouts, and threads that go on although their run is over."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import JobFailed
from workerctx.queue import JobState
from workerctx.runtime import JobFinished, RunOverran, WorkerConfig, WorkerLoop
from workerctx.service import JobRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def way_out() -> Iterator[threading.Event]:
    """What lets a stuck thread go; at the latest at the end of the test."""
    way_out = threading.Event()
    yield way_out
    way_out.set()


@pytest.mark.parametrize("timeout", [0.3, 1.0, 1.1, 90.0])
async def test_timeouts_are_exact(virtual_time: Callable[[], float], timeout: float) -> None:
    """W2: a run is cancelled when its time is over, not earlier and not later, whenever its timer was set."""
    jobs = JobRegistry("memory://")
    seconds: list[float] = []

    @jobs.register(max_attempts=1)
    async def endless() -> None:
        await anyio.sleep(0.123)
        await anyio.sleep_forever()

    async with jobs, WorkerLoop(jobs, WorkerConfig(lease_ttl=86400, poll_interval=3600)) as loop:
        loop.context.listen(lambda _, event: seconds.append(event.seconds), JobFinished)
        outcome = await jobs.enqueue(endless.request().with_options(timeout=timeout))
        with pytest.raises(JobFailed, match=f"the run took longer than {timeout:g} seconds"):
            await jobs.handle(outcome.id).result(timeout=100)
    assert seconds == [pytest.approx(timeout, abs=0.001)]


async def test_a_thread_that_outlives_its_timeout(
    jobs: JobRegistry,
    serving: Callable[..., Any],
    eventually: Any,
    fetch: Any,
    way_out: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """L26: a sync handler that ignores its timeout is reported once, by job, thread and stack; then it may end."""
    told: list[RunOverran] = []

    @jobs.register(timeout=0.05, max_attempts=1)
    def an_endless_calculation() -> None:
        way_out.wait()

    @jobs.register(timeout=60)
    def a_patient_calculation() -> None:
        way_out.wait()

    handle = await an_endless_calculation.enqueue()
    await a_patient_calculation.enqueue()
    with caplog.at_level(logging.WARNING, "workerctx"):
        async with serving(overrun_warning=0.05) as loop:
            loop.context.listen(lambda _, event: told.append(event), RunOverran)
            await eventually(lambda: told)
            assert loop.in_flight == 2
            way_out.set()
            await eventually(lambda: loop.in_flight == 0)
    (event,) = told
    assert event.job.id == handle.id
    assert event.seconds >= 0.05
    assert "in an_endless_calculation" in event.stack
    assert f"an_endless_calculation {handle.id} (run 1)" in caplog.text
    assert "(timeout) and goes on in thread" in caplog.text
    assert "way_out.wait()" in caplog.text
    assert (await fetch(handle)).state is JobState.SUCCEEDED  # what a thread returns in the end counts


async def test_a_thread_that_outlives_the_grace(
    jobs: JobRegistry, serving: Callable[..., Any], eventually: Any, way_out: threading.Event
) -> None:
    """L26: at a stop, a thread may go on until the deadline; after it, it is reported before the hard limit."""
    told: list[RunOverran] = []
    entered = threading.Event()

    @jobs.register
    def an_endless_calculation() -> None:
        entered.set()
        way_out.wait()

    await an_endless_calculation.enqueue()

    def note(_: object, event: RunOverran) -> None:
        told.append(event)
        way_out.set()  # ends the test as well

    async with serving(grace=0.2, hard_limit=1.0) as loop:
        loop.context.listen(note, RunOverran)
        await eventually(entered.is_set)
        assert loop.context.time_left is None
        loop.context.stop()
        assert loop.context.time_left is not None
        assert loop.context.time_left > 0
    assert len(told) == 1
    assert 0.5 <= told[0].seconds < 5
