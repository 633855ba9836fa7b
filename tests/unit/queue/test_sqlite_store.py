"""What only a file can do: be old, new, foreign, damaged, full, shared, or part of somebody's transaction."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

from workerctx.errors import (
    InvalidRequest,
    JobNotFound,
    SchemaError,
    StoreBusy,
    StoreClosed,
    StoreFull,
    StoreUnavailable,
    Throttled,
)
from workerctx.queue import CompleteLease, EnqueueRequest, JobState, ReleaseLease, Workflow, connect
from workerctx.queue.limits import Granted
from workerctx.queue.sql.enqueueing import Enqueue
from workerctx.queue.sqlite import connection as connection_module
from workerctx.queue.sqlite import line as line_module
from workerctx.queue.sqlite import migrate
from workerctx.queue.sqlite.ear import FALLBACK, _socket_folder
from workerctx.queue.sqlite.schema import MIGRATIONS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


@pytest.fixture
async def storage(path):
    async with connect(f"sqlite:///{path}") as storage:
        yield storage


def _change(path, statement, *parameters):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, parameters)
    connection.close()


def _start(script, path):
    """Start a process that runs a script on the same file."""
    return subprocess.Popen(
        [sys.executable, "-c", script, f"sqlite:///{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# The file ---------------------------------------------------------------------


async def test_opening_twice_is_harmless_and_jobs_stay(path):
    """Q15: the tables are made once; what was stored is there at the next opening."""
    for count in (1, 2):
        async with connect(f"sqlite:///{path}") as storage:
            await storage.jobs.enqueue(EnqueueRequest("a"))
            assert (await storage.jobs.counts())[JobState.QUEUED] == count


def test_many_threads_migrate_at_once(path):
    """Q15: whoever comes at the same time waits for the lock and finds the tables made."""
    barrier = threading.Barrier(8)
    found = []

    def run():
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        barrier.wait()
        found.append(migrate(connection))
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [len(MIGRATIONS)] * 8


async def test_a_newer_schema_is_refused(path, storage):
    """Q15: an older release says that it is older, and touches nothing."""
    _change(path, "UPDATE workerctx_meta SET value = 99 WHERE key = 'schema'")
    with pytest.raises(SchemaError, match="version 99"):
        async with connect(f"sqlite:///{path}"):
            pass


async def test_limits_in_older_tables(path, monkeypatch):
    """Q15, W8: what was used up before a migration stays used up after it."""
    from workerctx.queue.sqlite import schema

    monkeypatch.setattr(schema, "MIGRATIONS", MIGRATIONS[:2])
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection)
    monkeypatch.undo()
    connection.close()
    full, drained = (int((time.time() + seconds) * 1e6) for seconds in (500, 1345))
    _change(path, "INSERT INTO workerctx_namespaces VALUES (1, 'default')")
    add = "INSERT INTO workerctx_rate_limits (ns, scope, capacity, per, tat) VALUES (1, ?, ?, ?, ?)"
    _change(path, add, "x", 1, 500, full)
    _change(path, add, "y", 4, 60, drained)
    async with connect(f"sqlite:///{path}") as storage:
        await storage.rate_limits.configure("x", capacity=2, per=1000)
        assert isinstance(await storage.rate_limits.acquire("x"), Granted)
        assert isinstance(await storage.rate_limits.acquire("x"), Throttled)
        await storage.rate_limits.configure("y", capacity=10, per=1)
        closed = await storage.rate_limits.acquire("y")
        assert isinstance(closed, Throttled)
        assert closed.retry_after == pytest.approx(1300, abs=5)


async def test_a_failing_migration_leaves_nothing(path, monkeypatch):
    """Q15: a migration happens whole or not at all."""
    from workerctx.queue.sqlite import schema

    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE half (x)", "NONSENSE")))
    with pytest.raises(StoreUnavailable):
        async with connect(f"sqlite:///{path}"):
            pass
    monkeypatch.undo()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()
    async with connect(f"sqlite:///{path}") as storage:
        assert await storage.jobs.claim("w") is None


async def test_a_file_that_is_no_database_is_refused(path):
    """A text file is not overwritten; the message says what to do."""
    path.write_text("this is a letter, not a database\n" * 100)
    with pytest.raises(SchemaError, match="not an SQLite database"):
        async with connect(f"sqlite:///{path}"):
            pass
    assert path.read_text().startswith("this is a letter")


async def test_a_damaged_file_is_found_when_it_is_opened(path):
    """Damage is told by quick_check before anything is done."""
    async with connect(f"sqlite:///{path}") as storage:
        await storage.jobs.enqueue_bulk([EnqueueRequest("a", "x" * 500)] * 500)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(20, size // 4096, 3):
            file.seek(page * 4096)
            file.write(os.urandom(2000))
    with pytest.raises(SchemaError, match="damaged"):
        async with connect(f"sqlite:///{path}"):
            pass


async def test_a_missing_folder_and_a_read_only_file_say_so(path, tmp_path):
    """What cannot be opened is named with the remedy."""
    with pytest.raises(StoreUnavailable, match="folder"):
        async with connect(f"sqlite:///{tmp_path}/nowhere/jobs.db"):
            pass


async def test_a_full_disk_reaches_the_caller_with_nothing_half_written(path, storage):
    """A bulk that does not fit fails whole, and the store works on once there is room."""
    writer = storage._writer._hand._engine._connection
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(StoreFull, match="no room left"):
        await storage.jobs.enqueue_bulk([EnqueueRequest("a", "x" * 1000)] * 1000)
    assert sum((await storage.jobs.counts()).values()) == 0
    await storage.jobs.enqueue(EnqueueRequest("small"))
    writer.execute("PRAGMA max_page_count = 1000000")
    await storage.jobs.enqueue_bulk([EnqueueRequest("a", "x" * 1000)] * 1000)
    assert (await storage.jobs.counts())[JobState.QUEUED] == 1001


async def test_tables_that_vanish_are_a_schema_error(path, storage):
    """W4: a store that was damaged while in use says what is missing, on every call, and does not hang."""
    _change(path, "DROP TABLE workerctx_jobs")
    for _ in range(2):
        with pytest.raises(SchemaError, match="missing"):
            await storage.jobs.enqueue(EnqueueRequest("a"))
        with pytest.raises(SchemaError, match="missing"):
            await storage.jobs.get("a")


async def test_a_lock_that_is_held_too_long_is_busy_and_passes(path, monkeypatch):
    """W4: another program that sits on the lock costs a StoreBusy, and afterwards everything works again."""
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 0.05)
    async with connect(f"sqlite:///{path}") as storage:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            await storage.jobs.enqueue(EnqueueRequest("a"))
        assert await storage.jobs.counts()
        other.execute("ROLLBACK")
        other.close()
        assert (await storage.jobs.enqueue(EnqueueRequest("a"))).id


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_is_told_to_open_its_own(storage):
    """L34: the threads of a storage do not survive a fork, and the child is told instead of waiting for them."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            storage._writer.post(None)
        except StoreClosed as exc:
            os.write(write, str(exc).encode())
        os._exit(0)
    os.close(write)
    assert b"forked" in os.read(read, 1000)
    await anyio.to_thread.run_sync(os.waitpid, child, 0)
    os.close(read)


async def test_durable_by_default(path, storage):
    """DESIGN 8: write-ahead log, synchronous=FULL; the URL chooses otherwise."""
    writer = storage._writer._hand._engine._connection
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
    async with connect(f"sqlite:///{path}?synchronous=normal&namespace=fast") as other:
        assert other._writer._hand._engine._connection.execute("PRAGMA synchronous").fetchone() == (1,)


async def test_stored_text_is_readable(path, storage):
    """Q16: payloads and results are JSON text that any tool can read."""
    out = await storage.jobs.enqueue(EnqueueRequest("a", {"name": "Zoë"}))
    _, lease = await storage.jobs.claim("w")
    await storage.jobs.complete(lease.id, ["résumé", None])
    connection = sqlite3.connect(path)
    row = connection.execute("SELECT id, payload, result FROM workerctx_jobs").fetchone()
    connection.close()
    assert row == (out.id, '{"name":"Zoë"}', '["résumé",null]')


# Transactions of callers ------------------------------------------------------


@pytest.fixture
def callers(path, storage):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id INTEGER)")
    yield connection
    connection.close()


async def test_a_job_shares_the_fate_of_the_callers_transaction(storage, callers):
    """Q12: with the caller's commit there is an order and a job; with his rollback there is neither."""
    for outcome in ("rollback", "commit"):
        callers.execute("INSERT INTO orders VALUES (1)")
        out = await storage.jobs.enqueue(EnqueueRequest("ship", unique_key="order-1"), connection=callers)
        await storage.jobs.enqueue_bulk([EnqueueRequest("mail"), EnqueueRequest("bill")], connection=callers)
        with pytest.raises(JobNotFound):
            await storage.jobs.get(out.id)
        getattr(callers, outcome)()
    assert (await storage.jobs.get(out.id)).kind == "ship"
    assert (await storage.jobs.counts())[JobState.QUEUED] == 3
    assert callers.execute("SELECT count(*) FROM orders").fetchone() == (1,)


async def test_a_row_factory_of_the_caller_does_not_matter(storage, callers):
    """Q12: a connection set up for dictionaries works as well."""
    callers.row_factory = lambda cursor, row: dict(zip([c[0] for c in cursor.description], row, strict=True))
    await storage.jobs.enqueue(EnqueueRequest("a", workflow_id="w"), connection=callers)
    callers.commit()
    assert (await storage.jobs.counts())[JobState.QUEUED] == 1


async def test_connections_that_cannot_carry_a_job_are_refused_by_name(storage, callers, tmp_path):
    """Q12: something else, another database, one without tables, and one that commits by itself."""
    with pytest.raises(InvalidRequest, match=r"builtins\.str"):
        await storage.jobs.enqueue(EnqueueRequest("a"), connection="jobs.db")
    elsewhere = sqlite3.connect(tmp_path / "other.db")
    with pytest.raises(SchemaError, match="migrate"):
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=elsewhere)
    migrate(elsewhere)
    with pytest.raises(InvalidRequest, match="another database"):
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=elsewhere)
    elsewhere.close()
    callers.isolation_level = None
    with pytest.raises(InvalidRequest, match="BEGIN"):
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=callers)


async def test_a_store_that_is_not_open_takes_no_jobs_of_callers(path, storage, callers):
    """Q12: before a store was opened and after it was closed a connection carries no job, and its owner is told so."""
    other = connect(f"sqlite:///{path}")
    with pytest.raises(StoreClosed, match="not open"):
        await other.jobs.enqueue(EnqueueRequest("a"), connection=callers)
    async with other:
        await other.jobs.enqueue(EnqueueRequest("a"), connection=callers)
    callers.commit()
    with pytest.raises(StoreClosed, match="not open"):
        await other.jobs.enqueue(EnqueueRequest("a"), connection=callers)
    with pytest.raises(StoreClosed, match="not open"):
        await other.jobs.enqueue_bulk([EnqueueRequest("a")], connection="nonsense")
    assert not callers.in_transaction
    assert (await storage.jobs.counts())[JobState.QUEUED] == 1


async def test_no_event_but_a_wake_up_within_the_fallback(storage, callers):
    """Q12: nothing is published for the caller's transaction; waiters find the job within the fallback interval."""
    async with storage.jobs.subscribe() as events, storage.jobs.wakeups() as wakeups:
        await wakeups.wait(0)
        await storage.jobs.enqueue(EnqueueRequest("a"), connection=callers)
        callers.commit()
        assert await wakeups.wait(FALLBACK * 10)
        with anyio.move_on_after(0.05):
            raise AssertionError(await anext(events))


# Waking up ----------------------------------------------------------------------

PRODUCER = """
import anyio, sys
from workerctx.queue import EnqueueRequest, connect
async def main():
    async with connect(sys.argv[1]) as storage:
        print("open", flush=True)
        sys.stdin.readline()
        out = await storage.jobs.enqueue(EnqueueRequest("a", queue="images"))
        print(out.id, flush=True)
        print(await storage.jobs.result(out.id, timeout=20), flush=True)
anyio.run(main)
"""


async def test_other_processes_are_woken_by_datagram(path, storage):
    """W6: an enqueue elsewhere wakes a worker here, and a result here wakes who waits for it there."""
    with _start(PRODUCER, path) as producer:
        assert await anyio.to_thread.run_sync(producer.stdout.readline) == "open\n"
        async with storage.jobs.wakeups(["images"]) as wakeups, storage.jobs.wakeups(["other"]) as others:
            await wakeups.wait(0)
            producer.stdin.write("\n")
            producer.stdin.flush()
            assert await wakeups.wait(20)
            assert not await others.wait(0)
        job_id = (await anyio.to_thread.run_sync(producer.stdout.readline)).strip()
        job, lease = await storage.jobs.claim("w", queues=["images"])
        assert job.id == job_id
        await storage.jobs.complete(lease.id, {"ok": True})
        assert await anyio.to_thread.run_sync(producer.stdout.readline) == "{'ok': True}\n"


async def test_a_wake_up_between_two_waits_is_not_lost(storage):
    """W6: waiting is level-triggered, and wake() reaches queues by name."""
    async with storage.jobs.wakeups(["a"]) as wakeups:
        await storage.jobs.wake("a")
        assert await wakeups.wait(5)
        await storage.jobs.wake("b")
        assert not await wakeups.wait(0.01)
        await storage.jobs.wake()
        assert await wakeups.wait(5)


async def test_dead_sockets_are_tidied_up(path, storage):
    """DESIGN 8: the socket of a killed process is removed by the next sender; ours goes when we close."""
    import socket

    folder = _socket_folder(path, "default")
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(folder / "dead.sock"))
    dead.close()
    async with storage.jobs.wakeups():
        assert len(list(folder.iterdir())) == 2
        await storage.jobs.enqueue(EnqueueRequest("a"))
        assert len(list(folder.iterdir())) == 1
    storage._hub.close()
    assert not list(folder.iterdir())


async def test_a_waiter_wakes_when_a_delayed_job_is_due(storage):
    """W6: a waiter does not sleep past the next due time, without polling for it."""
    await storage.jobs.enqueue(EnqueueRequest("a", delay=0.2))
    async with storage.jobs.wakeups() as wakeups:
        with anyio.fail_after(10):
            while (claimed := await storage.jobs.claim("w")) is None:
                await wakeups.wait()
    assert claimed[0].kind == "a"


async def test_an_old_and_the_current_lease_of_a_job_in_one_batch(storage):
    """Q1: a finish by an old lease is refused and does not spoil that of the lease which holds the job."""
    await storage.jobs.enqueue(EnqueueRequest("a"))
    _, old = await storage.jobs.claim("w")
    await storage.jobs.release(old.id)
    _, current = await storage.jobs.claim("w")
    for finish in (ReleaseLease, CompleteLease):
        outcomes = await storage.jobs.finish_many([CompleteLease(old.id), finish(current.id), finish(current.id)])
        assert [outcome is None for outcome in outcomes] == [False, True, False]
        claimed = await storage.jobs.claim("w")
        current = claimed[1] if claimed else None
    assert current is None


async def test_a_claim_over_unfit_jobs_hands_out_each_job_once(storage):
    """Q18: where expired jobs stand between others, a claim skips them and repeats none."""
    soon = await storage.now() + 10
    for number in range(10):
        await storage.jobs.enqueue(EnqueueRequest("a", number, expires_at=soon if number % 2 else None))
    await storage.advance(11)
    claimed = await storage.jobs.claim_many("w", limit=8)
    assert [job.payload for job, _ in claimed] == [0, 2, 4, 6, 8]


async def test_a_crowd_that_falls_due_in_one_group_does_not_hide_another(storage):
    """Q18: each group has its share of promotions, so thousands of due jobs do not keep one of another kind away."""
    await storage.jobs.enqueue_bulk([EnqueueRequest("crowd", delay=5)] * 3000)
    await storage.jobs.enqueue(EnqueueRequest("single", delay=6, priority=1))
    await storage.advance(10)
    job, _ = await storage.jobs.claim("w")
    assert job.kind == "single"


# Cancellation and crowds --------------------------------------------------------


async def test_a_cancelled_claim_gives_its_jobs_back(storage):
    """Q2: jobs claimed for a caller who has left are released, without a delivery held against them."""
    await storage.jobs.enqueue_bulk([EnqueueRequest("a")] * 10)
    for _ in range(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: storage.jobs.claim_many("gone", limit=10))
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    with anyio.fail_after(10):
        async with storage.jobs.wakeups() as wakeups:
            while (await storage.jobs.counts())[JobState.QUEUED] < 10:
                await wakeups.wait(0.05)
    page = await storage.jobs.list()
    assert {(job.attempt, job.deliveries) for job in page.jobs} == {(0, 0)}


async def test_single_calls_of_many_tasks_share_transactions(storage):
    """DESIGN 6: what many tasks ask for at once is merged, and each gets its own answer."""
    claimed: list[str] = []

    async def cycle(number):
        await storage.jobs.enqueue(EnqueueRequest("a", number, unique_key=f"key{number % 20}"))
        mine = await storage.jobs.claim(f"w{number}")
        if mine is not None:
            assert mine[1].worker_id == f"w{number}"
            claimed.append(mine[0].id)
            await storage.jobs.complete(mine[1].id, number)

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(cycle, number)
    assert len(claimed) == len(set(claimed)) >= 20
    with pytest.raises(JobNotFound):
        await storage.jobs.get("nobody")


async def test_what_one_call_was_merged_with_is_no_parent_of_another(storage):
    """Q8: the id of a request that was deduped names no job to others, also if they are in the same transaction."""
    await storage.jobs.enqueue(EnqueueRequest("a", job_id="holder", unique_key="k"))
    requests = [EnqueueRequest("a", job_id="free", unique_key="k"), EnqueueRequest("a", depends_on=["free"])]
    deduped, refused = await storage._writer.call(lambda tx: Enqueue.together(tx, requests))
    assert deduped.deduped
    assert isinstance(refused, InvalidRequest)


CROWD = """
import anyio, sys
from workerctx.queue import CompleteLease, EnqueueRequest, connect
async def main():
    async with connect(sys.argv[1]) as storage:
        for turn in range(30):
            await storage.jobs.enqueue_bulk([EnqueueRequest("a")] * 5)
            claimed = await storage.jobs.claim_many("w", limit=10)
            for job, lease in claimed:
                print(job.id)
            outcomes = await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
            assert not any(outcomes), outcomes
anyio.run(main)
"""


async def test_many_processes_on_one_file_share_without_a_locked_error(path, storage):
    """Q1: four processes enqueue and claim at once; each job runs once and nobody sees a lock."""
    crowd = [_start(CROWD, path) for _ in range(4)]
    ran: list[str] = []
    for process in crowd:
        out, err = await anyio.to_thread.run_sync(process.communicate)
        assert process.returncode == 0, err
        ran += out.split()
    while claimed := await storage.jobs.claim_many("last"):
        ran += [job.id for job, _ in claimed]
        await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
    assert len(ran) == len(set(ran)) == 4 * 30 * 5


async def test_a_busy_event_loop_does_not_hold_up_a_flush(storage):
    """W5: a batch needs few trips through the interpreter lock, so a loop that is busy computing delays it little."""
    await storage.jobs.enqueue_bulk([EnqueueRequest("a")] * 1000)
    statements = []
    writer = storage._writer._hand._engine._connection
    writer.set_trace_callback(statements.append)
    claimed = await storage.jobs.claim_many("w", limit=500)
    await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
    writer.set_trace_callback(None)
    assert len(claimed) == 500
    assert len(statements) < 40


async def test_a_graph_of_ten_thousand_jobs(storage):
    """A chain, a fan-out and a fan-in of thousands are added in one transaction and come to their end."""
    flow = Workflow()
    flow.add("root", EnqueueRequest("a"))
    for number in range(9_998):
        flow.add(f"leaf{number}", EnqueueRequest("a"), after="root")
    flow.add("end", EnqueueRequest("a"), after=[f"leaf{number}" for number in range(9_998)])
    outcomes = await flow.enqueue(storage.jobs)
    while claimed := await storage.jobs.claim_many("w", limit=5_000):
        await storage.jobs.finish_many([CompleteLease.of(lease.id, 1) for _, lease in claimed])
    end = await storage.jobs.get(outcomes["end"].id)
    assert end.state is JobState.SUCCEEDED
    assert len(end.upstream_outputs) == 9_998


async def test_prune_keeps_what_somebody_waits_for(storage):
    """Pruning removes finished jobs in small steps, but not the outputs that a blocked job will be given."""
    parent = await storage.jobs.enqueue(EnqueueRequest("parent"))
    other = await storage.jobs.enqueue(EnqueueRequest("other", delay=1000))
    child = await storage.jobs.enqueue(EnqueueRequest("child", depends_on=[parent.id, other.id]))
    await storage.jobs.enqueue_bulk([EnqueueRequest("parent")] * 2500)
    while claimed := await storage.jobs.claim_many("w", limit=1000, kinds=["parent"]):
        await storage.jobs.finish_many([CompleteLease.of(lease.id, "out") for _, lease in claimed])
    await storage.advance(100)
    assert await storage.jobs.prune(50) == 2500
    assert (await storage.jobs.get(parent.id)).result == "out"
    await storage.advance(1000)
    _, lease = await storage.jobs.claim("w")
    await storage.jobs.complete(lease.id)
    job, lease = await storage.jobs.claim("w")
    assert (job.id, job.upstream_outputs) == (child.id, {parent.id: "out", other.id: None})
    await storage.jobs.complete(lease.id)
    await storage.advance(100)
    assert await storage.jobs.prune(50) == 3


async def test_the_renewer_works_while_the_event_loop_is_blocked(storage):
    """W5: leases are renewed from a thread with a connection of its own, whatever the loop does."""
    await storage.jobs.enqueue(EnqueueRequest("a"))
    _, lease = await storage.jobs.claim("w", lease_ttl=1.0)
    stop = threading.Event()
    lost: list[str] = []

    def renew():
        with storage.open_renewer() as renewer:
            while not stop.wait(0.05):
                lost.extend(renewer.renew([lease.id], 1.0).lost)

    thread = threading.Thread(target=renew)
    thread.start()
    time.sleep(1.4)  # noqa: ASYNC251 - the loop is blocked on purpose
    stop.set()
    thread.join()
    assert not lost
    await storage.jobs.complete(lease.id)


def test_paths(tmp_path, monkeypatch):
    """Three slashes are relative, four absolute, and blanks may be escaped."""
    monkeypatch.chdir(tmp_path)
    assert connect("sqlite:///a%20b.db")._database.path == Path("a b.db")
    assert connect("sqlite:////var/x.db")._database.path == Path("/var/x.db")
    with pytest.raises(InvalidRequest, match="memory://"):
        connect("sqlite:///:memory:")


async def test_a_file_that_was_replaced_is_noticed(storage, path, tmp_path):
    """W4: nothing is written to a file that was moved away; a backup in its place is served, another store is not."""

    async def counted() -> int:
        return (await storage.jobs.counts())[JobState.QUEUED]

    def replace_by(other):
        for found in tmp_path.glob("jobs.db*"):
            found.rename(tmp_path / f"{other.name}-{found.name}")
        other.rename(path)

    await storage.jobs.enqueue(EnqueueRequest("kind"))
    backup = sqlite3.connect(tmp_path / "backup")
    source = sqlite3.connect(path)
    source.backup(backup)
    backup.close()
    source.close()
    async with connect(f"sqlite:///{tmp_path}/another"):
        pass
    await storage.jobs.enqueue(EnqueueRequest("kind"))

    replace_by(tmp_path / "backup")
    for call in (storage.jobs.enqueue(EnqueueRequest("kind")), counted()):
        with pytest.raises(StoreUnavailable, match="was replaced"):
            await call
    assert await counted() == 1
    with storage.open_renewer() as renewer:
        renewer.renew([], 1)
        replace_by(tmp_path / "another")
        with pytest.raises(StoreUnavailable, match="was replaced"):
            renewer.renew([], 1)
        with pytest.raises(StoreUnavailable, match="holds another store than before"):
            renewer.renew([], 1)
    path.unlink()
    with pytest.raises(StoreUnavailable, match="cannot find"):
        await counted()
    with pytest.raises(StoreUnavailable, match="cannot open"):
        await counted()
    assert not path.exists()


def test_a_new_file_that_somebody_has_locked_is_waited_for(path, monkeypatch):
    """Q15: of several processes that begin with a new file at the same time, none fails."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        holder.execute("COMMIT")

    monkeypatch.setattr(line_module.time, "sleep", pause)
    connection_module.Database(path).prepare()
    assert len(pauses) == 1
    holder.close()
