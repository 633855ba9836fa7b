"""What a loop tells its listeners besides its life: claims, ended runs, lost leases, failures of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import Abort, Snooze, Throttled
from workerctx.lifecycle.signals import worker_event
from workerctx.queue import Constant
from workerctx.runtime import (
    JobFinished,
    JobLost,
    JobOutcome,
    JobsClaimed,
    LoopLag,
    StoreFailed,
    StoreRecovered,
)
from workerctx.service import JobCtx

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.service import JobRegistry
    from workerctx.testing import Faults


@pytest.fixture
def heard() -> list[Any]:
    """The events that a test has listened for."""
    return []


@pytest.fixture
def hearing(make_loop: Callable[..., Any], heard: list[Any]) -> Callable[..., Any]:
    """Make a loop with a listener for some types of events."""

    def make(*types: Any, **settings: Any) -> Any:
        loop = make_loop(**settings)
        loop.context.listen(lambda _, event: heard.append(event), *types)
        return loop

    return make


async def test_each_end_of_a_run_is_told_in_a_word(jobs: JobRegistry, hearing: Any, heard: list[Any]) -> None:
    """L9: a run that ended is told once, with its job, what becomes of it, and why it failed."""
    ends: dict[str, Any] = {
        "succeeded": None,
        "failed": KeyError("lost"),
        "dead": Abort("no use"),
        "snoozed": Snooze(3600),
        "throttled": Throttled(3600),
    }

    @jobs.register(retry=Constant(base=3600, jitter=False))
    async def work(end: str) -> None:
        if ends[end] is not None:
            raise ends[end]

    handles = {(await work.enqueue(end)).id: end for end in ends}
    await hearing(JobFinished).run(burst=True)
    assert {handles[event.job.id]: event.outcome.value for event in heard} == {end: end for end in ends}
    assert {event.outcome: event.error.kind for event in heard if event.error} == {
        JobOutcome.FAILED: "KeyError",
        JobOutcome.DEAD: "Abort",
    }
    assert all(event.seconds >= 0 and event.waited >= 0 for event in heard)


async def test_the_last_attempt_that_fails_is_dead(
    jobs: JobRegistry, hearing: Any, heard: list[Any], at_once: Any
) -> None:
    """Q3: with two runs allowed, the first failure is told as failed, the second as dead."""

    @jobs.register(max_attempts=2, retry=at_once)
    async def work() -> None:
        raise ValueError("again")

    await work.enqueue()
    await hearing(JobFinished).run(burst=True)
    assert [(event.job.attempt, event.outcome) for event in heard] == [(1, JobOutcome.FAILED), (2, JobOutcome.DEAD)]


async def test_a_cancelled_run_and_one_that_is_given_back(
    jobs: JobRegistry, hearing: Any, heard: list[Any], eventually: Any
) -> None:
    """Q7: cancelled by a user is told as cancelled; cut off by a stop, as released."""

    @jobs.register
    async def endless(number: int) -> None:
        await anyio.sleep_forever()

    first, second = await endless.enqueue(1), await endless.enqueue(2)
    loop = hearing(JobFinished, grace=0)
    with anyio.fail_after(20):
        async with loop:
            await eventually(lambda: loop.in_flight == 2)
            await first.cancel()
            await eventually(lambda: heard)
    told = {event.job.id: event.outcome for event in heard}
    assert told == {first.id: JobOutcome.CANCELLED, second.id: JobOutcome.RELEASED}


async def test_waiting_counts_from_when_a_job_was_due(jobs: JobRegistry, hearing: Any, heard: list[Any]) -> None:
    """L9: a job that was due ten minutes ago, after an hour's delay, has waited ten minutes."""

    @jobs.register
    async def work() -> None: ...

    await work.with_options(delay=3600).enqueue()
    await jobs.storage.advance(4200)
    await hearing(JobFinished).run(burst=True)
    (event,) = heard
    assert event.waited == pytest.approx(600, abs=60)


async def test_claims_are_told_in_numbers(jobs: JobRegistry, hearing: Any, heard: list[Any]) -> None:
    """L9: the claims that were told add up to the jobs that ran."""

    @jobs.register
    async def work(number: int) -> None: ...

    await jobs.enqueue_bulk([work.request(number) for number in range(50)])
    await hearing(JobsClaimed, prefetch_window=30.0).run(burst=True)
    assert sum(event.number for event in heard) == 50
    assert all(event.number for event in heard)


@pytest.mark.parametrize("shielded", [False, True])
async def test_a_lost_lease_is_told(
    jobs: JobRegistry, hearing: Any, heard: list[Any], eventually: Any, shielded: bool
) -> None:
    """Q1: losing the lease is told when the run is cancelled for it, and when an outcome comes too late."""
    gate = anyio.Event()

    @jobs.register(max_attempts=1)
    async def late() -> None:
        with anyio.CancelScope(shield=shielded):
            await gate.wait()

    handle = await late.enqueue()
    loop = hearing(JobLost, JobFinished)
    with anyio.fail_after(20):
        async with loop:
            await eventually(lambda: loop.in_flight == 1)
            lease_id = (await jobs.storage.jobs.get(handle.id)).lease_id
            await jobs.storage.advance(3600)
            await jobs.storage.jobs.reap_expired_leases()
            await eventually(lambda: heard)
            gate.set()
            await eventually(lambda: len(heard) == 2 + shielded)
    lost = [event for event in heard if isinstance(event, JobLost)]
    assert [(event.lease_id, event.after_run) for event in lost] == [(lease_id, False), (lease_id, True)][
        : 1 + shielded
    ]
    (finished,) = (event for event in heard if isinstance(event, JobFinished))
    assert finished.outcome is (JobOutcome.SUCCEEDED if shielded else JobOutcome.LOST)


async def test_an_outage_is_told_from_its_first_failure_to_its_end(
    unreliable: Any, faults: Faults, make_loop: Any, heard: list[Any], eventually: Any
) -> None:
    """W4: each failure in a row has its number, and the end of the outage says how many there were."""

    @unreliable.register
    async def work() -> None: ...

    loop = make_loop(unreliable)
    loop.context.listen(lambda _, event: heard.append(event), StoreFailed, StoreRecovered)
    outage = faults.fail("jobs.finish_and_claim")
    with anyio.fail_after(20):
        async with loop:
            await eventually(lambda: len(heard) >= 2)
            outage.lift()
            await eventually(lambda: isinstance(heard[-1], StoreRecovered))
    *failures, recovered = heard
    assert [event.failures for event in failures] == list(range(1, len(failures) + 1))
    assert recovered.failures == len(failures)
    assert "the test let this call fail" in str(failures[0].as_error())


async def test_the_lag_of_the_event_loop_is_told_all_the_time(
    jobs: JobRegistry, hearing: Any, heard: list[Any], eventually: Any
) -> None:
    """W5: while somebody listens, the event loop's answers to the thread that watches it are told with their delay."""

    @jobs.register
    async def work() -> None: ...

    with anyio.fail_after(20):
        async with hearing(LoopLag, block_warning=0.02):
            await eventually(lambda: len(heard) >= 3)
    assert all(0 <= event.seconds < 20 for event in heard)


async def test_nobody_listens_so_nothing_is_made(jobs: JobRegistry, make_loop: Any, monkeypatch: Any) -> None:
    """L12: without a listener for it, no event of a run is built."""
    made = 0
    real = JobFinished.__init__

    def counting(self: Any, **fields: Any) -> None:
        nonlocal made
        made += 1
        real(self, **fields)

    monkeypatch.setattr(JobFinished, "__init__", counting)

    @jobs.register
    async def work() -> None: ...

    await work.enqueue()
    await make_loop().run(burst=True)
    assert made == 0
    await work.enqueue()
    loop = make_loop()
    loop.context.listen(lambda *_: None, JobFinished)
    await loop.run(burst=True)
    assert made == 1


async def test_listeners_and_receivers_come_and_go(make_loop: Any, jobs: JobRegistry) -> None:
    """L12: whether anybody hears of a type of event follows each change of the listeners."""

    @jobs.register
    async def work() -> None: ...

    context = make_loop().context
    assert not context.hears(JobFinished)
    listener = context.listen(lambda *_: None, JobFinished)
    assert context.hears(JobFinished)
    assert not context.hears(JobLost)
    listener.disconnect()
    assert not context.hears(JobFinished)
    with worker_event.connected_to(lambda *_, **__: None):
        assert context.hears(JobFinished)
    assert not context.hears(JobFinished)


async def test_the_reason_of_a_cancelled_run_counts_only_if_it_did_not_succeed(
    jobs: JobRegistry, hearing: Any, heard: list[Any], eventually: Any
) -> None:
    """Q7: success beats cancel, in what is told too."""

    @jobs.register
    async def stubborn(ctx: JobCtx) -> str:
        with anyio.CancelScope(shield=True):
            await ctx.cancel.wait()
        return "done all the same"

    handle = await stubborn.enqueue()
    loop = hearing(JobFinished)
    with anyio.fail_after(20):
        async with loop:
            await eventually(lambda: loop.in_flight == 1)
            await handle.cancel()
            await eventually(lambda: heard)
    assert heard[0].outcome is JobOutcome.SUCCEEDED
