"""What becomes of callers and workers when the server or the network fails, and when they come back."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import anyio
import pytest

from workerctx import JobRegistry, WorkerConfig, WorkerLoop
from workerctx.errors import StoreClosed, StoreFull, StoreUnavailable
from workerctx.queue import CompleteLease, EnqueueRequest, JobState, Schedule, WorkerCommand, WorkerInfo, connect
from workerctx.testing.polling import wait_until

PATIENCE = 30.0


async def works(storage):
    """Whether a call succeeds."""
    with suppress(StoreUnavailable):
        await storage.jobs.counts()
        return True
    return False


def through(proxy, **options):
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"redis://{proxy.host}:{proxy.port}?{query}"


async def test_a_killed_server_and_its_restart(own_server):
    """W4, Q2: calls fail while the server is dead, waiters are woken when it is back, and with AOF nothing is lost."""
    server = own_server(appendonly="yes", appendfsync="always")
    async with connect(server.url()) as storage, storage.jobs.wakeups(["default"]) as wakeups:
        job_id = (await storage.jobs.enqueue(EnqueueRequest("work", 1))).id
        _, lease = await storage.jobs.claim("worker")
        while await wakeups.wait(0):
            pass
        server.kill()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await storage.jobs.complete(lease.id)
        server.start()
        with anyio.fail_after(PATIENCE):
            await wait_until(lambda: works(storage), PATIENCE)
            while not await wakeups.wait():
                pass
        await storage.jobs.complete(lease.id, "done")
        assert await storage.jobs.result(job_id) == "done"


async def test_a_frozen_server_is_not_waited_for(own_server):
    """W3: a server that holds its connections and answers nothing costs a call its timeout, and closing is bounded."""
    server = own_server()
    began = time.monotonic()
    async with connect(server.url(timeout="0.3")) as storage:
        await storage.jobs.enqueue(EnqueueRequest("work"))
        server.freeze()
        try:
            with pytest.raises(StoreUnavailable, match="did not answer"):
                await storage.jobs.counts()
            with pytest.raises(StoreUnavailable):
                await storage.jobs.enqueue(EnqueueRequest("work"))
        finally:
            server.thaw()
        await wait_until(lambda: works(storage), PATIENCE)
        server.freeze()
    server.thaw()
    assert time.monotonic() - began < PATIENCE


async def test_a_cut_connection_costs_a_call_at_most(redis_server, proxy_of):
    """W4: after a reset the next call has a new connection, and a renewer's too."""
    proxy = proxy_of(("127.0.0.1", redis_server.port))
    async with connect(through(proxy, prefix="cut")) as storage:
        await storage.jobs.enqueue(EnqueueRequest("work"))
        _, lease = await storage.jobs.claim("worker")
        with storage.open_renewer() as renewer:
            for _ in range(3):
                proxy.cut()
                await wait_until(lambda: works(storage), PATIENCE)
                with suppress(StoreUnavailable):
                    await anyio.to_thread.run_sync(renewer.renew, [lease.id], 30.0)
                assert not (await anyio.to_thread.run_sync(renewer.renew, [lease.id], 30.0)).lost
        with proxy.refusing():
            with pytest.raises(StoreUnavailable):
                await storage.jobs.counts()
        await wait_until(lambda: works(storage), PATIENCE)


async def test_a_stalled_network_is_given_up(redis_server, proxy_of):
    """W3: an abandoned connection is closed and not used again, so a late answer reaches nobody."""
    proxy = proxy_of(("127.0.0.1", redis_server.port))
    async with connect(through(proxy, prefix="stalled", timeout="0.3")) as storage:
        first = (await storage.jobs.enqueue(EnqueueRequest("work", 1))).id
        with proxy.stalling("client"):
            with pytest.raises(StoreUnavailable, match="unknown"):
                await storage.jobs.get(first)
        assert (await storage.jobs.get(first)).payload == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_opening_that_is_cancelled_natively(redis_server, proxy_of, opened_again):
    """Q15: what asyncio.timeout leaves behind closes itself, and the same storage can be opened again."""
    proxy = proxy_of(("127.0.0.1", redis_server.port))
    storage = connect(through(proxy, prefix="left"))

    async def is_idle():
        threads = {thread.name for thread in threading.enumerate()}
        return proxy.connections == 0 and "workerctx-redis" not in threads

    async def is_knocking():
        return proxy.connections > 0

    with proxy.stalling("client"):
        opening = asyncio.create_task(storage.__aenter__())
        await wait_until(is_knocking, PATIENCE)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        with pytest.raises(StoreClosed, match="about to be"):  # two openings would close each other
            await storage.__aenter__()
    await wait_until(is_idle, PATIENCE)
    async with opened_again(storage):
        await storage.jobs.enqueue(EnqueueRequest("work"))


async def test_a_server_that_is_not_there(own_server):
    """A store that cannot be opened says where it looked for it."""
    server = own_server()
    server.kill()
    with pytest.raises(StoreUnavailable, match=str(server.port)):
        async with connect(server.url()):
            pass


async def test_a_full_server_takes_nothing_in_and_lets_work_go_on(own_server):
    """Q9, Q13: at maxmemory enqueueing is refused with nothing half done, while workers finish what is there."""
    server = own_server(**{"maxmemory-policy": "noeviction"})
    async with connect(server.url()) as storage:
        await storage.jobs.enqueue_bulk([EnqueueRequest("work", n) for n in range(10)])
        claimed = await storage.jobs.claim_many("worker", limit=5)
        before = server.command("dbsize")
        server.command("config", "set", "maxmemory", "1")
        for requests in ([EnqueueRequest("work")], [EnqueueRequest("work", unique_key="k")] * 3000):
            with pytest.raises(StoreFull, match="maxmemory"):
                await storage.jobs.enqueue_bulk(requests)
        assert server.command("dbsize") == before
        assert sum((await storage.jobs.counts()).values()) == 10
        assert not (await storage.jobs.renew_leases([lease.id for _, lease in claimed], extend_by=60)).lost
        await storage.workers.register(WorkerInfo(id="worker"))
        await storage.workers.send("worker", WorkerCommand.PAUSE)
        assert await storage.workers.heartbeat("worker") == [WorkerCommand.PAUSE]
        await storage.rate_limits.configure("api", capacity=1, per=1)
        await storage.schedules.put(Schedule(name="hourly", request=EnqueueRequest("work"), every=3600))
        await storage.schedules.enable("hourly", enabled=False)
        assert await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed]) == [None] * 5
        assert len(await storage.jobs.claim_many("worker", limit=5)) == 5
        assert await storage.jobs.prune(0) == 5
        server.command("config", "set", "maxmemory", "0")
        assert not (await storage.jobs.enqueue(EnqueueRequest("work", unique_key="k"))).deduped


async def test_a_batch_that_does_not_fit_leaves_its_room(own_server):
    """Q9: a batch that fills the server on its way is refused, and what had arrived of it makes room again at once."""
    server = own_server(**{"maxmemory-policy": "noeviction", "maxmemory": "24mb"})
    async with connect(server.url()) as storage:
        with pytest.raises(StoreFull, match="maxmemory"):
            await storage.jobs.enqueue_bulk([EnqueueRequest("work", "x" * 1_000_000) for _ in range(40)])
        await storage.jobs.enqueue(EnqueueRequest("work"))
        assert server.command("--raw", "keys", "*:stage:*") == ""


async def test_a_primary_that_became_a_replica(own_server):
    """W4: a server that may not be written to any more is unavailable, and serves again once it may."""
    server = own_server()
    async with connect(server.url()) as storage:
        await storage.jobs.enqueue(EnqueueRequest("work"))
        server.command("replicaof", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match="replica"):
            await storage.jobs.enqueue(EnqueueRequest("work"))
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1
        server.command("replicaof", "no", "one")
        await storage.jobs.enqueue(EnqueueRequest("work"))
        assert (await storage.jobs.counts())[JobState.QUEUED] == 2


async def test_a_worker_survives_the_server(own_server):
    """W4: a worker whose server dies runs on, shows it, and works again within seconds of its return."""
    server = own_server(appendonly="yes")
    jobs = JobRegistry(server.url(timeout="2"))
    ran = []

    @jobs.register(name="note")
    async def note(number: int) -> None:
        ran.append(number)

    async with jobs:
        await note.enqueue(1)
        loop = WorkerLoop(jobs, WorkerConfig(poll_interval=0.2, grace=5))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop.run)
            await wait_until(lambda: ran == [1], PATIENCE)
            server.kill()
            await wait_until(lambda: not loop.context.is_ready, PATIENCE)
            server.start()
            await wait_until(lambda: bool(loop.context.is_ready), PATIENCE)
            await note.enqueue(2)
            await wait_until(lambda: ran == [1, 2], PATIENCE)
            loop.context.stop()
