"""The bell of a waiter: no ring is lost, also not behind a call that an earlier ring began."""

from __future__ import annotations

import threading

import anyio
import pytest

from workerctx.queue.bell import Bell


class Call:
    """A prepared call that counts how often it was begun."""

    begun = 0

    def begin(self) -> None:
        self.begun += 1


@pytest.fixture
def bell():
    return Bell()


async def test_rings_before_a_wait_end_it_once(bell):
    """Without a call, whoever waits looks after all of them."""
    bell.ring()
    bell.ring()
    with anyio.fail_after(5):
        await bell.wait(None)
    assert (bell.take_note(), bell.take_note()) == (True, False)


async def test_a_ring_from_a_thread_ends_the_wait_and_begins_the_call(bell):
    """Whatever thread it comes from."""
    call = Call()
    bell.then(call)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bell.wait, None)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(bell.ring)
    assert call.begun == 1
    assert (bell.take_note(), bell.take_note()) == (True, False)


async def test_a_ring_behind_the_one_that_began_the_call_counts_for_itself(bell):
    """The call may have looked before what the second ring tells of: it ends the next wait as well."""
    bell.then(Call())
    bell.ring()
    bell.ring()
    bell.ring()
    for _ in range(2):
        with anyio.fail_after(5):
            await bell.wait(None)
        assert bell.take_note()
    assert not bell.take_note()


async def test_a_wait_has_an_end(bell):
    """Nobody rings."""
    await bell.wait(0.01)
    assert not bell.take_note()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_threads_ring(bell):
    """Each of a crowd of rings is followed by a look that begins after it."""
    rung, seen = 0, 0
    lock = threading.Lock()

    def ring() -> None:
        nonlocal rung
        for _ in range(500):
            with lock:
                rung += 1
            bell.ring()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(anyio.to_thread.run_sync, ring)
            while seen < 2000:
                await bell.wait(None)
                if bell.take_note():
                    seen = rung
    assert seen == 2000
