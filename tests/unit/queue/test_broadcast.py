"""The fan-out of events: lossy, ordered, and safe to publish to from any thread."""

import threading

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import InvalidRequest
from workerctx.queue.broadcast import Broadcast
from workerctx.queue.events import Lagged, Ready

PATIENCE = 10


def ready(*numbers):
    return [Ready(job_id=str(number), kind="work", queue="default") for number in numbers]


def names(events):
    return [event if isinstance(event, Lagged) else event.job_id for event in events]


async def read(stream, count):
    with anyio.fail_after(PATIENCE):
        return names([await anext(stream) for _ in range(count)])


async def test_nobody_listens():
    """Q10: without subscribers a broadcast is false, so that no event need be built, and publishing is harmless."""
    broadcast = Broadcast()
    assert not broadcast
    broadcast.publish(ready(1))
    async with broadcast.subscribe():
        assert broadcast
    assert not broadcast


async def test_events_reach_every_subscriber_in_order():
    """Q10: each subscriber gets every event from its beginning on, in order."""
    broadcast = Broadcast()
    async with broadcast.subscribe() as first:
        broadcast.publish(ready(1, 2))
        async with broadcast.subscribe() as second:
            broadcast.publish(ready(3))
            assert await read(first, 3) == ["1", "2", "3"]
            assert await read(second, 1) == ["3"]


async def test_the_oldest_are_lost_and_counted():
    """Q10: a slow subscriber gets `Lagged` where events are missing, once, and then the newest ones."""
    broadcast = Broadcast()
    async with broadcast.subscribe(capacity=3) as stream:
        broadcast.publish(ready(1, 2))
        broadcast.publish(ready(3, 4, 5))
        broadcast.publish(ready(6))
        assert await read(stream, 4) == [Lagged(3), "4", "5", "6"]
        broadcast.publish(ready(7))
        assert await read(stream, 1) == ["7"]


async def test_one_batch_larger_than_the_buffer():
    """Q10: of a batch that does not fit the newest events are kept."""
    broadcast = Broadcast()
    async with broadcast.subscribe(capacity=2) as stream:
        broadcast.publish(ready(*range(10)))
        assert await read(stream, 3) == [Lagged(8), "8", "9"]


async def test_publishing_from_threads():
    """Q10: events published from other threads wake a waiting subscriber, and none is lost or doubled."""
    broadcast = Broadcast()
    per_thread, threads = 500, 4

    def publish(offset):
        for number in range(per_thread):
            broadcast.publish(ready(offset + number))

    async with broadcast.subscribe(capacity=per_thread * threads) as stream:
        running = [threading.Thread(target=publish, args=(n * per_thread,)) for n in range(threads)]
        for thread in running:
            thread.start()
        found = await read(stream, per_thread * threads)
        for thread in running:
            thread.join()
    assert sorted(map(int, found)) == list(range(per_thread * threads))
    for n in range(threads):
        mine = [number for number in map(int, found) if number // per_thread == n]
        assert mine == sorted(mine)


async def test_counting_under_fire():
    """Q10: what is lost and what is read add up, however fast a thread publishes."""
    broadcast = Broadcast()
    total = 5000

    def publish():
        for number in range(total):
            broadcast.publish(ready(number))

    async with broadcast.subscribe(capacity=8) as stream:
        thread = threading.Thread(target=publish)
        thread.start()
        accounted = 0
        with anyio.fail_after(PATIENCE):
            async for event in stream:
                accounted += event.missed if isinstance(event, Lagged) else 1
                if accounted == total:
                    break
        thread.join()
    assert accounted == total


async def test_a_cancelled_read_takes_nothing():
    """Q10: a read that is cancelled while it waits loses no event and leaves no residue."""
    broadcast = Broadcast()
    async with broadcast.subscribe() as stream:
        for _ in range(3):
            with anyio.move_on_after(0.001):
                await anext(stream)
        broadcast.publish(ready(1))
        assert await read(stream, 1) == ["1"]


async def test_two_readers_of_one_subscription():
    """Q10: two tasks that share a subscription share its events."""
    broadcast = Broadcast()
    found = []

    async def reader(stream):
        found.extend(await read(stream, 1))

    async with broadcast.subscribe() as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(reader, stream)
        tasks.start_soon(reader, stream)
        await anyio.wait_all_tasks_blocked()
        broadcast.publish(ready(1))
        await anyio.wait_all_tasks_blocked()
        broadcast.publish(ready(2))
    assert sorted(found) == ["1", "2"]


async def test_closing_ends_the_iteration():
    """Q10: a closed broadcast lets its subscribers read what they have, and then ends."""
    broadcast = Broadcast()
    async with broadcast.subscribe() as stream:
        broadcast.publish(ready(1))
        broadcast.close()
        assert names([event async for event in stream]) == ["1"]
        assert [event async for event in stream] == []


async def test_leaving_forgets_the_subscriber():
    """Q10: a subscriber that left gets nothing more."""
    broadcast = Broadcast()
    async with broadcast.subscribe() as stream:
        pass
    broadcast.publish(ready(1))
    assert [event async for event in stream] == []


async def test_room_for_one_at_least():
    """Q13: a subscription needs room for an event."""
    with pytest.raises(InvalidRequest, match="capacity=0"):
        async with Broadcast().subscribe(capacity=0):
            pass


async def test_a_subscriber_keeps_up_with_batches():
    """Q10: a subscriber that does nothing slow loses nothing, however many events come in a turn of the loop."""
    broadcast = Broadcast()
    batch = ready(*range(50))
    seen = []

    async def publish():
        for _ in range(200):
            broadcast.publish(batch)
            await anyio.lowlevel.checkpoint()
        broadcast.close()

    async with broadcast.subscribe(capacity=500) as stream, anyio.create_task_group() as group:
        group.start_soon(publish)
        with anyio.fail_after(PATIENCE):
            seen = [event async for event in stream]
    assert len(seen) == 200 * len(batch)


async def test_a_subscriber_lets_others_take_turns():
    """Q10: reading what is buffered neither keeps the event loop from others nor outlives a cancellation."""
    broadcast = Broadcast()
    turns = 0

    async def take_turns():
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with broadcast.subscribe(capacity=5000) as stream, anyio.create_task_group() as group:
        broadcast.publish(ready(*range(5000)))
        group.start_soon(take_turns)
        await read(stream, 4000)
        assert turns >= 30
        group.cancel_scope.cancel()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(stream)
        assert scope.cancelled_caught
    broadcast.close()
    assert await read(stream, 1000) == [str(number) for number in range(4000, 5000)]
