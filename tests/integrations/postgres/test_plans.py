"""Every statement that a loop runs finds its rows through an index, whatever else is in the table."""

from __future__ import annotations

import psycopg
import pytest

from workerctx_postgres._connection import Database, connection_info
from workerctx_postgres._schema import migrate

SCHEMA = "plans"
HOT = {
    "promotion": ("promote", "workerctx_jobs_due"),
    "claim, the heads of the groups": ("lease", "workerctx_jobs_ready"),
    "claim, the rows": ("lease", "workerctx_jobs_pkey"),
    "candidates": ("candidates", "workerctx_jobs_ready"),
    "rows to read": ("job_rows", "workerctx_jobs_pkey"),
    "rows to change": ("held_rows", "workerctx_jobs_pkey"),
    "enqueue, unique keys": ("holders", "(unique_key = ANY"),
    "enqueue, ids": ("known_jobs", "(id = ANY"),
    "progress": ("set_progress", "workerctx_jobs_pkey"),
    "asking to stop": ("ask_to_stop", "workerctx_jobs_pkey"),
    "one job": ("by_id", "workerctx_jobs_id"),
    "complete": ("completed", "workerctx_jobs_pkey"),
    "other ends": ("write_back", "workerctx_jobs_pkey"),
    "other ends, dependants": ("unblock", "workerctx_jobs_pkey"),
    "reap, leases": ("expired_leases", "workerctx_jobs_leased"),
    "reap, jobs": ("expired_jobs", "workerctx_jobs_expiring"),
    "is anything to reap": ("any_expired", "workerctx_jobs_leased"),
    "dependants": ("open_children", "workerctx_dependencies_open"),
    "upstream outputs": ("upstream", "workerctx_dependencies_child"),
    "renewal": ("renew", "workerctx_jobs_pkey"),
    "renewal, what is held": ("held", "workerctx_jobs_pkey"),
    "next due": ("next_due", "workerctx_jobs_due"),
    "prune": ("prunable", "workerctx_jobs_finished"),
    "a workflow's jobs": ("in_workflow", "workerctx_jobs_workflow"),
}
FILL = f"""INSERT INTO {SCHEMA}.workerctx_jobs
    (seq, ns, id, grp, state, priority, run_at, created_at, max_attempts, unique_key, workflow_id, expires_at,
     lease_expires, claim_id, finished_at, payload)
    SELECT n, 1, 'id' || n, n % 5, state, 0, n, n, 5, 'key' || n, 'flow' || n % 1000, n + 10000000,
        CASE WHEN state = 'running' THEN n END, 'claim', CASE WHEN state = 'succeeded' THEN n END, 'null'
    FROM (SELECT n, (array['queued', 'running', 'succeeded', 'scheduled'])[1 + n % 4] AS state
        FROM generate_series(1, 20000) n) jobs"""


@pytest.fixture(scope="module", params=["empty", "stale", "analyzed"])
def database(request, own_postgres):
    """A database as it is created, with statistics of the time when it was empty, and with right ones."""
    database = Database(connection_info(own_postgres.url, {}, 30, pooled=False), SCHEMA)
    with database.connect() as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        migrate(connection, schema=SCHEMA)
        if request.param == "stale":
            connection.execute(f"ANALYZE {SCHEMA}.workerctx_jobs")
        if request.param != "empty":
            connection.execute(FILL)
            dependencies = (
                f"INSERT INTO {SCHEMA}.workerctx_dependencies SELECT n, n + 1 FROM generate_series(1, 20000) n"
            )
            connection.execute(dependencies)
        if request.param == "analyzed":
            connection.execute("ANALYZE")
        yield database, connection


@pytest.mark.parametrize("name", HOT)
def test_hot_statement_uses_its_index(database, name):
    """Q18: the generic plan of a hot statement names the index that it is meant to use and scans no table of jobs."""
    place, connection = database
    attribute, index = HOT[name]
    statement = getattr(place.sql, attribute)
    count = statement.count("%s")
    for number in range(1, count + 1):
        statement = statement.replace("%s", f"${number}", 1)
    plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}", prepare=False))
    assert index in plan, plan
    assert "Seq Scan on workerctx_jobs" not in plan, plan
    # An index that the condition on the state would suggest holds every job in that state.
    assert "Filter: (seq = " not in plan, plan


@pytest.mark.parametrize("strange", ["unknown kind", "foreign label", "future"])
async def test_crowds_are_not_looked_at(postgres_url, strange):
    """Q18: a claim touches only rows that fit, however many others stand at the head of the queue."""
    from workerctx.queue import EnqueueRequest, connect

    url = postgres_url()
    crowd = {
        "unknown kind": EnqueueRequest("other", priority=9),
        "foreign label": EnqueueRequest("mine", priority=9, required_labels=["gpu"]),
        "future": EnqueueRequest("mine", priority=9, delay=1000),
    }[strange]
    async with connect(url) as storage:
        await storage.jobs.enqueue_bulk([crowd] * 3000)
        await storage.jobs.enqueue(EnqueueRequest("mine"))
        with psycopg.connect(url.partition("&namespace")[0]) as connection:
            before = _touched(connection)
            claimed = await storage.jobs.claim_many("w", kinds=["mine"])
            assert [job.kind for job, _ in claimed] == ["mine"]
            await storage.jobs.finish_many([])
    async with connect(url) as storage:
        await storage.now()
        with psycopg.connect(url.partition("&namespace")[0]) as connection:
            assert _touched(connection) - before < 1000


def _touched(connection):
    """Return how many entries of the index of waiting jobs have been read since the server began."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    query = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE indexrelname = 'workerctx_jobs_ready'"
    return connection.execute(query).fetchone()[0]
