"""Layers inside a worker: what a store is told of the runs that they put off."""

from __future__ import annotations

import anyio
import pytest

from workerctx.errors import LayerOrderWarning, Throttled
from workerctx.queue import Constant, JobState
from workerctx.runtime import WorkerConfig, WorkerLoop
from workerctx.service.layers import CircuitBreaker, ClusterRateLimit, Filter, LoadShed, LocalRateLimit, Retry, Trace


@pytest.fixture
def config() -> WorkerConfig:
    return WorkerConfig(concurrency=2)


async def test_a_shutdown_during_a_backoff_loses_no_job(jobs, config):
    """Item 22: the job is neither lost nor run twice; its only attempt is unspent, and it is due when it would be."""
    failed = anyio.Event()
    calls: list[int] = []

    @jobs.register(name="job", max_attempts=1, layers=[Retry(3, Constant(base=50, jitter=False))])
    async def job() -> None:
        calls.append(1)
        failed.set()
        raise ValueError("mine")

    async with jobs:
        handle = await job.enqueue()
        loop = WorkerLoop(jobs, config)
        with anyio.fail_after(20):
            async with loop:
                await failed.wait()
                loop.shutdown("deploy")
        stored = await handle.get()
        assert (stored.state, stored.attempt, stored.deliveries) == (JobState.SCHEDULED, 0, 0)
        assert 0 < stored.run_at - await jobs.storage.now() <= 50
    assert calls == [1]


async def test_all_tries_are_one_attempt(jobs, config):
    """Q3: n retries are n+1 executions of one attempt; the last failure alone is stored."""
    calls: list[int] = []

    @jobs.register(name="job", max_attempts=1, layers=[Retry(2, Constant(base=0))])
    async def job() -> None:
        calls.append(1)
        raise ValueError(str(len(calls)))

    async with jobs:
        handle = await job.enqueue()
        with anyio.fail_after(20):
            await WorkerLoop(jobs, config).drain()
        stored = await handle.get()
    assert (stored.state, stored.attempt) == (JobState.DEAD, 1)
    assert [entry.error.message for entry in stored.error_history] == ["3"]


@pytest.mark.parametrize(
    ("slots", "make"),
    [
        (1, lambda: LocalRateLimit(1, 50)),
        (1, lambda: ClusterRateLimit("github")),
        (1, lambda: CircuitBreaker(1, 50)),
        (2, lambda: LoadShed(1, retry_after=50)),
    ],
)
async def test_what_is_given_back_burns_no_attempt(jobs, slots, make):
    """Q4: a job that a layer gives back keeps its attempts, and is due when the layer said."""
    put_off = anyio.Event()
    ran: list[int] = []

    async def watch(request, call_next):
        try:
            return await call_next(request)
        except Throttled as exc:
            assert 0 < exc.retry_after <= 50
            put_off.set()
            raise

    @jobs.register(name="job", max_attempts=1, layers=[watch, make()])
    async def job(number: int) -> None:
        ran.append(number)
        if slots > 1:
            await put_off.wait()
        raise OSError("unreachable")

    async with jobs:
        await jobs.storage.rate_limits.configure("github", capacity=1, per=50)
        handles = [await job.enqueue(number) for number in range(4)]
        with anyio.fail_after(20):
            await WorkerLoop(jobs, WorkerConfig(concurrency=slots)).drain()
        given_back = [await handle.get() for number, handle in enumerate(handles) if number not in ran]
        now = await jobs.storage.now()
    assert ran == [0] if slots == 1 else put_off.is_set()
    assert given_back
    for stored in given_back:
        assert (stored.state, stored.attempt, stored.deliveries) == (JobState.SCHEDULED, 0, 0)
        assert 0 < stored.run_at - now <= 50


def test_doubtful_layers_of_a_worker_are_warned_about(jobs):
    """Item 33: at build time, before any worker runs."""
    with pytest.warns(LayerOrderWarning):

        @jobs.register(name="job", layers=[Trace(), Retry()])
        async def job() -> None: ...


async def test_a_rejected_job_is_dead(jobs, config):
    """Q4: what a filter rejects is dead at once, with the reason."""

    @jobs.register(name="job", layers=[Filter(lambda request: False)])
    async def job() -> None: ...

    async with jobs:
        handle = await job.enqueue()
        with anyio.fail_after(20):
            await WorkerLoop(jobs, config).drain()
        stored = await handle.get()
    assert stored.state is JobState.DEAD
    assert "a filter rejected this job" in stored.error_history[0].error.message
