"""Virtual time: what takes long is over at once, and what really takes time is waited for."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from workerctx import JobRegistry, WorkerConfig, WorkerContext, WorkerLoop, connect
from workerctx.queue import EnqueueRequest
from workerctx.testing import virtual_clock

DAY = 86400.0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_day_passes_at_once(backend):
    """With the options of `virtual_clock`, `anyio.run` sleeps a day in no time."""

    async def main() -> float:
        began = anyio.current_time()
        await anyio.sleep(DAY)
        return anyio.current_time() - began

    began = time.monotonic()
    assert anyio.run(main, backend=backend, backend_options=virtual_clock(backend)) == pytest.approx(DAY)
    assert time.monotonic() - began < DAY / 1000


def test_another_backend_is_refused():
    """A backend that does not exist is named in the refusal."""
    with pytest.raises(ValueError, match="curio"):
        virtual_clock("curio")


def test_pytest_is_not_needed(program):
    """`workerctx.testing` can be imported, and its clock made, where neither pytest nor trio can be."""
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['trio'] = None\n"
        "from workerctx.testing import *\n"
        "assert virtual_clock('asyncio')\n"
        "try: virtual_clock('trio')\n"
        "except ModuleNotFoundError as exc: assert 'workerctx[trio]' in str(exc)\n"
        "else: raise SystemExit('trio was found')"
    )
    done = program(code)
    assert done.returncode == 0, done.stderr


async def test_things_happen_in_their_order(virtual_time):
    """Sleepers wake in the order of their deadlines, each at its own time."""
    woken = []

    async def sleep(seconds: float) -> None:
        await anyio.sleep(seconds)
        woken.append((seconds, round(virtual_time())))

    virtual_time()
    async with anyio.create_task_group() as tasks:
        for seconds in (300.0, 100.0, 200.0):
            tasks.start_soon(sleep, seconds)
    assert woken == [(100.0, 100), (200.0, 200), (300.0, 300)]


async def test_timeouts_obey_the_same_clock(virtual_time):
    """A timeout of a minute ends a sleep of an hour after a minute."""
    virtual_time()
    with anyio.move_on_after(60) as scope:
        await anyio.sleep(3600)
    assert scope.cancelled_caught
    assert virtual_time() == pytest.approx(60)


async def test_who_waits_for_idle_tasks_comes_before_a_jump(virtual_time):
    """`wait_all_tasks_blocked` returns before time jumps."""
    virtual_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 3600)
        await anyio.wait_all_tasks_blocked()
        assert virtual_time() < 1
        tasks.cancel_scope.cancel()


async def test_a_thread_at_work_is_not_jumped_over(virtual_time):
    """While a worker thread works, time passes as on any clock: an hour's timeout does not end it."""
    virtual_time()
    release = threading.Event()

    async def release_soon() -> None:
        await anyio.sleep(0.05)
        release.set()

    with anyio.fail_after(3600):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release_soon)
            assert await anyio.to_thread.run_sync(release.wait, 10)
    assert virtual_time() < 10
    await anyio.sleep(3600)
    assert virtual_time() > 3600, "time jumps again"


async def test_a_thread_that_waits_for_the_loop_is_no_deadlock(virtual_time):
    """A thread that has the event loop sleep gets on."""
    virtual_time()
    await anyio.to_thread.run_sync(anyio.from_thread.run, anyio.sleep, 0.01)
    assert virtual_time() >= 0.01


async def test_a_thread_of_asyncio_is_not_jumped_over(virtual_time, anyio_backend_name):
    """The same holds for `asyncio.to_thread`."""
    if anyio_backend_name == "asyncio":
        with anyio.fail_after(3600):
            await asyncio.to_thread(time.sleep, 0.02)
        assert virtual_time() < 3600


async def test_data_that_is_there_is_read_before_time_jumps(virtual_time):
    """A message that waits in a socket is received at its time."""
    virtual_time()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.fail_after(3600):
            async with anyio.create_task_group() as tasks:

                async def echo(stream: anyio.abc.SocketStream) -> None:
                    async with stream:
                        await stream.send(await stream.receive())

                tasks.start_soon(listener.serve, echo)
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
                tasks.cancel_scope.cancel()


async def test_a_worker_context_drains_in_virtual_time(virtual_time):
    """The grace of a worker is over at once, and as long as it says."""
    virtual_time()
    async with WorkerContext("mailer", grace=600) as ctx:
        ctx.spawn(anyio.sleep, DAY)
        await anyio.lowlevel.checkpoint()
        ctx.stop()
    assert 599 < virtual_time() < 602


async def test_a_memory_store_follows(virtual_time):
    """Q11: due times and leases of a memory store go by the clock of the loop."""
    async with connect("memory://") as storage:
        await storage.jobs.enqueue(EnqueueRequest("work", delay=3600))
        assert await storage.jobs.claim("worker-1") is None
        await anyio.sleep(3601)
        assert await storage.jobs.claim("worker-1", lease_ttl=10) is not None
        await anyio.sleep(11)
        assert len(await storage.jobs.reap_expired_leases()) > 0


async def test_a_loop_runs_a_long_job_later(virtual_time):
    """A worker loop on a memory store runs a job that is due in five minutes and takes five minutes."""
    jobs = JobRegistry("memory://")

    @jobs.register(name="slow")
    async def slow() -> str:
        await anyio.sleep(300)
        return "done"

    virtual_time()
    async with jobs, WorkerLoop(jobs, WorkerConfig(concurrency=1, lease_ttl=3600)):
        handle = await slow.with_options(delay=300).enqueue()
        assert await handle.result(timeout=3600) == "done"
    assert 600 <= virtual_time() < 700
