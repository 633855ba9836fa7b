"""What happens to servers and connections, and that a store is as good as before once they are back."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager

import anyio
import psycopg
import pytest

from workerctx.errors import StoreBusy, StoreUnavailable
from workerctx.queue import EnqueueRequest, JobState, connect, new_id

BACKENDS = "FROM pg_stat_activity WHERE application_name = 'workerctx' AND pid <> pg_backend_pid()"


@pytest.fixture
def place(postgres_url):
    """What psycopg needs to know of the shared database."""
    return postgres_url().partition("&namespace=")[0]


@pytest.fixture
async def storage(own_postgres):
    """An open store on a server that may be killed; it is impatient."""
    async with connect(f"{own_postgres.url}&timeout=1&namespace={new_id()}") as storage:
        yield storage


async def heals(call):
    """Return whether a call does what it should, which it does once the store is back."""
    try:
        await call()
    except StoreUnavailable:
        return False
    return True


@contextmanager
def busy_table(url):
    """Hold the table of jobs, so that nobody else can even look at it."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE workerctx_jobs IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()


async def test_a_server_that_is_killed_and_started_again(storage, own_postgres, eventually):
    """Q2, W4: what was committed survives a kill of the server; meanwhile calls fail fast, then all is as before."""
    kept = await storage.jobs.enqueue(EnqueueRequest("a"))
    _, lease = await storage.jobs.claim("w")
    own_postgres.kill()
    with anyio.fail_after(5), pytest.raises(StoreUnavailable):
        await storage.jobs.enqueue(EnqueueRequest("a"))
    with anyio.fail_after(5), pytest.raises(StoreUnavailable, match="cannot connect"):
        await storage.jobs.get(kept.id)
    own_postgres.start()
    await eventually(lambda: heals(storage.now))
    assert (await storage.jobs.get(kept.id)).state is JobState.RUNNING
    await eventually(lambda: heals(lambda: storage.jobs.complete(lease.id)))
    assert (await storage.jobs.get(kept.id)).state is JobState.SUCCEEDED


async def test_waiters_survive_a_restart(storage, own_postgres, eventually):
    """W6: who listened before a restart is woken after it, in case something was missed, and hears the next commit."""
    async with storage.jobs.wakeups() as ours, connect(storage.url) as other, other.jobs.wakeups() as theirs:
        assert not await ours.wait(0)
        own_postgres.kill()
        own_postgres.start()
        assert await ours.wait(20)
        assert await theirs.wait(20)
        await eventually(lambda: heals(lambda: storage.jobs.enqueue(EnqueueRequest("a"))))
        assert await theirs.wait(20)


async def test_killed_backends_are_not_noticed(postgres_url, place):
    """W4: connections that the server ended while they were idle are replaced without an error."""
    async with connect(postgres_url()) as storage:
        for _ in range(3):
            with psycopg.connect(place) as connection:
                connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {BACKENDS}")
            job = await storage.jobs.enqueue(EnqueueRequest("a"))
            assert (await storage.jobs.get(job.id)).state is JobState.QUEUED
        with storage.open_renewer() as renewer:
            job, lease = await storage.jobs.claim("w")
            with psycopg.connect(place) as connection:
                connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {BACKENDS}")
            with pytest.raises(StoreUnavailable):
                renewer.renew([lease.id], 30)
            assert renewer.renew([lease.id], 30).lost == ()


async def test_a_standby_refuses_and_heals(storage, own_postgres, eventually):
    """W4: a server that may only be read says so; once it may be written again, it is."""
    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        with anyio.fail_after(20), pytest.raises(StoreUnavailable, match="may only be read, as a standby"):
            while True:
                await storage.jobs.enqueue(EnqueueRequest("a"))
        await storage.jobs.counts()
        connection.execute("SET transaction_read_only = off")
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        connection.execute("SELECT pg_reload_conf()")
        await eventually(lambda: heals(lambda: storage.jobs.enqueue(EnqueueRequest("a"))))


async def test_a_statement_that_takes_too_long(storage, own_postgres):
    """W3: a statement is given up after the timeout of the URL, with nothing written, and the next one works."""
    with busy_table(own_postgres.url), anyio.fail_after(10):
        with pytest.raises(StoreBusy, match="did not do it within 1 s"):
            await storage.jobs.enqueue(EnqueueRequest("a"))
        with pytest.raises(StoreBusy):
            await storage.jobs.counts()
    await storage.jobs.enqueue(EnqueueRequest("a"))
    assert (await storage.jobs.counts())[JobState.QUEUED] == 1


async def test_a_server_that_stands_still(storage, own_postgres, eventually):
    """W3: a call on a server that does not answer can be abandoned; each is given up after a few times the timeout."""
    await storage.jobs.enqueue(EnqueueRequest("a"))
    own_postgres.signal(signal.SIGSTOP)
    thaw = threading.Timer(15, own_postgres.signal, [signal.SIGCONT])
    thaw.start()
    try:
        with anyio.move_on_after(0.1) as abandoned:
            await storage.jobs.counts()
        assert abandoned.cancelled_caught
        with anyio.fail_after(14), pytest.raises(StoreUnavailable, match="did not answer within 2 s"):
            await storage.jobs.claim("w")
    finally:
        thaw.cancel()
        own_postgres.signal(signal.SIGCONT)
    await eventually(lambda: heals(storage.jobs.counts))
    assert (await storage.jobs.counts())[JobState.QUEUED] == 1


async def test_connections_that_are_reset(own_postgres, proxy_of):
    """W4: connections that the network resets are replaced; those that cannot be opened are an error at once."""
    proxy = proxy_of(own_postgres.socket)
    url = f"postgresql://postgres@{proxy.host}:{proxy.port}/postgres?timeout=2&namespace={new_id()}"
    async with connect(url) as storage:
        await storage.jobs.enqueue(EnqueueRequest("a"))
        proxy.cut()
        await storage.jobs.enqueue(EnqueueRequest("a"))
        proxy.cut()
        assert (await storage.jobs.counts())[JobState.QUEUED] == 2
        with proxy.refusing(), anyio.fail_after(10), pytest.raises(StoreUnavailable, match="cannot connect"):
            await storage.jobs.enqueue(EnqueueRequest("a"))
        assert len(await storage.jobs.claim_many("w")) == 2


async def test_fifty_connections_on_the_same_jobs(postgres_url):
    """Q1: claims of fifty connections at the same time share the jobs, each once, and nobody starves or deadlocks."""
    url = postgres_url()
    held = []

    async def work(number):
        async with connect(url) as storage:
            while claimed := await storage.jobs.claim_many(f"w{number}", limit=7, queues=["a", "b"]):
                held.extend((job.id, lease.id) for job, lease in claimed)
                await storage.jobs.finish_many([])
                await storage.jobs.enqueue(EnqueueRequest("once", queue="done", unique_key="the-only"))

    async with connect(url) as storage:
        await storage.jobs.enqueue_bulk([EnqueueRequest("x", queue="ab"[n % 2]) for n in range(500)])
        async with anyio.create_task_group() as tasks:
            for number in range(25):
                tasks.start_soon(work, number)
        assert len(held) == len({job for job, _ in held}) == 500
        counts = await storage.jobs.counts()
        assert (counts[JobState.RUNNING], counts[JobState.QUEUED]) == (500, 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_opening_that_is_cancelled_natively(own_postgres, eventually, opened_again):
    """Q15: what asyncio.timeout leaves behind closes itself, and the same storage can be opened again."""
    storage = connect(f"{own_postgres.url}&namespace={new_id()}")
    async with connect(own_postgres.url):
        pass  # the tables are there

    def stores_threads():
        return sum(thread.name.startswith("workerctx-postgres") for thread in threading.enumerate())

    before = stores_threads()
    with psycopg.connect(own_postgres.url) as other, psycopg.connect(own_postgres.url, autocommit=True) as looking:
        other.execute("LOCK TABLE workerctx_namespaces IN ACCESS EXCLUSIVE MODE")

        def backends():
            return looking.execute(f"SELECT count(*) {BACKENDS}").fetchone()[0]

        opening = asyncio.create_task(storage.__aenter__())
        await eventually(lambda: backends() == 1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        other.rollback()
        await eventually(lambda: backends() == 0)
        await eventually(lambda: stores_threads() == before)
    async with opened_again(storage):
        await storage.jobs.enqueue(EnqueueRequest("a"))
