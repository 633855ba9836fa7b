"""Moving between all stores: what arrives, movers that die at any point, and workers that go on at both ends."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from workerctx import JobCtx, JobRegistry, WorkerConfig, WorkerLoop
from workerctx.errors import StoreUnavailable
from workerctx.queue import (
    EnqueueRequest,
    JobError,
    JobState,
    QueuedJob,
    Schedule,
    Storage,
    Workflow,
    connect,
    move,
)
from workerctx.queue.cargo import moving_of

if TYPE_CHECKING:
    from collections.abc import Callable

STORES = ("memory", "sqlite", "postgres", "redis")
PAIRS = list(itertools.permutations(STORES, 2))
RING = [("memory", "sqlite"), ("sqlite", "postgres"), ("postgres", "redis"), ("redis", "memory")]
TIMES = ("run_at", "created_at", "claimed_at", "finished_at", "expires_at")


def facts(job: QueuedJob) -> dict[str, Any]:
    """What must be the same on both sides; times are whole microseconds in most stores."""
    found = {name: getattr(job, name) for name in QueuedJob.__struct_fields__}
    for name in TIMES:
        found[name] = found[name] and pytest.approx(found[name], abs=1e-5)
    # Who had it last is known only of jobs that are held or have ended.
    if not job.state.is_final:
        del found["worker_id"]
    errors = job.error_history
    found["error_history"] = [(failed.attempt, failed.error, pytest.approx(failed.at, abs=1e-5)) for failed in errors]
    return found


async def everything(storage: Storage) -> dict[str, QueuedJob]:
    """Return all jobs by id."""
    return {job.id: job for job in (await storage.jobs.list(limit=10_000)).jobs}


async def fill(storage: Storage) -> None:
    """Add some of everything."""
    await storage.jobs.enqueue_bulk([EnqueueRequest("plain", {"n": number, "é": "ü"}) for number in range(30)])
    await storage.jobs.enqueue(EnqueueRequest("later", delay=5000, headers={"a": "b"}, tenant_id="t", priority=-3))
    await storage.jobs.enqueue(EnqueueRequest("fails", queue="bad", max_attempts=3))
    await storage.jobs.enqueue(EnqueueRequest("dies", queue="bad", unique_key="d", max_attempts=1))
    for job, lease in await storage.jobs.claim_many("w", queues=["bad"]):
        await storage.jobs.progress(lease.id, {"seen": job.kind})
        await storage.jobs.fail(lease.id, JobError("Oops", "it broke\nbadly", details=[1]), delay=4000)
    flow = Workflow()
    flow.add("first", EnqueueRequest("first", queue="flow"))
    flow.add("second", EnqueueRequest("second", queue="flow"), after=["first"])
    flow.add("third", EnqueueRequest("third", queue="flow", on_parent_failure="run"), after=["first", "second"])
    await flow.enqueue(storage.jobs)
    lease = (await storage.jobs.claim_many("w", queues=["flow"]))[0][1]
    await storage.jobs.complete(lease.id, {"out": [1.5, None]})
    gone = await storage.jobs.enqueue(EnqueueRequest("gone"))
    await storage.jobs.cancel(gone.id)
    await storage.schedules.put(Schedule(name="noon", request=EnqueueRequest("noon"), cron="0 12 * * *"))


@pytest.mark.parametrize(("source_kind", "target_kind"), PAIRS)
async def test_every_pair(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q2: every job, whatever its state, is the same on the other side, whichever stores the two are."""
    async with connect(place(source_kind)) as source, connect(place(target_kind)) as target:
        await fill(source)
        before = await everything(source)
        (noon,) = await source.schedules.list()
        report = await move(source, target, history=True, limit=8, patience=10)
        assert report.is_complete
        assert not await everything(source)
        after = await everything(target)
        assert {key: facts(job) for key, job in after.items()} == {key: facts(job) for key, job in before.items()}
        assert report.jobs == Counter(job.state for job in before.values())
        assert report.target_after == {**dict.fromkeys(JobState, 0), **report.jobs}
        (moved,) = await target.schedules.list()
        assert (moved.next_fire_at, moved.cron, moved.request.kind) == (noon.next_fire_at, noon.cron, "noon")
        kinds: list[str] = []
        while claimed := await target.jobs.claim_many("w", queues=["flow"]):
            for job, lease in claimed:
                kinds.append(job.kind)
                assert set(map(str, job.upstream_outputs.values())) == {str({"out": [1.5, None]})}
                await target.jobs.complete(lease.id, {"out": [1.5, None]})
        assert kinds == ["second", "third"]


@attrs.define(eq=False)
class Flaky:
    """A store whose moves break off, before or after a step is done."""

    real: Storage
    dice: random.Random

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @property
    def moving(self) -> Flaky:
        return Flaky(moving_of(self.real), self.dice)  # type: ignore[arg-type]

    async def identity(self) -> str:
        return await self.real.identity()  # type: ignore[attr-defined, no-any-return]

    async def take_out(self, *args: Any, **kwargs: Any) -> Any:
        return await self._perhaps(self.real.take_out, *args, **kwargs)  # type: ignore[attr-defined]

    async def put_in(self, *args: Any) -> Any:
        return await self._perhaps(self.real.put_in, *args)  # type: ignore[attr-defined]

    async def clear_out(self, *args: Any) -> Any:
        return await self._perhaps(self.real.clear_out, *args)  # type: ignore[attr-defined]

    async def _perhaps(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        fate = self.dice.random()
        if fate < 0.2:
            raise StoreUnavailable("not done")
        found = await do(*args, **kwargs)
        if fate < 0.4:
            raise StoreUnavailable("done, and nobody knows")
        return found


@pytest.mark.parametrize(("source_kind", "target_kind"), RING)
async def test_a_mover_that_fails_at_any_step(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q2: wherever a move breaks off, the next one goes on; nothing is lost and nothing comes twice."""
    dice = random.Random(7)
    async with connect(place(source_kind)) as source, connect(place(target_kind)) as target:
        await fill(source)
        before = await everything(source)
        failures = 0
        while True:
            try:
                report = await move(Flaky(source, dice), Flaky(target, dice), history=True, limit=4, patience=10)
                break
            except StoreUnavailable:
                failures += 1
        assert failures > 3
        assert report.is_complete
        assert (await everything(target)).keys() == before.keys()
        assert [schedule.name for schedule in await target.schedules.list()] == ["noon"]


@pytest.mark.parametrize(("source_kind", "target_kind"), RING)
async def test_workers_on_both_sides(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q2: with workers and callers at both ends every job runs and succeeds once, at one of the two."""
    ran: Counter[str] = Counter()
    names = [f"job-{number}" for number in range(240)]

    def registry(url: str) -> JobRegistry:
        jobs = JobRegistry(url)

        @jobs.register(name="note")
        async def note(ctx: JobCtx) -> None:
            ran[ctx.job_id] += 1

        return jobs

    config = WorkerConfig(concurrency=2, prefetch_window=0.01)
    urls = [place(source_kind), place(target_kind)]
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(connect(url)) for url in urls]
        await source.jobs.enqueue_bulk([EnqueueRequest("note", {}, job_id=name) for name in names[:120]])
        loops = [WorkerLoop(registry(url), config) for url in urls]
        async with anyio.create_task_group() as tasks:
            for loop in loops:
                tasks.start_soon(loop.run)
            for start in range(120, 240, 20):
                await source.jobs.enqueue_bulk(
                    [EnqueueRequest("note", {}, job_id=name) for name in names[start : start + 20]]
                )
                report = await move(source, target, limit=7, patience=20)
                assert report.is_complete
            with anyio.fail_after(30):
                for name in names:
                    storage = source if name in await everything(source) else target
                    await storage.jobs.result(name)
            for loop in loops:
                loop.shutdown("done")
        here, there = await everything(source), await everything(target)
    assert not here.keys() & there.keys()
    assert here.keys() | there.keys() == set(names)
    assert {job.state for job in (*here.values(), *there.values())} == {JobState.SUCCEEDED}
    assert ran == Counter(names)


MOVER = """
import sys, anyio
from workerctx.queue import connect, move

async def main():
    async with connect(sys.argv[1]) as source, connect(sys.argv[2]) as target:
        await move(source, target, limit=10, patience=20, tell=lambda report: print(report.batches, flush=True))

anyio.run(main)
"""


@pytest.mark.parametrize(("source_kind", "target_kind"), [("sqlite", "postgres"), ("redis", "sqlite")])
def test_a_mover_that_is_killed(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q2: a mover that is killed is followed by one that goes on where it was, and every job is there once."""
    dice = random.Random(3)
    urls = [place(source_kind), place(target_kind)]
    names = {f"job-{number}" for number in range(400)}

    async def fill_up() -> None:
        async with connect(urls[0]) as source:
            await source.jobs.enqueue_bulk([EnqueueRequest("note", {}, job_id=name) for name in sorted(names)])

    async def look() -> list[set[str]]:
        found: list[set[str]] = []
        for url in urls:
            async with connect(url) as storage:
                found.append(set(await everything(storage)))
        return found

    anyio.run(fill_up)
    for kills in range(3):
        with subprocess.Popen([sys.executable, "-c", MOVER, *urls], stdout=subprocess.PIPE) as mover:
            assert mover.stdout is not None
            if kills < 2:
                for _ in range(dice.randrange(1, 8)):
                    assert mover.stdout.readline()
                mover.send_signal(signal.SIGKILL)
            mover.stdout.read()
        assert mover.returncode == (-signal.SIGKILL if kills < 2 else 0)
        here, there = anyio.run(look)
        assert not here & there
    assert (here, there) == (set(), names)
