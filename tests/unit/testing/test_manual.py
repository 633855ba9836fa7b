"""Manual: jobs wait until the test runs them, and the test can say what should have been enqueued."""

from __future__ import annotations

from datetime import timedelta
from pathlib import PurePosixPath

import pytest

from workerctx import JobCtx, JobRegistry, JobState, injected
from workerctx.errors import InvalidRequest, RegistryInUse, Snooze
from workerctx.queue import Cancelled, Completed, Constant, EnqueueRequest, Failed, Schedule, Snoozed
from workerctx.testing import assert_enqueued, enqueued, inline, manual, run_pending

HOUR = 3600.0


@pytest.fixture
def jobs():
    """A registry whose own store is never reached."""
    return JobRegistry("nosuch://store")


@pytest.fixture
def resize(jobs):
    """A handler."""

    @jobs.register(name="resize")
    async def resize(ctx: JobCtx, path: str, width: int = 256, *, sizes: list = injected()) -> str:
        return f"{path} at {width}"

    return resize


@pytest.fixture
def flaky(jobs):
    """A handler that fails twice, and is tried again a minute later."""

    @jobs.register(name="flaky", retry=Constant(60, jitter=False), max_attempts=3)
    async def flaky(ctx: JobCtx) -> int:
        if ctx.attempt < 3:
            raise ConnectionError("nobody there")
        return ctx.attempt

    return flaky


async def test_jobs_wait_until_they_are_run(jobs, resize):
    """Nothing runs by itself; `run_pending` tells what happened, once."""
    with manual(jobs):
        async with jobs:
            handle = await resize.enqueue("cat.jpg")
            assert await handle.status() is JobState.QUEUED
            (done,) = await run_pending(jobs)
            assert isinstance(done, Failed), "nobody gave it what it wants injected"
            assert await run_pending(jobs) == []


async def test_what_is_injected_is_given_by_the_test(jobs):
    """`data` reaches the handlers."""

    @jobs.register(name="total")
    async def total(*, numbers: list = injected()) -> int:
        return sum(numbers)

    with manual(jobs):
        async with jobs:
            await total.enqueue()
            (done,) = await run_pending(jobs, data={list: [1, 2]})
            assert isinstance(done, Completed)
            assert done.outputs == 3


async def test_the_store_outlives_its_openings(jobs, flaky):
    """What one opening of the registry enqueued, the next one runs; the next block starts empty."""
    with manual(jobs):
        async with jobs:
            await flaky.enqueue()
        assert len(await run_pending(jobs)) == 1
    with manual(jobs):
        assert await run_pending(jobs) == []


async def test_retries_fall_due_on_the_way(jobs, flaky):
    """Moving the clock by an hour runs each retry at its time."""
    with manual(jobs):
        async with jobs:
            await flaky.enqueue()
            (first,) = await run_pending(jobs)
            assert isinstance(first, Failed)
            assert (first.retryable, first.error.message) == (True, "nobody there")
            assert await run_pending(jobs, advance=50) == []
            second, third = await run_pending(jobs, advance=timedelta(hours=1))
            assert isinstance(second, Failed)
            assert isinstance(third, Completed)
            assert 59 < third.at - second.at < 62
            assert third.outputs == 3


async def test_retries_wait_their_whole_delay(jobs):
    """Without jitter, so that each run of a test does the same."""

    @jobs.register(max_attempts=2)
    async def broken() -> None:
        raise ConnectionError("nobody there")

    with manual(jobs):
        async with jobs:
            await jobs.enqueue_bulk([broken.request()] * 5)
            assert len(await run_pending(jobs)) == 5
            assert await run_pending(jobs, advance=4.5) == []
            assert len(await run_pending(jobs, advance=1)) == 5


async def test_the_clock_moves_by_what_was_said(jobs, flaky):
    """The store's clock is ahead by the seconds given, whatever ran on the way."""
    with manual(jobs):
        async with jobs:
            before = await jobs.storage.now()
            await flaky.enqueue()
            await run_pending(jobs, advance=HOUR)
            assert HOUR <= await jobs.storage.now() - before < HOUR + 20


async def test_going_back_is_refused(jobs, flaky):
    """Time goes forward only."""
    with manual(jobs):
        with pytest.raises(InvalidRequest, match="-1"):
            await run_pending(jobs, advance=-1)


async def test_jobs_that_jobs_enqueue_run_too(jobs):
    """Follow-up jobs run, in whatever queue and whatever labels they need."""

    @jobs.register(name="leaf", queue="leaves", required_labels=["gpu"])
    async def leaf() -> str:
        return "leaf"

    @jobs.register(name="root")
    async def root(ctx: JobCtx) -> str:
        await ctx.enqueue(leaf.request())
        return "root"

    with manual(jobs):
        async with jobs:
            await root.enqueue()
            outcomes = await run_pending(jobs)
            assert [outcome.kind for outcome in outcomes] == ["root", "leaf"]
            assert_enqueued(jobs, leaf, queue="leaves", count=1)


async def test_queues_can_be_chosen(jobs):
    """Jobs of other queues than those named are left."""

    @jobs.register(name="work")
    async def work() -> None: ...

    with manual(jobs):
        async with jobs:
            await jobs.enqueue_bulk(work.request().with_options(queue=name) for name in "ab")
            assert [outcome.queue for outcome in await run_pending(jobs, queues=["b"])] == ["b"]
            assert [outcome.queue for outcome in await run_pending(jobs)] == ["a"]


async def test_every_outcome_is_told(jobs):
    """A snooze, a death, and the child that is cancelled for it."""

    @jobs.register(name="snooze")
    async def snooze() -> None:
        raise Snooze(60)

    @jobs.register(name="die", max_attempts=1)
    async def die() -> None:
        raise ValueError("no")

    with manual(jobs):
        async with jobs:
            await snooze.enqueue()
            parent = await die.enqueue()
            await die.with_options(depends_on=[parent.id]).enqueue()
            snoozed, failed, cancelled = await run_pending(jobs)
            assert isinstance(snoozed, Snoozed)
            assert isinstance(failed, Failed)
            assert not failed.retryable
            assert isinstance(cancelled, Cancelled)


async def test_what_nobody_can_run_ends_nothing(jobs, flaky):
    """Jobs of unknown kinds and of paused queues do not keep `run_pending` from returning."""
    with manual(jobs):
        async with jobs:
            await jobs.enqueue(EnqueueRequest("unknown"))
            await jobs.storage.jobs.pause_queue("still")
            await flaky.with_options(queue="still").enqueue()
            assert await run_pending(jobs, advance=10) == []


async def test_schedules_fire_on_the_way(jobs):
    """W11: a schedule of every ten minutes, declared or put, fires in the hour that the clock moves."""

    @jobs.schedule(every=600)
    @jobs.register(name="tick")
    async def tick(word: str = "declared") -> str:
        return word

    with manual(jobs):
        async with jobs:
            await jobs.storage.schedules.put(Schedule(name="own", request=tick.request("put"), every=600))
            outcomes = await run_pending(jobs, advance=HOUR)
            words = [outcome.outputs for outcome in outcomes if isinstance(outcome, Completed)]
            assert (words.count("declared"), words.count("put")) == (6, 6)


async def test_any_store_can_be_run_by_hand(tmp_path):
    """`run_pending` works on a SQLite file, without a mode."""
    jobs = JobRegistry(f"sqlite:///{tmp_path}/jobs.db")

    @jobs.register(name="work")
    async def work() -> str:
        return "done"

    async with jobs:
        await work.with_options(delay=HOUR).enqueue()
        assert await run_pending(jobs) == []
        (done,) = await run_pending(jobs, advance=HOUR)
        assert isinstance(done, Completed)
        assert done.outputs == "done"


class TestAssertEnqueued:
    """What matches, and what the message says."""

    @pytest.fixture
    async def filled(self, jobs, resize):
        """Two jobs and one that was deduplicated."""
        with manual(jobs):
            async with jobs:
                await resize.enqueue("cat.jpg", width=128)
                await resize.with_options(queue="images", unique_key="dog", delay=60).enqueue("dog.jpg")
                await resize.with_options(unique_key="dog").enqueue("dog.jpg")
                yield jobs

    async def test_arguments_are_compared_as_the_handler_gets_them(self, filled, resize):
        """By position or by name, defaults included; what is not given may be anything."""
        assert_enqueued(filled, resize)
        assert_enqueued(filled, resize, "cat.jpg")
        assert_enqueued(filled, resize, width=128)
        assert_enqueued(filled, resize, "dog.jpg", 256)
        assert_enqueued(filled, "resize", path="dog.jpg", width=256)
        assert_enqueued(filled, resize, "dog.jpg", queue="images", count=1)
        assert_enqueued(filled, resize, "owl.jpg", count=0)
        assert_enqueued(filled, resize, count=2)

    async def test_the_requests_are_handed_back(self, filled, resize):
        """What else was said about the job can be looked at."""
        (request,) = assert_enqueued(filled, resize, "dog.jpg")
        assert (request.delay, request.unique_key) == (60, "dog")
        assert enqueued(filled)[1] is request

    async def test_the_message_lists_what_was_enqueued(self, filled, resize):
        """Who is missing is named, and who came instead."""
        with pytest.raises(AssertionError) as refusal:
            assert_enqueued(filled, resize, "owl.jpg", queue="images")
        assert str(refusal.value).splitlines() == [
            "expected at least one job resize(path='owl.jpg') in queue 'images', found 0; enqueued were:",
            "  resize(path='cat.jpg', width=128) in queue 'default'",
            "  resize(path='dog.jpg') in queue 'images', 60 seconds later",
        ]

    async def test_a_wrong_number_is_told(self, filled, resize):
        """The number asked for and the number found are named."""
        with pytest.raises(AssertionError, match=r"expected 3 jobs resize\(\), found 2"):
            assert_enqueued(filled, resize, count=3)
        with pytest.raises(AssertionError, match=r"expected one job resize\(\), found 2"):
            assert_enqueued(filled, resize, count=1)

    async def test_arguments_that_the_handler_does_not_take_are_refused(self, filled, resize):
        """A misspelt argument is an error and no mismatch."""
        with pytest.raises(TypeError, match="resize takes path, width, not height"):
            assert_enqueued(filled, resize, height=3)
        with pytest.raises(TypeError, match="not so many arguments"):
            assert_enqueued(filled, resize, "cat.jpg", 1, 2)

    async def test_kinds_without_a_handler(self, filled):
        """A job for another service is asserted by its stored arguments."""
        with pytest.raises(AssertionError):
            assert_enqueued(filled, "theirs", path="a")
        await filled.enqueue(EnqueueRequest("theirs", {"path": "a"}))
        await filled.enqueue(EnqueueRequest("theirs", [1]))
        assert_enqueued(filled, "theirs", path="a", count=1)
        with pytest.raises(TypeError, match="by name"):
            assert_enqueued(filled, "theirs", "a")

    async def test_values_may_be_of_the_handlers_types(self, jobs):
        """A path is compared as a path, and as the text that is stored."""

        @jobs.register(name="read")
        async def read(path: PurePosixPath) -> None: ...

        with manual(jobs):
            async with jobs:
                await read.enqueue(PurePosixPath("a/b"))
            assert_enqueued(jobs, read, PurePosixPath("a/b"))
            assert_enqueued(jobs, read, "a/b")

    async def test_nothing_was_enqueued(self, jobs, resize):
        """An empty journal says so; without a mode there is none."""
        with inline(jobs):
            with pytest.raises(AssertionError, match="nothing was enqueued"):
                assert_enqueued(jobs, resize)
        with pytest.raises(RegistryInUse, match="manual"):
            assert_enqueued(jobs, resize)

    async def test_a_transaction_of_the_caller_is_left_out_of_account(self, jobs, resize):
        """Code that enqueues in its own transaction can be tested without a database."""
        with manual(jobs):
            async with jobs:
                await jobs.enqueue(resize.request("cat.jpg"), connection=object())
                assert_enqueued(jobs, resize, "cat.jpg")

    def test_sync_code_is_noted(self, jobs, resize):
        """Jobs from plain sync code are noted, and the assertion needs no event loop."""
        with manual(jobs):
            with jobs.sync:
                resize.enqueue_sync("cat.jpg")
                jobs.sync.enqueue(resize.request("dog.jpg"))
            assert_enqueued(jobs, resize, count=2)
