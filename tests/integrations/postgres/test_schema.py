"""The tables: how they are made and moved on, and which role may do what."""

from __future__ import annotations

import random
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import anyio
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from workerctx.errors import InvalidRequest, SchemaError, Throttled, UnknownBackend
from workerctx.queue import EnqueueRequest, JobState, connect, new_id
from workerctx.queue.limits import Granted
from workerctx_postgres import grants, migrate
from workerctx_postgres._schema import MIGRATIONS


@pytest.fixture
def place(postgres_url):
    """What psycopg needs to know of the database."""
    return postgres_url().partition("&namespace=")[0]


@pytest.fixture
def schema():
    """A schema that nobody has made yet, with a name that wants quotes."""
    return f'Jobs "{new_id()[-8:]}"'


async def test_a_schema_is_made_when_it_is_opened(place, schema):
    """Q15: the tables come to be at the first opening, in the schema of the URL; twice is harmless."""
    for count in (1, 2):
        async with connect(f"{place}&schema={quote(schema)}") as storage:
            await storage.jobs.enqueue(EnqueueRequest("a"))
            assert (await storage.jobs.counts())[JobState.QUEUED] == count
    with psycopg.connect(place) as connection:
        assert migrate(connection, schema=schema) == len(MIGRATIONS)


def test_many_migrate_at_once(place, schema):
    """Q15: processes that start together make the tables once."""

    def make(_):
        with psycopg.connect(place) as connection:
            return migrate(connection, schema=schema)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(make, range(8))) == {len(MIGRATIONS)}


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_a_role_that_prefers_another_isolation(place, schema, level):
    """Q15: processes that start together make the tables once, whatever isolation their role prefers."""
    role = f"strict_{new_id()[-8:]}"
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} SUPERUSER LOGIN")
        connection.execute(f"ALTER ROLE {role} SET default_transaction_isolation = '{level}'")
    url = f"{place}&schema={quote(schema)}&user={role}"

    async def use():
        async with connect(url) as storage:
            await storage.jobs.enqueue(EnqueueRequest("a"))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(use)
    async with connect(url) as storage:
        assert (await storage.jobs.counts())[JobState.QUEUED] == 6


async def test_encodings_of_others(place, monkeypatch):
    """Q16: texts are kept as they are, also in a database that knows no encoding, and whatever the environment says."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    name = f"plain_{new_id()[-8:]}"
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING SQL_ASCII TEMPLATE template0 LOCALE 'C'")
        try:
            async with connect(f"{place}&dbname={name}") as storage:
                await storage.jobs.enqueue(EnqueueRequest("grüß", "☃\0", queue="😀"))
                job, lease = await storage.jobs.claim("w", queues=["😀"])
                await storage.jobs.complete(lease.id, "☂")
                done = await storage.jobs.get(job.id)
            assert (done.kind, done.payload_json, done.result_json) == ("grüß", '"☃\\u0000"'.encode(), '"☂"'.encode())
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_names_that_no_index_can_hold(place):
    """Q13: labels that are too long together are the caller's mistake, and no failure of the server."""
    labels = ["".join(chr(ord("a") + random.randrange(26)) for _ in range(255)) for _ in range(30)]
    async with connect(f"{place}&namespace={new_id()[-12:]}") as storage:
        with pytest.raises(InvalidRequest, match="too long for an index"):
            await storage.jobs.enqueue(EnqueueRequest("a", required_labels=labels))
        assert not any((await storage.jobs.counts()).values())


async def test_a_newer_schema_is_refused(place, schema):
    """Q15: an older release does not touch the tables of a newer one, and says so."""
    with psycopg.connect(place) as connection:
        migrate(connection, schema=schema)
        connection.execute(
            psycopg.sql.SQL("UPDATE {}.workerctx_meta SET value = '99' WHERE key = 'schema'").format(
                psycopg.sql.Identifier(schema)
            )
        )
    with pytest.raises(SchemaError, match=f"schema version 99 and this release knows up to {len(MIGRATIONS)}: upgrade"):
        async with connect(f"{place}&schema={quote(schema)}"):
            pass


async def test_limits_in_older_tables(place, schema, monkeypatch):
    """Q15, W8: what was used up before a migration stays used up after it, and who was drained stays closed."""
    monkeypatch.setattr("workerctx_postgres._schema.MIGRATIONS", MIGRATIONS[:2])
    add = SQL("INSERT INTO {}.workerctx_rate_limits (ns, scope, capacity, per, tat) VALUES (1, %s, %s, %s, %s)")
    with psycopg.connect(place) as connection:
        migrate(connection, schema=schema)
        connection.execute(
            SQL("INSERT INTO {}.workerctx_namespaces (name) VALUES ('default')").format(Identifier(schema))
        )
        for scope, capacity, per, full in (("used", 1, 500, 500), ("drained", 4, 60, 1345)):
            tat = int((time.time() + full) * 1e6)
            connection.execute(add.format(Identifier(schema)), (scope, capacity, per, tat))
    monkeypatch.undo()
    async with connect(f"{place}&schema={quote(schema)}&namespace=default") as storage:
        await storage.rate_limits.configure("used", capacity=2, per=1000)
        assert isinstance(await storage.rate_limits.acquire("used"), Granted)
        assert isinstance(await storage.rate_limits.acquire("used"), Throttled)
        await storage.rate_limits.configure("drained", capacity=10, per=1)
        closed = await storage.rate_limits.acquire("drained")
        assert isinstance(closed, Throttled)
        assert closed.retry_after == pytest.approx(1300, abs=5)


async def test_a_role_with_few_rights(place, schema):
    """A role with the documented grants works with jobs; it cannot make tables, and is told who can."""
    role = f"app_{new_id()[-12:]}"
    with psycopg.connect(place) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    url = f"{place.replace('postgres@', f'{role}:secret@')}&schema={quote(schema)}"
    with pytest.raises(SchemaError, match="this role may not make them: run workerctx migrate as their owner"):
        async with connect(url):
            pass
    with psycopg.connect(place) as connection:
        migrate(connection, schema=schema)
    with pytest.raises(SchemaError, match=r"grant what workerctx_postgres\.grants"):
        async with connect(url):
            pass
    with psycopg.connect(place) as connection:
        for statement in grants(role, schema=schema):
            connection.execute(statement)
    async with connect(url) as storage:
        await storage.jobs.enqueue(EnqueueRequest("a", unique_key="k"))
        _, lease = await storage.jobs.claim("w")
        await storage.jobs.complete(lease.id)
        await storage.rate_limits.configure("s", capacity=1, per=1)
        await storage.rate_limits.acquire("s")
        await storage.jobs.pause_queue("default")
        assert await storage.jobs.prune(0) == 1
        with pytest.raises(SchemaError, match="permission denied"):
            await storage.advance(1)
        assert "secret" not in repr(storage)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("nosuch=1", 'invalid connection option "nosuch"'),
        ("schema=", "is no name of a PostgreSQL schema"),
        ("schema=pg_jobs", "begin with pg_"),
        ("schema=a%25b", "is no name of a PostgreSQL schema"),
        ("schema=a%3Fb", "is no name of a PostgreSQL schema"),
        ("schema=a'b", "is no name of a PostgreSQL schema"),
        ("timeout=soon", "timeout='soon' is no number of seconds"),
        ("timeout=-1", "a statement needs more than 0 seconds"),
        ("timeout=nan", "a statement needs more than 0 seconds"),
        ("timeout=inf", "a statement needs more than 0 seconds"),
        ("timeout=1e9", "and at most 1000000 are possible"),
        ("pooled=perhaps", "write yes or no"),
    ],
)
def test_options_that_make_no_sense(option, sentence):
    """Q13: an option of the URL that is not known, or whose value makes no sense, is refused in a sentence."""
    with pytest.raises(InvalidRequest, match=sentence):
        connect(f"postgresql://localhost/jobs?{option}")


@pytest.mark.parametrize("mark", ["%zz", "/", "#"])
def test_a_password_that_is_not_encoded(mark):
    """Q13: a password with a mark that means something in a URL is refused, and not repeated."""
    with pytest.raises(InvalidRequest) as refused:
        connect(f"postgresql://user:se{mark}cret@localhost/jobs")
    assert f"se{mark}" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("port", ["nine", "0", "70000"])
def test_a_port_that_is_none(port):
    """Q13: it is refused where it was written; only a server that may come back is waited for."""
    for url in (f"postgresql://localhost/jobs?port={port}", f"postgresql://localhost:{port}/jobs"):
        with pytest.raises(InvalidRequest):
            connect(url)


async def test_a_url_without_a_host(place):
    """A socket is named by the options alone, as libpq likes it; what is shown of the URL leads there too."""
    url = place.replace("//postgres@/", "///") + f"&user=postgres&password=a%26b&namespace={new_id()[-12:]}"
    assert ":///" in url
    async with connect(url) as storage:
        await storage.jobs.enqueue(EnqueueRequest("a"))
        assert storage.url.startswith("postgresql:///postgres?")
        assert "a%26b" not in storage.url
        async with connect(storage.url) as same:
            assert (await same.jobs.counts())[JobState.QUEUED] == 1


def test_the_extra_is_named(monkeypatch):
    """Q13: without psycopg a URL of PostgreSQL says what to install."""
    import sys
    from importlib import util

    for name in [name for name in sys.modules if name.partition(".")[0] == "workerctx_postgres"]:
        monkeypatch.delitem(sys.modules, name)
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *a: None if name == "psycopg" else real(name, *a))
    with pytest.raises(UnknownBackend, match=r"pip install 'workerctx\[postgres\]'"):
        connect("postgres://localhost/jobs")


async def test_behind_a_pooler(place):
    """A pooled connection gets neither settings nor prepared statements; notifications come past the pooler."""
    url = f"{place}&namespace={new_id()[-12:]}&pooled=yes&listen={quote(place)}"
    async with connect(url) as storage, connect(url) as other, other.jobs.wakeups() as wakeups:
        for _ in range(10):
            await storage.jobs.enqueue(EnqueueRequest("a"))
        assert await wakeups.wait(10)
        with psycopg.connect(place) as connection:
            seen = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        assert seen == (0,)
        assert len(await storage.jobs.claim_many("w")) == 10


def test_the_command_migrates(place, schema, monkeypatch, capsys):
    """Q15: workerctx migrate plans, prints and applies; what it prints can be run by the owner of the database."""
    from workerctx.cli import app

    url = f"{place}&schema={quote(schema)}"

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            app(["migrate", *words, "--storage", url])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "has no tables; " in run("--plan")
    script = run("--sql")
    assert "has no tables; " in run("--plan")
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(script)
    assert f"has schema version {len(MIGRATIONS)} already; there is nothing to do" in run("--plan")
    assert run("--sql") == ""
    assert f"has schema version {len(MIGRATIONS)} already" in run()


def test_the_owner_of_a_schema_needs_no_more(place, schema):
    """Q15: whoever may make tables in a schema that is there can run what is printed, and need make no schema."""
    role = f"owner_{new_id()[-12:]}"
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(Identifier(schema), Identifier(role)))
    theirs = f"{place}&user={role}"
    statements = connect(f"{theirs}&schema={quote(schema)}").migrations.pending()
    with psycopg.connect(theirs, autocommit=True) as connection:
        connection.execute(";".join(statements))
        assert migrate(connection, schema=schema) == len(MIGRATIONS)
