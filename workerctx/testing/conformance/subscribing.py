"""Subscribers: each hears everything, and none holds up the queue."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx.errors import InvalidRequest
from workerctx.queue.events import (
    Completed,
    JobEvent,
    Lagged,
    Ready,
    Started,
)
from workerctx.queue.finish import CompleteLease
from workerctx.queue.handle import JobHandle
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.conformance.support import (
    PATIENCE,
    StorageFactory,
    add,
    listening,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestSubscribers:
    """Who hears what."""

    async def test_many_subscribers(self, storage: Storage) -> None:
        """Q10: each subscriber hears everything from its own beginning on, in the same order."""
        async with listening(storage) as early:
            first = await add(storage)
            async with listening(storage) as late:
                second = await add(storage)
                heard_late = [event.job_id for event in await late.heard() if isinstance(event, Ready)]
                heard_early = [event.job_id for event in await early.heard() if isinstance(event, Ready)]
        assert heard_late == [second]
        assert heard_early[:2] == [first, second]

    async def test_only_this_storage(self, storage_factory: StorageFactory) -> None:
        """Q10: a subscription yields what is done through its own Storage."""
        async with storage_factory() as here, storage_factory() as there, listening(here) as listener:
            await add(there)
            mine = await add(here)
            (ready,) = await listener.heard()
        assert isinstance(ready, Ready)
        assert ready.job_id == mine

    async def test_a_slow_subscriber(self, storage: Storage) -> None:
        """Q10: who does not read in time loses the oldest, learns how many, and holds up nobody."""
        async with storage.jobs.subscribe(capacity=10) as stream, listening(storage) as quick:
            outcomes = await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(25))
            assert len(await quick.heard()) == 25
            found: list[JobEvent | Lagged] = []
            with anyio.fail_after(PATIENCE):
                async for event in stream:
                    found.append(event)
                    if len(found) == 11:
                        break
        lagged, *kept = found
        # The mark that `quick` read up to is an event as well.
        assert lagged == Lagged(16)
        ids = [event.job_id for event in kept if isinstance(event, JobEvent)]
        assert ids[:-1] == [outcome.id for outcome in outcomes[16:]]

    async def test_a_cancelled_reader_loses_nothing(self, storage: Storage) -> None:
        """Q10: a read that is cancelled while it waits takes no event with it."""
        async with storage.jobs.subscribe() as stream:
            with anyio.move_on_after(0):
                await anext(aiter(stream))
            job_id = await add(storage)
            with anyio.fail_after(PATIENCE):
                event = await anext(aiter(stream))
        assert isinstance(event, Ready)
        assert event.job_id == job_id

    async def test_a_waiting_reader_is_woken(self, storage: Storage) -> None:
        """Q10: a subscriber that waits gets the event as soon as it is published."""
        heard: list[JobEvent | Lagged] = []

        async def read() -> None:
            async with storage.jobs.subscribe() as stream:
                subscribed.set()
                async for event in stream:
                    heard.append(event)
                    break

        subscribed = anyio.Event()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await subscribed.wait()
                await add(storage)
        assert len(heard) == 1

    async def test_a_subscription_needs_room(self, storage: Storage) -> None:
        """Q13: a subscription without any room is refused."""
        with pytest.raises(InvalidRequest):
            async with storage.jobs.subscribe(capacity=0):
                pass

    async def test_events_come_after_the_commit(self, storage: Storage) -> None:
        """Q10: whoever hears of a change finds it in the store."""
        seen: list[JobState] = []

        async def read() -> None:
            async with storage.jobs.subscribe() as stream:
                subscribed.set()
                async for event in stream:
                    assert isinstance(event, JobEvent)
                    seen.append((await storage.jobs.get(event.job_id)).state)
                    if len(seen) == 5:
                        break

        subscribed = anyio.Event()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await subscribed.wait()
                await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(5))
        assert seen == [JobState.QUEUED] * 5

    async def test_one_jobs_events(self, storage: Storage) -> None:
        """Q10: a job's handle yields the events of that job only."""
        job_id = await add(storage, priority=1)
        await add(storage)
        async with JobHandle(storage.jobs, job_id).events() as stream:
            claimed = await storage.jobs.claim_many("worker-1")
            await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in reversed(claimed)])
            with anyio.fail_after(PATIENCE):
                events = [await anext(aiter(stream)) for _ in range(2)]
        assert [type(event) for event in events] == [Started, Completed]
        assert all(isinstance(event, JobEvent) and event.job_id == job_id for event in events)
