"""W4: the store goes away and comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import WorkerFailed
from workerctx.queue import JobState
from workerctx.service import JobCtx

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue import Storage
    from workerctx.testing import Faults


@pytest.fixture
def runs() -> list[int]:
    """Which jobs ran, in order."""
    return []


@pytest.fixture
def numbered(unreliable: Any, runs: list[int]) -> Any:
    """A handler that notes its run."""

    @unreliable.register(max_attempts=2, name="numbered")
    async def numbered(ctx: JobCtx, number: int) -> int:
        runs.append(number)
        ctx.progress(1, 1)
        await anyio.lowlevel.checkpoint()
        return number

    return numbered


@pytest.fixture
def finished(outside: Storage, eventually: Any) -> Callable[..., Any]:
    """Wait until so many jobs have succeeded."""

    async def finished(number: int) -> None:
        async def enough() -> bool:
            counts = await outside.jobs.counts()
            return bool(counts[JobState.SUCCEEDED] >= number)

        await eventually(enough)

    return finished


async def test_an_outage_of_everything_is_survived_and_shown(
    unreliable: Any,
    faults: Faults,
    outside: Storage,
    numbered: Any,
    runs: list[int],
    serving: Any,
    eventually: Any,
    finished: Any,
) -> None:
    """W4: with every call failing, the loop says that it is not ready and why; it heals by itself."""
    async with serving(unreliable) as loop:
        await numbered.enqueue(0)
        await finished(1)
        assert loop.context.is_ready
        heartbeats = faults.fail("workers.heartbeat")
        with faults.fail():
            await outside.jobs.enqueue(numbered.request(1))
            await eventually(lambda: not loop.context.is_ready)
            assert "the test let this call fail" in loop.context.ready_reason
            assert loop.context.is_alive
            await heartbeats.met()
        heartbeats.lift()
        await finished(2)
        await eventually(lambda: loop.context.is_ready)
    assert runs == [0, 1]


async def test_outages_come_and_go_in_a_flood(
    unreliable: Any, faults: Faults, numbered: Any, runs: list[int], serving: Any, eventually: Any, finished: Any
) -> None:
    """W4: outcomes that could not be told are told later; nothing is lost and nothing runs twice."""

    async def enqueue(first: int) -> None:
        await unreliable.enqueue_bulk([numbered.request(number) for number in range(first, first + 1000)])

    await enqueue(0)
    async with serving(unreliable, concurrency=8) as loop:
        for goal in (100, 1000, 2000):
            await eventually(lambda goal=goal: len(runs) >= goal)
            await enqueue((goal // 1000 + 1) * 1000)  # so that there is something to tell, however fast they run
            with faults.fail():
                await eventually(lambda: not loop.context.is_ready)
            await eventually(lambda: loop.context.is_ready)
        await finished(4000)
    assert sorted(runs) == list(range(4000))


@pytest.mark.parametrize(
    "call",
    [
        "jobs.finish_and_claim",
        "jobs.finish_many",
        "workers.register",
        "workers.heartbeat",
        "jobs.reap_expired_leases",
        "jobs.wakeups",
        "wakeups.wait",
        "renewer.renew",
        "open_renewer",
        "jobs.progress",
    ],
)
async def test_an_outage_of_one_call_from_the_start(
    unreliable: Any, faults: Faults, numbered: Any, runs: list[int], serving: Any, finished: Any, call: str
) -> None:
    """W4: each call may fail on its own, from the start on, and the loop works once it answers again."""
    outage = faults.fail(call)
    over = False

    @unreliable.register(name="long")
    async def long(ctx: JobCtx) -> str:
        while not over:
            ctx.progress(1)
            await anyio.sleep(0.01)
        return "done"

    await unreliable.enqueue_bulk([numbered.request(number) for number in range(20)])
    await long.enqueue()
    async with serving(unreliable, concurrency=3, poll_interval=0.05):
        await outage.met()
        outage.lift()
        over = True
        await finished(21)
        await numbered.enqueue(20)
        await finished(22)
    assert sorted(runs) == list(range(21))


async def test_an_outage_longer_than_the_leases(
    unreliable: Any, faults: Faults, outside: Storage, serving: Any, eventually: Any, finished: Any
) -> None:
    """W4: outcomes of an outage longer than the leases are delivered before this loop's own reaper takes the jobs."""
    gate = anyio.Event()
    runs: list[int] = []

    @unreliable.register(max_attempts=3, name="wait")
    async def wait(number: int) -> int:
        runs.append(number)
        await gate.wait()
        return number

    for number in range(4):
        await wait.enqueue(number)
    async with serving(unreliable, concurrency=4, lease_ttl=2.0, heartbeat=0.1, reap_interval=0.02):
        await eventually(lambda: len(runs) == 4)
        reaping = faults.fail("jobs.reap_expired_leases")
        finishing = faults.fail("jobs.finish_*")
        with faults.fail():
            await reaping.met()
            gate.set()
            await outside.advance(5)
            await finishing.met()
        faults.lift()
        await finished(4)
    assert sorted(runs) == [0, 1, 2, 3]


async def test_answers_that_are_lost_lose_no_job(
    unreliable: Any, faults: Faults, numbered: Any, runs: list[int], serving: Any, eventually: Any, finished: Any
) -> None:
    """W4: when calls are performed but their answers are lost, unseen claims come back by their lease."""
    await unreliable.enqueue_bulk([numbered.request(number) for number in range(3000)])
    async with serving(unreliable, concurrency=3, lease_ttl=0.4, heartbeat=0.1) as loop:
        await eventually(lambda: len(runs) >= 50)
        with faults.fail(answer_lost=True):
            await eventually(lambda: not loop.context.is_ready)
        await finished(3000)
    assert set(runs) == set(range(3000))


async def enqueue_held(jobs: Any) -> anyio.Event:
    """Enqueue a job that runs until the event is set."""
    gate = anyio.Event()

    @jobs.register(name="wait")
    async def wait() -> None:
        await gate.wait()

    await wait.enqueue()
    return gate


async def test_a_stop_ends_the_pause_before_the_next_try(
    unreliable: Any, faults: Faults, serving: Any, eventually: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W3: a store that is back is told at once, however long the last pause would have been."""
    monkeypatch.setattr("workerctx.runtime.exchange.backoff", lambda failures: 60.0 if failures > 1 else 0.0)
    gate = await enqueue_held(unreliable)
    async with serving(unreliable, hard_limit=20, grace=5) as loop:
        await eventually(lambda: loop.in_flight == 1)
        outage = faults.fail("jobs.finish*")
        gate.set()
        await eventually(lambda: len(outage.calls) >= 3)
        outage.lift()
        with anyio.fail_after(10):
            loop.shutdown()
            await loop.context
    await finished(1)


async def test_a_stop_during_an_outage_is_bounded(
    unreliable: Any, faults: Faults, serving: Any, eventually: Any, caplog: Any
) -> None:
    """W3: a store that stays away holds up a stop no longer than the hard limit; the log says what is lost."""
    gate = await enqueue_held(unreliable)
    async with serving(unreliable, hard_limit=0.3, grace=5) as loop:
        await eventually(lambda: loop.in_flight == 1)
        faults.fail()
        gate.set()
        await eventually(lambda: not loop.context.is_ready)
        loop.shutdown()
    assert "could not tell the store" in caplog.text


async def test_a_short_outage_at_the_stop_is_waited_for(
    unreliable: Any, faults: Faults, outside: Storage, serving: Any, eventually: Any
) -> None:
    """W3: outcomes are told after an outage that ends within the hard limit, though the last job has ended."""
    gate = anyio.Event()

    @unreliable.register(name="wait")
    async def wait() -> str:
        await gate.wait()
        return "done"

    handle = await wait.enqueue()
    async with serving(unreliable, hard_limit=10) as loop:
        await eventually(lambda: loop.in_flight == 1)
        with faults.fail():
            gate.set()
            await eventually(lambda: not loop.context.is_ready)
            loop.shutdown()
    assert await outside.jobs.result(handle.id, timeout=5) == "done"


async def test_a_store_that_was_closed_fails_the_loop(registry: Any, hurried: Any, eventually: Any) -> None:
    """L29: a store that is closed under the loop does not come back: the loop fails and says so."""
    from workerctx.errors import StoreClosed
    from workerctx.runtime import WorkerLoop

    @registry.register
    async def nothing() -> None:
        pass

    with pytest.raises(WorkerFailed) as caught, anyio.fail_after(20):
        async with registry:
            loop = WorkerLoop(registry, hurried(poll_interval=0.01))
            async with loop:
                await eventually(lambda: loop.context.is_ready)
                await registry.storage.__aexit__(None, None, None)
                await loop.context.wait_stopping()
    assert isinstance(caught.value.__cause__, StoreClosed)
