"""The thread of a worker's sessions, as who leaves it sees it."""

import asyncio
import threading

import anyio
import anyio.lowlevel
import pytest

from workerctx.lifecycle.latch import Latch
from workerctx.remote.thread import in_own_thread

NAME = "a thread that hangs"


class Hanging:
    """A link that has ended, and whose thread hangs until it is released."""

    def __init__(self):
        self.released, self.over, self.aborted = threading.Event(), threading.Event(), anyio.Event()
        self.ended = Latch(self.over.is_set)

    async def run(self):
        self.over.set()
        self.ended.wake()
        self.released.wait(20)

    def abort(self):
        self.aborted.set()


@pytest.fixture
def link():
    link = Hanging()
    yield link
    link.released.set()


async def turns():
    """Let every other task run for a while."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


def is_there():
    return any(thread.name == NAME for thread in threading.enumerate())


async def test_a_thread_that_hangs_does_not_block_who_leaves_it(link):
    """R5, R9: while the thread of a session ends, whatever it waits for, the caller's event loop goes on."""

    async def release():
        await link.aborted.wait()
        await turns()
        link.released.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release)
            async with in_own_thread(link, NAME, 5):
                await link.ended.wait()
            assert link.released.is_set()
    assert not is_there()


async def test_a_thread_that_hangs_is_left_behind(link):
    """R5: it is waited for, but not for ever."""
    async with in_own_thread(link, NAME, 0.05):
        pass
    assert is_there()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("how", ["released", "in vain", "insisting"])
async def test_a_native_cancellation_waits_for_the_thread(how, link):
    """R5: a task that asyncio itself cancels waits as others do and then is cancelled; one cancelled twice goes."""

    async def use():
        async with in_own_thread(link, NAME, 0.05 if how == "in vain" else 5):
            await anyio.sleep_forever()

    user = asyncio.create_task(use())
    await link.ended.wait()
    await turns()
    user.cancel()
    await link.aborted.wait()
    await turns()
    if how == "released":
        assert not user.done()
        link.released.set()
    elif how == "insisting":
        user.cancel()
    with anyio.fail_after(3), pytest.raises(asyncio.CancelledError):
        await user
    assert is_there() is (how != "released")
