"""The tables, and how they come to be: each migration once, under an advisory lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import tuple_row

from workerctx.errors import SchemaError
from workerctx.queue.ids import new_id
from workerctx_postgres._statements import quoted
from workerctx_postgres._transaction import NUMBERS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

_FIRST: Final = (
    # One row for each namespace; every other table refers to it by number.
    """CREATE TABLE {tables}namespaces (
        ns bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE)""",
    # Queue, kind and required labels of jobs: see workerctx.queue.sql.rows.Group.
    """CREATE TABLE {tables}groups (
        grp bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ns bigint NOT NULL, queue text NOT NULL,
        kind text NOT NULL, labels text NOT NULL, UNIQUE (ns, queue, kind, labels))""",
    # Processes take the numbers of rows in portions of this size.
    f"CREATE SEQUENCE {{tables}}seq INCREMENT BY {NUMBERS_AT_ONCE}",
    # Times are microseconds since the epoch. A row is written three times in its life: room for that is left in each
    # page, more of it where indexes point to every version, and vacuum comes often and works without pauses.
    """CREATE TABLE {tables}jobs (
        seq bigint PRIMARY KEY WITH (fillfactor = 40), ns bigint NOT NULL, grp bigint NOT NULL,
        run_at bigint NOT NULL, created_at bigint NOT NULL, expires_at bigint, lease_expires bigint,
        claimed_at bigint, finished_at bigint, priority integer NOT NULL,
        attempt integer NOT NULL DEFAULT 0, max_attempts integer NOT NULL, deliveries integer NOT NULL DEFAULT 0,
        waiting integer NOT NULL DEFAULT 0, began integer NOT NULL DEFAULT 0,
        id text COLLATE "C" NOT NULL, state text COLLATE "C" NOT NULL, unique_key text COLLATE "C",
        workflow_id text COLLATE "C", tenant_id text COLLATE "C", claim_id text COLLATE "C",
        worker_id text COLLATE "C", cancel text COLLATE "C",
        options text, progress text, errors text, payload text NOT NULL, result text)
        WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
            autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05,
            autovacuum_vacuum_cost_delay = 0)""",
    "CREATE UNIQUE INDEX workerctx_jobs_id ON {tables}jobs (ns, id) WITH (fillfactor = 40)",
    "CREATE INDEX workerctx_jobs_ready ON {tables}jobs (grp, priority DESC, run_at, seq) WHERE state = 'queued'",
    "CREATE INDEX workerctx_jobs_due ON {tables}jobs (grp, run_at) WHERE state = 'scheduled'",
    "CREATE INDEX workerctx_jobs_blocked ON {tables}jobs (grp) WHERE state = 'blocked'",
    "CREATE INDEX workerctx_jobs_leased ON {tables}jobs (ns, lease_expires) WHERE state = 'running'",
    "CREATE INDEX workerctx_jobs_finished ON {tables}jobs (ns, state, finished_at, grp) WHERE finished_at IS NOT NULL",
    """CREATE INDEX workerctx_jobs_expiring ON {tables}jobs (ns, expires_at)
        WHERE expires_at IS NOT NULL AND finished_at IS NULL AND state <> 'running'""",
    """CREATE UNIQUE INDEX workerctx_jobs_unique ON {tables}jobs (ns, unique_key)
        WHERE unique_key IS NOT NULL AND finished_at IS NULL""",
    "CREATE INDEX workerctx_jobs_keyed ON {tables}jobs (ns, unique_key, id) WHERE unique_key IS NOT NULL",
    "CREATE INDEX workerctx_jobs_workflow ON {tables}jobs (ns, workflow_id, id) WHERE workflow_id IS NOT NULL",
    "CREATE INDEX workerctx_jobs_tenant ON {tables}jobs (ns, tenant_id, id) WHERE tenant_id IS NOT NULL",
    # Who waits for whom; a row is done once the parent has finished.
    """CREATE TABLE {tables}dependencies (
        parent bigint NOT NULL, child bigint NOT NULL, done integer NOT NULL DEFAULT 0, PRIMARY KEY (parent, child))""",
    "CREATE INDEX workerctx_dependencies_child ON {tables}dependencies (child)",
    "CREATE INDEX workerctx_dependencies_open ON {tables}dependencies (parent) WHERE done = 0",
    """CREATE TABLE {tables}cancelled_workflows (
        ns bigint NOT NULL, workflow_id text NOT NULL, PRIMARY KEY (ns, workflow_id))""",
    """CREATE TABLE {tables}pauses (
        ns bigint NOT NULL, queue text NOT NULL, until bigint, PRIMARY KEY (ns, queue))""",
    # tat: the theoretical arrival time of the generic cell rate algorithm.
    """CREATE TABLE {tables}rate_limits (
        ns bigint NOT NULL, scope text COLLATE "C" NOT NULL, capacity bigint NOT NULL, per double precision NOT NULL,
        tat bigint NOT NULL, PRIMARY KEY (ns, scope)) WITH (fillfactor = 50)""",
    """CREATE TABLE {tables}workers (
        ns bigint NOT NULL, id text COLLATE "C" NOT NULL, info text NOT NULL, heartbeat_at bigint NOT NULL,
        state text NOT NULL, in_flight integer NOT NULL, commands text NOT NULL DEFAULT '[]', PRIMARY KEY (ns, id))
        WITH (fillfactor = 50)""",
    """CREATE TABLE {tables}schedules (
        ns bigint NOT NULL, name text COLLATE "C" NOT NULL, enabled integer NOT NULL, definition text NOT NULL,
        next_fire_at bigint, last_fired_at bigint, PRIMARY KEY (ns, name))""",
)

_MOVING: Final = (
    # What has left for another store and is not known to have arrived, and which batches have come from others.
    """CREATE TABLE {tables}outbox (
        ns bigint NOT NULL, batch text COLLATE "C" NOT NULL, place integer NOT NULL, target text NOT NULL,
        record text NOT NULL, PRIMARY KEY (ns, batch, place))""",
    """CREATE TABLE {tables}received (
        ns bigint NOT NULL, batch text COLLATE "C" NOT NULL, PRIMARY KEY (ns, batch))""",
)

_DRAINING: Final = (
    # Until when a limit is closed that was drained, so that another rate opens it neither earlier nor later.
    "ALTER TABLE {tables}rate_limits ADD COLUMN closed_until bigint NOT NULL DEFAULT 0",
    # A limit that is used up beyond what calls can do was drained.
    """UPDATE {tables}rate_limits
        SET closed_until = tat - CAST(per * 1000000.0 * (capacity - 1) / capacity AS bigint)
        WHERE tat > per * 1000000.0 + extract(epoch FROM now()) * 1000000.0""",
)

MIGRATIONS: Final = (_FIRST, _MOVING, _DRAINING)
"""Migration n leads from schema version n to n + 1."""

_META: Final = "CREATE TABLE {tables}meta (key text PRIMARY KEY, value text NOT NULL)"
_FIND: Final = "SELECT to_regclass(%s)"
_VERSION: Final = "SELECT value FROM {tables}meta WHERE key = 'schema'"
_SET_VERSION: Final = "UPDATE {tables}meta SET value = '{version}' WHERE key = 'schema'"
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('workerctx migrations of ' || %s, 0))"
_HAS_SCHEMA: Final = "SELECT 1 FROM pg_namespace WHERE nspname = %s"


def migrate(connection: psycopg.Connection[Any], *, schema: str = "public") -> int:
    """Create or update the tables in the caller's database, in one transaction; harmless when they are current.

    Args:
        connection: An open connection of a role that may create tables; a transaction under way is joined.
        schema: Where the tables are, made if need be.

    Returns:
        The schema's version.

    Raises:
        SchemaError: A newer release made the tables; nothing was changed.

    Threads: blocks until the database has done it.
    """
    if version(connection, schema) == len(MIGRATIONS):
        return len(MIGRATIONS)
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(_LOCK, (schema,))
        has_schema = is_there(connection, schema)
        for statement in pending(version(connection, schema), schema, has_schema=has_schema):
            cursor.execute(statement.encode())
    return len(MIGRATIONS)


def pending(found: int, schema: str, *, has_schema: bool = False) -> Iterator[str]:
    """Yield the statements that bring tables of a version up to date."""
    tables = f"{quoted(schema)}.workerctx_"
    if found == len(MIGRATIONS):
        return
    if not has_schema and found == 0:
        yield f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}"
    if found == 0:
        yield _META.format(tables=tables)
        yield (
            f"INSERT INTO {tables}meta VALUES ('schema', '0'), ('store', '{new_id()}'), ('clock_offset', '0')"  # noqa: S608 - constants
        )
    for migration in MIGRATIONS[found:]:
        for statement in migration:
            yield statement.format(tables=tables)
    yield _SET_VERSION.format(tables=tables, version=len(MIGRATIONS))


def is_there(connection: psycopg.Connection[Any], schema: str) -> bool:
    """Return whether a schema exists, with or without tables."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(_HAS_SCHEMA, (schema,)).fetchone() is not None


def version(connection: psycopg.Connection[Any], schema: str) -> int:
    """Return the version of the tables in a schema, 0 if there are none.

    Raises:
        SchemaError: A newer release made them.
    """
    tables = f"{quoted(schema)}.workerctx_"
    with connection.cursor(row_factory=tuple_row) as cursor:
        (there,) = cursor.execute(_FIND, (f"{tables}meta",)).fetchone() or (None,)
        if there is None:
            return 0
        (found,) = cursor.execute(_VERSION.format(tables=tables).encode()).fetchone() or (0,)
    if int(found) > len(MIGRATIONS):
        raise SchemaError(
            f"the job tables have schema version {found} and this release knows up to {len(MIGRATIONS)}: "
            "upgrade workerctx, or use another schema"
        )
    return int(found)


def grants(role: str, *, schema: str = "public") -> tuple[str, ...]:
    """Return the statements that let a role work with jobs, but not change the tables.

    Args:
        role: Who enqueues, works or looks after jobs.
        schema: Where the tables are.
    """
    tables = f"{quoted(schema)}.workerctx_"
    changed = "namespaces, groups, jobs, dependencies, cancelled_workflows, pauses, rate_limits, workers, schedules, "
    changed += "outbox, received"
    names = ", ".join(f"{tables}{name}" for name in changed.split(", "))
    who = quoted(role)
    return (
        f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {who}",
        f"GRANT SELECT ON {tables}meta TO {who}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {names} TO {who}",
        f"GRANT USAGE ON SEQUENCE {tables}seq TO {who}",
    )
