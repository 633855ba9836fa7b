"""Enqueueing in the transaction of whoever calls."""

from __future__ import annotations

import asyncio

import anyio
import psycopg
import pytest
import sqlalchemy
from psycopg.pq import TransactionStatus
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from workerctx.errors import InvalidRequest, SchemaError, StoreClosed
from workerctx.queue import EnqueueRequest, JobState, connect
from workerctx.testing import wait_until


@pytest.fixture
async def storage(postgres_url):
    """An open store."""
    async with connect(postgres_url()) as storage:
        yield storage


@pytest.fixture
def place(postgres_url):
    """What psycopg needs to know of the database."""
    return postgres_url().partition("&namespace=")[0]


async def states(storage):
    return {state: count for state, count in (await storage.jobs.counts()).items() if count}


async def test_a_job_shares_the_fate_of_a_transaction(storage, place):
    """Q12: a job is there once its caller commits, and never if he rolls back."""
    with psycopg.connect(place) as connection:
        kept = await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        assert await states(storage) == {}
        connection.commit()
        assert (await storage.jobs.get(kept.id)).state is JobState.QUEUED
        await storage.jobs.enqueue_bulk([EnqueueRequest("a")] * 3, connection=connection)
        connection.rollback()
        assert await states(storage) == {JobState.QUEUED: 1}


async def test_a_transaction_block_of_an_autocommit_connection(storage, place):
    """Q12: a connection that commits by itself is accepted within a transaction block only."""
    with psycopg.connect(place, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        with pytest.raises(InvalidRequest, match="commits by itself"):
            await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        with connection.transaction():
            await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        assert await states(storage) == {JobState.QUEUED: 1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_asynchronous_connection(storage, place):
    """Q12: psycopg's asynchronous connections carry jobs, too; the event loop goes on meanwhile."""
    async with await psycopg.AsyncConnection.connect(place) as connection:
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        await connection.rollback()
        await storage.jobs.enqueue(EnqueueRequest("b", unique_key="k"), connection=connection)
        assert (await storage.jobs.enqueue(EnqueueRequest("b", unique_key="k"), connection=connection)).deduped
        await connection.commit()
    assert [job.kind for job in (await storage.jobs.list()).jobs] == ["b"]


async def test_sqlalchemy(storage, place):
    """Q12: SQLAlchemy's connections and sessions carry jobs, committed the way that SQLAlchemy commits."""
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(place))
    with engine.connect() as connection:
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        connection.commit()
    with Session(engine) as session:
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=session)
        session.rollback()
    with Session(engine) as session, session.begin():
        session.execute(sqlalchemy.text("SELECT 1"))
        await storage.jobs.enqueue(EnqueueRequest("b"), connection=session)
    assert sorted(job.kind for job in (await storage.jobs.list()).jobs) == ["a", "b"]
    engine.dispose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_tasks_on_one_connection(storage, place):
    """Q12: tasks that share an asynchronous connection enqueue in turn; one that is refused spares the others."""
    added = []

    async def enqueue(number):
        if number % 3:
            added.append((await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)).id)
            return
        with pytest.raises(InvalidRequest, match="no job 'nobody'"):
            await storage.jobs.enqueue(EnqueueRequest("a", depends_on=["nobody"]), connection=connection)

    async with await psycopg.AsyncConnection.connect(place) as connection:
        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(enqueue, number)
        await connection.commit()
    assert sorted(job.id for job in (await storage.jobs.list()).jobs) == sorted(added)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestCancelledMeanwhile:
    """Q12: a cancellation waits for what has begun on the caller's connection, which is his again then."""

    @pytest.fixture
    async def blocker(self, place):
        """Somebody else has locked the jobs; calling it waits until an enqueueing waits for him."""
        async with (
            await psycopg.AsyncConnection.connect(place) as other,
            await psycopg.AsyncConnection.connect(place, autocommit=True) as looking,
        ):
            await other.execute("LOCK TABLE workerctx_jobs IN ACCESS EXCLUSIVE MODE")
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'workerctx_jobs'::regclass AND NOT granted"

            async def is_waiting():
                return (await (await looking.execute(waiting)).fetchone())[0] > 0

            async def blocks():
                await wait_until(is_waiting)
                return other

            yield blocks

    async def test_natively(self, storage, place, blocker):
        """As asyncio.timeout and task.cancel() do it: what the owner rolled back never is there."""
        ended = []

        async def work():
            async with connection.transaction():
                await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
                ended.append("enqueued")

        async with await psycopg.AsyncConnection.connect(place, autocommit=True) as connection:
            task = asyncio.create_task(work())
            other = await blocker()
            task.cancel()
            await asyncio.wait([task], timeout=0)
            await other.rollback()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert connection.info.transaction_status is TransactionStatus.IDLE
            await connection.execute("SELECT 1")
        assert ended == []
        assert await states(storage) == {}

    async def test_by_a_scope(self, storage, place, blocker):
        """As anyio does it: the connection stays open, and what was enqueued counts if its owner commits."""
        async with await psycopg.AsyncConnection.connect(place) as connection:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel():
                        other = await blocker()
                        scope.cancel()
                        with anyio.CancelScope(shield=True):
                            await other.rollback()

                    tasks.start_soon(cancel)
                    await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
                    await anyio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            await connection.commit()
        assert await states(storage) == {JobState.QUEUED: 1}


async def test_a_store_that_is_not_open(postgres_url, place):
    """Q12: nothing is written through a store before it is opened, or after it was closed."""
    storage = connect(postgres_url())
    with psycopg.connect(place) as connection:
        with pytest.raises(StoreClosed):
            await storage.jobs.enqueue(EnqueueRequest("new kind"), connection=connection)
        async with storage:
            pass
        with pytest.raises(StoreClosed):
            await storage.jobs.enqueue(EnqueueRequest("new kind"), connection=connection)
        assert connection.info.transaction_status is TransactionStatus.IDLE


class OwnSession(Session):
    """A session that some other package made of SQLAlchemy's, as SQLModel does."""


async def test_a_session_of_another_package(storage, place):
    """Q12: what another package derived from a session of SQLAlchemy carries jobs as that does."""
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(place))
    with OwnSession(engine) as session:
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=session)
        session.commit()
    assert await states(storage) == {JobState.QUEUED: 1}
    engine.dispose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_asynchronous_session(storage, place):
    """Q12: SQLAlchemy's asynchronous sessions and connections, which live on asyncio, carry jobs or roll them back."""
    engine = create_async_engine("postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(place))
    async with AsyncSession(engine) as session:
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=session)
        await session.commit()
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=session)
        await session.rollback()
    async with engine.connect() as connection:
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        await connection.commit()
    assert await states(storage) == {JobState.QUEUED: 2}
    await engine.dispose()


async def test_a_connection_that_knows_fewer_letters(storage, place):
    """Q13: a text that the caller's connection cannot send is refused, and his transaction goes on."""
    with psycopg.connect(place, client_encoding="LATIN1") as connection:
        with pytest.raises(InvalidRequest, match="latin-1"):
            await storage.jobs.enqueue(EnqueueRequest("a", "☃"), connection=connection)
        await storage.jobs.enqueue(EnqueueRequest("a", "ü"), connection=connection)
    assert [job.payload_json for job in (await storage.jobs.list()).jobs] == ['"ü"'.encode()]


async def test_what_cannot_carry_a_job_is_refused_by_name(storage, place, own_postgres):
    """Q12: anything but a usable connection to this very store is refused in a sentence; the transaction goes on."""
    with pytest.raises(InvalidRequest, match=r"cannot enqueue through .*str: pass a psycopg connection"):
        await storage.jobs.enqueue(EnqueueRequest("a"), connection="nonsense")
    connection = psycopg.connect(place)
    with connection, pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0")
    with pytest.raises(InvalidRequest, match="closed"):
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
    with psycopg.connect(place) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        with pytest.raises(InvalidRequest, match="has failed: roll it back"):
            await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        connection.rollback()
        connection.execute("CREATE TEMPORARY TABLE mine (x int)")
        with pytest.raises(InvalidRequest, match="no job 'nobody' to depend on"):
            await storage.jobs.enqueue(EnqueueRequest("a", depends_on=["nobody"]), connection=connection)
        assert connection.execute("SELECT count(*) FROM mine").fetchone() == (0,)
    with psycopg.connect(own_postgres.url) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.commit()
        with pytest.raises(SchemaError, match=r"no job tables.*workerctx_postgres.migrate\(connection"):
            await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
        connection.execute("CREATE SCHEMA public")
        connection.commit()
        async with connect(own_postgres.url):
            pass
        with pytest.raises(InvalidRequest, match="to another database than this store"):
            await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)


async def test_a_commit_wakes_workers_and_tells_no_event(storage, place, postgres_url):
    """Q12: workers, also those of the same Storage, are woken by the caller's commit; no Ready event is published."""
    async with (
        connect(storage.url) as other,
        storage.jobs.subscribe() as events,
        storage.jobs.wakeups() as ours,
        other.jobs.wakeups(["default"]) as theirs,
    ):
        with psycopg.connect(place) as connection:
            await storage.jobs.enqueue(EnqueueRequest("a"), connection=connection)
            assert not await ours.wait(0.05)
            connection.commit()
            assert await ours.wait(10)
            assert await theirs.wait(10)
        with anyio.move_on_after(0.05):
            pytest.fail(f"there was an event: {await anext(events)}")


async def test_two_transactions_with_one_unique_key(storage, place, eventually):
    """Q8: of two transactions with one key the second waits for the first, and gets its job."""
    outcomes = []

    with psycopg.connect(place) as first, psycopg.connect(place) as second:
        outcomes.append(await storage.jobs.enqueue(EnqueueRequest("a", unique_key="k"), connection=first))

        def enqueue_second() -> None:
            anyio.run(go)

        async def go() -> None:
            async with connect(storage.url) as again:
                outcomes.append(await again.jobs.enqueue(EnqueueRequest("a", unique_key="k"), connection=second))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, enqueue_second)
            await eventually(lambda: _somebody_waits(place))
            first.commit()
        second.commit()
    assert outcomes[1] == type(outcomes[0])(outcomes[0].id, deduped=True)
    assert await states(storage) == {JobState.QUEUED: 1}


def _somebody_waits(place):
    with psycopg.connect(place) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'"
        return connection.execute(query).fetchone()[0] > 0
