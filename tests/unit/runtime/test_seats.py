"""W1: limits of kinds and of their keys hold the claim back and leave the slots to others."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from attrs import define, field

from workerctx.errors import InvalidRequest
from workerctx.queue import EnqueueRequest, JobState
from workerctx.runtime import JobFinished, JobsClaimed
from workerctx.runtime.run import Run
from workerctx.runtime.seats import Limit, Seating
from workerctx.service import JobRegistry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from workerctx.queue import QueuedJob
    from workerctx.runtime import WorkerLoop


@define
class Rooms:
    """Who is inside, by key, and how many were at the same time at most; everybody waits until it is opened."""

    inside: Counter[Hashable] = field(factory=Counter)
    most: Counter[Hashable] = field(factory=Counter)
    entered: list[Hashable] = field(factory=list)
    doors: dict[Hashable, anyio.Event] = field(factory=dict)

    async def visit(self, key: Hashable) -> None:
        """Be inside until the door of the key is opened."""
        self.entered.append(key)
        self.inside[key] += 1
        self.most[key] = max(self.most[key], self.inside[key])
        try:
            await self.doors.setdefault(key, anyio.Event()).wait()
        finally:
            self.inside[key] -= 1

    def open(self, *keys: Hashable) -> None:
        """Let everybody out, now and from now on."""
        for key in keys:
            self.doors.setdefault(key, anyio.Event()).set()


@pytest.fixture
def rooms() -> Rooms:
    """Rooms with closed doors."""
    return Rooms()


async def test_a_limited_kind_leaves_the_slots_to_others(
    jobs: JobRegistry, serving: Callable[..., Any], rooms: Rooms, count: Any, eventually: Any
) -> None:
    """W1: of a kind at its limit nothing is claimed, however long its line, and other kinds run in the free slots."""

    @jobs.register(concurrency=2)
    async def slow(number: int) -> None:
        await rooms.visit("slow")

    @jobs.register
    async def quick(number: int) -> int:
        return number

    await jobs.enqueue_bulk([slow.request(n).with_options(priority=9) for n in range(50)])
    async with serving(concurrency=8) as loop:
        await eventually(lambda: rooms.inside["slow"] == 2)
        for number in range(20):
            handle = await quick.enqueue(number)
            assert await handle.result(timeout=5) == number
            assert await count(JobState.RUNNING) == 2
        assert loop.in_flight == 2
        untouched = (await jobs.storage.jobs.list(state=JobState.QUEUED)).jobs
        assert {(job.attempt, job.deliveries) for job in untouched} == {(0, 0)}
        rooms.open("slow")
        await eventually(lambda: len(rooms.entered) == 50)
    assert rooms.most["slow"] == 2


async def test_the_workers_limit_goes_before_the_handlers(
    jobs: JobRegistry, serving: Callable[..., Any], rooms: Rooms, eventually: Any
) -> None:
    """W1: `concurrency_per_kind` counts a kind and its aliases together, and replaces what the handler says."""

    @jobs.register(name="work", aliases=["job"], concurrency=1)
    async def work() -> None:
        await rooms.visit("work")

    requests = [work.request() for _ in range(10)]
    await jobs.enqueue_bulk([*requests[:5], *(request.with_options(kind="job") for request in requests[5:])])
    async with serving(concurrency=8, concurrency_per_kind={"work": 3}):
        await eventually(lambda: rooms.inside["work"] == 3)
        rooms.open("work")
        await eventually(lambda: len(rooms.entered) == 10)
    assert rooms.most["work"] == 3


@pytest.mark.parametrize("by", ["account", lambda job: job.payload["account"]])
async def test_each_key_for_itself(
    jobs: JobRegistry, serving: Callable[..., Any], rooms: Rooms, eventually: Any, by: Any
) -> None:
    """W1: with a key, so many of each key run; a long line of one key does not keep another from running."""

    @jobs.register(concurrency=2, concurrency_key=by)
    async def sync(account: str) -> None:
        await rooms.visit(account)

    await jobs.enqueue_bulk([sync.request("a") for _ in range(100)] + [sync.request("b") for _ in range(10)])
    async with serving(concurrency=6):
        await eventually(lambda: rooms.inside == {"a": 2, "b": 2})
        rooms.open("a", "b")
        await eventually(lambda: len(rooms.entered) == 110)
    assert rooms.most == {"a": 2, "b": 2}


async def test_a_thousand_jobs_of_one_key_do_not_hide_another(
    jobs: JobRegistry, serving: Callable[..., Any], rooms: Rooms, eventually: Any, count: Any
) -> None:
    """W1: while a customer's only place is taken for long, a customer far behind in the queue is served."""

    @jobs.register(concurrency=1, concurrency_key="account")
    async def sync(account: str) -> None:
        await rooms.visit(account)

    await jobs.enqueue_bulk([sync.request("a") for _ in range(1000)] + [sync.request("b")])
    async with serving(concurrency=3):
        await eventually(lambda: rooms.inside == {"a": 1, "b": 1})
        rooms.open("a", "b")
    assert rooms.most == {"a": 1, "b": 1}
    untouched = (await jobs.storage.jobs.list(state=JobState.QUEUED)).jobs
    assert {(job.attempt, job.deliveries) for job in untouched} <= {(0, 0)}


async def test_surplus_of_a_key_goes_back_and_is_left_alone(
    jobs: JobRegistry, serving: Callable[..., Any], rooms: Rooms, count: Any, eventually: Any
) -> None:
    """W1: claimed jobs without a seat are given back within the window, unspent, and not claimed in circles."""
    claims: list[int] = []

    @jobs.register(concurrency=1, concurrency_key="account")
    async def sync(account: str) -> None:
        await rooms.visit(account)

    @jobs.register
    async def other(number: int) -> int:
        return number

    async def only_one_is_held() -> bool:
        return bool(await count(JobState.RUNNING) == 1)

    await jobs.enqueue_bulk([sync.request("a") for _ in range(30)])
    async with serving(concurrency=4) as loop:
        await eventually(lambda: rooms.inside["a"] == 1)
        await eventually(only_one_is_held)
        untouched = (await jobs.storage.jobs.list(state=JobState.QUEUED)).jobs
        assert {(job.attempt, job.deliveries) for job in untouched} == {(0, 0)}
        loop.context.listen(lambda _, event: claims.append(event.number), JobsClaimed)
        began = anyio.current_time()
        for number in range(20):
            handle = await other.enqueue(number)
            assert await handle.result(timeout=5) == number
        # Everything in line is looked at once a second, not at each of these claims.
        assert sum(claims) <= 20 + 29 * (anyio.current_time() - began + 1)
        rooms.open("a")
        await eventually(lambda: len(rooms.entered) == 30)
    assert rooms.most["a"] == 1
    assert await count(JobState.SUCCEEDED) == 50


async def test_a_key_and_a_limit_of_the_whole_kind(
    jobs: JobRegistry, serving: Callable[..., Any], rooms: Rooms, eventually: Any
) -> None:
    """W1: the limit of a kind holds over all of its keys."""

    @jobs.register(concurrency=2, concurrency_key="account")
    async def sync(account: str) -> None:
        await rooms.visit("all")

    await jobs.enqueue_bulk([sync.request(account) for account in "aaabbbcccddd"])
    async with serving(concurrency=8, concurrency_per_kind={sync.kind: 3}):
        await eventually(lambda: rooms.inside["all"] == 3)
        rooms.open("all")
        await eventually(lambda: len(rooms.entered) == 12)
    assert rooms.most["all"] == 3


async def test_every_end_of_a_run_gives_its_seat_back(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], count: Any
) -> None:
    """W1: failures, timeouts and cancellations free a seat as success does."""

    @jobs.register(concurrency=1, concurrency_key="account", max_attempts=1)
    async def work(account: str, number: int) -> None:
        if number % 3 == 0:
            raise ValueError("boom")
        if number % 3 == 1:
            await anyio.sleep_forever()

    await jobs.enqueue_bulk([work.request("a", n).with_options(timeout=0.01) for n in range(30)])
    await burst(concurrency=4)
    assert (await count(JobState.DEAD), await count(JobState.SUCCEEDED)) == (20, 10)


@pytest.mark.parametrize("default", [("a", "b"), Path("a"), "a"])
async def test_a_default_is_the_same_key_as_its_value(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], default: Any
) -> None:
    """W1: a job that leaves an argument out shares its seats with those that name the same value."""
    at_once = most = 0

    async def work(by: Any = default) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.sleep(0.01)
        at_once -= 1

    work.__annotations__["by"] = tuple[str, str] if isinstance(default, tuple) else type(default)
    handler: Any = jobs.register(concurrency=1, concurrency_key="by")(work)
    for _ in range(4):
        await handler.enqueue()
        await handler.enqueue(default)
    await burst(concurrency=4)
    assert most == 1


async def test_a_payload_that_is_no_object_has_no_key(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], fetch: Any
) -> None:
    """Q14: it is dead with the reason, as without a key."""

    @jobs.register(concurrency=1, concurrency_key="account")
    async def work(account: str) -> None: ...

    ids = [(await jobs.enqueue(EnqueueRequest(work.kind, payload))).id for payload in (None, [1], "a")]
    await burst()
    ends = [await jobs.storage.jobs.get(job_id) for job_id in ids]
    assert [(job.state, job.attempt, job.error and job.error.kind) for job in ends] == [
        (JobState.DEAD, 1, "UndecodablePayload")
    ] * 3


async def test_a_key_that_cannot_be_told_fails_its_job_alone(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], make_loop: Any, fetch: Any
) -> None:
    """W2: a function of keys that raises, or returns what is no key, fails that job and nothing else."""

    def key(job: QueuedJob) -> Hashable:
        unhashable: Any = [] if job.payload["number"] == 2 else 1 / job.payload["number"]
        return unhashable

    @jobs.register(concurrency=1, concurrency_key=key, max_attempts=1)
    async def work(number: int) -> int:
        return number

    handles = [await work.enqueue(number) for number in range(4)]
    loop, told = make_loop(), []
    loop.context.listen(lambda _, event: told.append(event), JobFinished)
    with anyio.fail_after(20):
        await loop.run(burst=True)
    ends = [await fetch(handle) for handle in handles]
    assert [job.state for job in ends] == [JobState.DEAD, JobState.SUCCEEDED, JobState.DEAD, JobState.SUCCEEDED]
    assert "ZeroDivisionError" in str(ends[0].error)
    assert len(told) == 4


async def test_jobs_in_line_are_given_back_at_a_stop(
    jobs: JobRegistry, serving: Callable[..., Any], rooms: Rooms, count: Any, eventually: Any
) -> None:
    """W3: what stands in line at a stop or a pause goes back to the queue unspent."""

    @jobs.register(concurrency=1, concurrency_key="account")
    async def sync(account: str) -> None:
        await rooms.visit(account)

    await jobs.enqueue_bulk([sync.request("a") for _ in range(10)])
    async with serving(concurrency=4, prefetch_window=60.0) as loop:
        await eventually(lambda: rooms.inside["a"] == 1)
        loop.context.stop()
        rooms.open("a")
    assert (await count(JobState.SUCCEEDED), await count(JobState.QUEUED)) == (1, 9)
    untouched = (await jobs.storage.jobs.list(state=JobState.QUEUED)).jobs
    assert {(job.attempt, job.deliveries) for job in untouched} == {(0, 0)}


async def test_others_can_see_the_limits(jobs: JobRegistry, serving: Callable[..., Any], eventually: Any) -> None:
    """W1: a worker's entry in the list of workers tells its limits, for who wonders why a job waits."""

    @jobs.register(name="a", concurrency=2)
    async def whole() -> None: ...

    @jobs.register(name="b", concurrency=1, concurrency_key="account")
    async def keyed(account: str) -> None: ...

    async def is_listed() -> bool:
        return bool(await jobs.storage.workers.list())

    async with serving(concurrency_per_kind={"b": 5}):
        await eventually(is_listed)
        (worker,) = await jobs.storage.workers.list()
        assert (worker.kind_limits, worker.key_limits) == ({"a": 2, "b": 5}, {"b": 1})


def test_limits_that_make_no_sense() -> None:
    """Q13: a limit below 1, a key without a limit and a key that no job has are refused at decoration."""
    jobs = JobRegistry("memory://")

    async def work(account: str) -> None: ...

    for options, sentence in (
        ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
        ({"concurrency_key": "account"}, "say how many with concurrency="),
        ({"concurrency": 1, "concurrency_key": "acount"}, "'acount' is no argument of work, whose jobs carry account"),
    ):
        with pytest.raises(InvalidRequest, match=sentence):
            jobs.register(name="work", **options)(work)
    assert jobs.kinds == ()


async def test_a_limit_of_an_unknown_kind_is_logged(
    jobs: JobRegistry, burst: Callable[..., Awaitable[WorkerLoop]], caplog: pytest.LogCaptureFixture
) -> None:
    """A limit of a kind that nobody has is said aloud, since it may be a slip of the pen."""

    @jobs.register
    async def work() -> None:
        pass

    with caplog.at_level(logging.WARNING, "workerctx"):
        await burst(concurrency_per_kind={"wrok": 2, work.kind: 1})
    assert "has no handler for 'wrok', which concurrency_per_kind limits" in caplog.text


def test_a_kind_that_is_left_alone_again_is_looked_at_again():
    """W1: jobs that are given back while their kind is left alone prolong that, and then it is claimed all the same."""
    seating = Seating((Limit(("sync",), None, 1, lambda _: "a"),))
    sitting, early, late = (
        Run(SimpleNamespace(kind="sync"), SimpleNamespace(id=str(number)), claimed_at, counted=False)
        for number, claimed_at in enumerate([0.0, 0.0, 0.25])
    )
    assert [seating.admit(run) for run in (sitting, early, late)] == [True, False, False]
    for now, overdue in ((0.5, early), (0.75, late)):
        assert seating.overdue(now, 0.5) == [overdue]
        assert not list(seating.leave(overdue))
    assert seating.has_made_room(1.5)
    assert seating.room(1.5, most=10) == {"sync": 0}
    assert seating.look_at == 1.75
    assert seating.has_made_room(1.75)
    assert seating.room(1.75, most=10) == {"sync": 10}
