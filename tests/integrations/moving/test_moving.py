"""Moving between all stores: what arrives, movers that die at any point, and workers that go on at both ends."""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from workerctx import JobCtx, JobRegistry, WorkerConfig, WorkerLoop
from workerctx.errors import StoreUnavailable
from workerctx.queue import (
    Constant,
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
from workerctx.testing import advance
from workerctx.testing.guarded import guarded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

T = TypeVar("T")
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


@asynccontextmanager
async def both(*urls: str) -> AsyncGenerator[tuple[Storage, Storage]]:
    """Open both ends, at the same time: a server of the whole test session may have been moved ahead."""
    async with connect(urls[0]) as source, connect(urls[1]) as target:
        for behind, ahead in ((source, target), (target, source)):
            await advance(behind, max(0.0, await ahead.now() - await behind.now()))
        yield source, target


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
    async with both(place(source_kind), place(target_kind)) as (source, target):
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


class Misfortune:
    """Has some calls of a move fail, done or not."""

    def __init__(self) -> None:
        self.failures = 0
        self._dice = random.Random(7)

    async def serve(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], perform: Callable[[], Awaitable[T]]
    ) -> T:
        fate = self._dice.random() if method.startswith("moving.") else 1.0
        if fate < 0.2:
            self.failures += 1
            raise StoreUnavailable("not done")
        found = await perform()
        if fate < 0.4:
            self.failures += 1
            raise StoreUnavailable("done, and nobody knows")
        return found

    def serve_sync(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], perform: Callable[[], T]) -> T:
        return perform()


@pytest.mark.parametrize(("source_kind", "target_kind"), RING)
async def test_a_mover_that_fails_at_any_step(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q2: wherever a move breaks off, the next one goes on; nothing is lost and nothing comes twice."""
    misfortune = Misfortune()
    async with both(place(source_kind), place(target_kind)) as (source, target):
        await fill(source)
        before = await everything(source)
        ends = guarded(source, misfortune), guarded(target, misfortune)
        report = None
        while report is None:
            with suppress(StoreUnavailable):
                report = await move(*ends, history=True, limit=4, patience=10)
        assert misfortune.failures > 3
        assert report.is_complete
        assert (await everything(target)).keys() == before.keys()
        assert [schedule.name for schedule in await target.schedules.list()] == ["noon"]


@pytest.mark.parametrize(("source_kind", "target_kind"), RING)
async def test_clocks_that_differ(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q11: a job that is due by the clock of the source waits at the target until that one's clock says so too."""
    async with both(place(source_kind), place(target_kind)) as (source, target):
        await advance(source, 1000)
        due = (await source.jobs.enqueue(EnqueueRequest("note"))).id
        assert (await source.jobs.get(due)).state is JobState.QUEUED
        await move(source, target)
        assert (await target.jobs.get(due)).state is JobState.SCHEDULED
        await advance(target, await source.now() - await target.now() + 10)
        assert (await target.jobs.get(due)).state is JobState.QUEUED


class Notes:
    """What the handlers of both ends saw."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.strange: list[str] = []

    def loop(self, url: str) -> WorkerLoop:
        """Return a worker of one end."""
        jobs = JobRegistry(url)

        @jobs.register(name="note", max_attempts=3)
        async def note(ctx: JobCtx, parents: int = 0, fails: bool = False) -> str:
            self.runs[ctx.job_id] += 1
            if len(ctx.job.upstream_outputs) != parents:
                self.strange.append(ctx.job_id)
            await anyio.lowlevel.checkpoint()
            if fails and ctx.attempt == 1:
                raise ValueError("the first time")
            return ctx.job_id

        return WorkerLoop(jobs, WorkerConfig(concurrency=2, prefetch_window=0.01))

    async def check(self, source: Storage, target: Storage, ids: set[str]) -> None:
        """See that every job has succeeded at one of the two, with as many runs as it needs."""
        here, there = await everything(source), await everything(target)
        assert not here.keys() & there.keys()
        found = {**here, **there}
        assert found.keys() == ids
        assert {job.state for job in found.values()} == {JobState.SUCCEEDED}
        assert self.runs == Counter({key: 1 + bool(job.payload.get("fails")) for key, job in found.items()})
        assert not self.strange


async def add_flow(storage: Storage, dice: random.Random) -> set[str]:
    """Add some jobs that depend on each other; return their ids."""
    flow = Workflow()
    names: list[str] = []
    for number in range(dice.randrange(1, 6)):
        after = dice.sample(names, min(len(names), dice.randrange(3)))
        payload = {"parents": len(after), "fails": dice.random() < 0.2}
        request = EnqueueRequest("note", payload, retry=Constant(base=0.02), delay=dice.choice([0, 0, 0.05]))
        names.append(flow.add(str(number), request, after=after))
    return {outcome.id for outcome in (await flow.enqueue(storage.jobs)).values()}


async def all_ended(*storages: Storage) -> None:
    """Wait until no job is left that has not ended; looks at each end of one, and asks for counts only."""
    with anyio.fail_after(30):
        for storage in storages:
            async with storage.jobs.wakeups((), finished=True) as wakeups:
                while any(count for state, count in (await storage.jobs.counts()).items() if not state.is_final):
                    await wakeups.wait(1)


@pytest.mark.parametrize(("source_kind", "target_kind"), RING)
async def test_workers_on_both_sides(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q2: with workers at both ends, callers and two movers every job runs and succeeds once, at one of the two."""
    dice, notes, ids = random.Random(5), Notes(), set[str]()
    urls = [place(source_kind), place(target_kind)]
    async with both(*urls) as (source, target):
        loops = [notes.loop(url) for url in urls]
        async with anyio.create_task_group() as tasks:
            for loop in loops:
                tasks.start_soon(loop.run)
            for _ in range(3):
                for _ in range(8):
                    ids |= await add_flow(source, dice)
                async with anyio.create_task_group() as movers:
                    for limit in (3, 7):
                        movers.start_soon(partial(move, source, target, limit=limit, patience=20))
            await all_ended(source, target)
            for loop in loops:
                loop.shutdown("done")
        await notes.check(source, target, ids)


MOVER = """
import sys, anyio
from workerctx.queue import connect, move

async def main():
    async with connect(sys.argv[1]) as source, connect(sys.argv[2]) as target:
        await move(source, target, limit=5, patience=20, tell=lambda report: print(report.batches, flush=True))

anyio.run(main)
"""


@pytest.mark.parametrize(("source_kind", "target_kind"), [("sqlite", "postgres"), ("redis", "sqlite")])
async def test_a_mover_that_is_killed(place: Callable[[str], str], source_kind: str, target_kind: str) -> None:
    """Q2: a mover that is killed is followed by one that goes on, and with workers at both ends every job runs once."""
    dice, notes = random.Random(), Notes()
    urls = [place(source_kind), place(target_kind)]
    async with both(*urls) as (source, target):
        requests = [EnqueueRequest("note", {}) for _ in range(1000)]
        ids = {outcome.id for outcome in await source.jobs.enqueue_bulk(requests)}
        loops = [notes.loop(url) for url in urls]
        async with anyio.create_task_group() as tasks:
            async with await anyio.open_process([sys.executable, "-c", MOVER, *urls]) as mover:
                assert mover.stdout is not None
                lines = BufferedByteReceiveStream(mover.stdout)
                await lines.receive_until(b"\n", 16)
                for loop in loops:
                    tasks.start_soon(loop.run)
                # The workers may be done with everything before the mover has had its turns.
                with suppress(anyio.IncompleteRead, ProcessLookupError):
                    for _ in range(dice.randrange(8)):
                        await lines.receive_until(b"\n", 16)
                    mover.kill()
            assert (await move(source, target, limit=5, patience=20)).is_complete
            await all_ended(source, target)
            for loop in loops:
                loop.shutdown("done")
        await notes.check(source, target, ids)
