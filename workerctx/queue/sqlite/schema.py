"""The tables, and how they come to be: each migration once, under the write lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerctx.errors import SchemaError
from workerctx.queue.ids import new_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_FIRST: Final = (
    # One row for each namespace; every other table refers to it by number.
    """CREATE TABLE workerctx_namespaces (ns INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)""",
    # Queue, kind and required labels of jobs: see workerctx.queue.sql.Group.
    """CREATE TABLE workerctx_groups (
        grp INTEGER PRIMARY KEY, ns INTEGER NOT NULL, queue TEXT NOT NULL, kind TEXT NOT NULL,
        labels TEXT NOT NULL, UNIQUE (ns, queue, kind, labels))""",
    # Times are microseconds since the epoch. Long texts come last, so that the rest is read without them.
    """CREATE TABLE workerctx_jobs (
        seq INTEGER PRIMARY KEY, ns INTEGER NOT NULL, id TEXT NOT NULL, grp INTEGER NOT NULL,
        state TEXT NOT NULL, priority INTEGER NOT NULL, run_at INTEGER NOT NULL, created_at INTEGER NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL,
        deliveries INTEGER NOT NULL DEFAULT 0, waiting INTEGER NOT NULL DEFAULT 0,
        expires_at INTEGER, unique_key TEXT, workflow_id TEXT, tenant_id TEXT,
        claim_id TEXT, worker_id TEXT, lease_expires INTEGER, began INTEGER NOT NULL DEFAULT 0,
        claimed_at INTEGER, finished_at INTEGER, cancel TEXT,
        options TEXT, progress TEXT, errors TEXT, payload TEXT NOT NULL, result TEXT)""",
    "CREATE UNIQUE INDEX workerctx_jobs_id ON workerctx_jobs (ns, id)",
    # The state is a column of the partial indexes too, so that counting need not look into the table.
    """CREATE INDEX workerctx_jobs_ready ON workerctx_jobs (grp, state, priority DESC, run_at)
        WHERE state = 'queued'""",
    "CREATE INDEX workerctx_jobs_due ON workerctx_jobs (grp, state, run_at) WHERE state = 'scheduled'",
    "CREATE INDEX workerctx_jobs_blocked ON workerctx_jobs (grp, state) WHERE state = 'blocked'",
    "CREATE INDEX workerctx_jobs_leased ON workerctx_jobs (ns, state, lease_expires, grp) WHERE state = 'running'",
    """CREATE INDEX workerctx_jobs_finished ON workerctx_jobs (ns, state, finished_at, grp)
        WHERE finished_at IS NOT NULL""",
    """CREATE INDEX workerctx_jobs_expiring ON workerctx_jobs (ns, expires_at)
        WHERE expires_at IS NOT NULL AND finished_at IS NULL""",
    """CREATE UNIQUE INDEX workerctx_jobs_unique ON workerctx_jobs (ns, unique_key)
        WHERE unique_key IS NOT NULL AND finished_at IS NULL""",
    """CREATE INDEX workerctx_jobs_keyed ON workerctx_jobs (ns, unique_key, id)
        WHERE unique_key IS NOT NULL""",
    """CREATE INDEX workerctx_jobs_workflow ON workerctx_jobs (ns, workflow_id, id)
        WHERE workflow_id IS NOT NULL""",
    "CREATE INDEX workerctx_jobs_tenant ON workerctx_jobs (ns, tenant_id, id) WHERE tenant_id IS NOT NULL",
    # Who waits for whom; a row is done once the parent has finished.
    """CREATE TABLE workerctx_dependencies (
        parent INTEGER NOT NULL, child INTEGER NOT NULL, done INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (parent, child)) WITHOUT ROWID""",
    "CREATE INDEX workerctx_dependencies_child ON workerctx_dependencies (child)",
    "CREATE INDEX workerctx_dependencies_open ON workerctx_dependencies (parent) WHERE done = 0",
    """CREATE TABLE workerctx_cancelled_workflows (
        ns INTEGER NOT NULL, workflow_id TEXT NOT NULL, PRIMARY KEY (ns, workflow_id)) WITHOUT ROWID""",
    """CREATE TABLE workerctx_pauses (
        ns INTEGER NOT NULL, queue TEXT NOT NULL, until INTEGER, PRIMARY KEY (ns, queue)) WITHOUT ROWID""",
    # tat: the theoretical arrival time of the generic cell rate algorithm.
    """CREATE TABLE workerctx_rate_limits (
        ns INTEGER NOT NULL, scope TEXT NOT NULL, capacity INTEGER NOT NULL, per REAL NOT NULL,
        tat INTEGER NOT NULL, PRIMARY KEY (ns, scope)) WITHOUT ROWID""",
    """CREATE TABLE workerctx_workers (
        ns INTEGER NOT NULL, id TEXT NOT NULL, info TEXT NOT NULL, heartbeat_at INTEGER NOT NULL,
        state TEXT NOT NULL, in_flight INTEGER NOT NULL, commands TEXT NOT NULL DEFAULT '[]',
        PRIMARY KEY (ns, id)) WITHOUT ROWID""",
    """CREATE TABLE workerctx_schedules (
        ns INTEGER NOT NULL, name TEXT NOT NULL, enabled INTEGER NOT NULL, definition TEXT NOT NULL,
        next_fire_at INTEGER, last_fired_at INTEGER, PRIMARY KEY (ns, name)) WITHOUT ROWID""",
)

_MOVING: Final = (
    # What has left for another store and is not known to have arrived, and which batches have come from others.
    """CREATE TABLE workerctx_outbox (
        ns INTEGER NOT NULL, batch TEXT NOT NULL, place INTEGER NOT NULL, target TEXT NOT NULL,
        record TEXT NOT NULL, PRIMARY KEY (ns, batch, place)) WITHOUT ROWID""",
    """CREATE TABLE workerctx_received (
        ns INTEGER NOT NULL, batch TEXT NOT NULL, PRIMARY KEY (ns, batch)) WITHOUT ROWID""",
)

_DRAINING: Final = (
    # Until when a limit is closed that was drained, so that another rate opens it neither earlier nor later.
    "ALTER TABLE workerctx_rate_limits ADD COLUMN closed_until INTEGER NOT NULL DEFAULT 0",
    # A limit that is used up beyond what calls can do was drained.
    """UPDATE workerctx_rate_limits
        SET closed_until = tat - CAST(per * 1000000.0 * (capacity - 1) / capacity AS INTEGER)
        WHERE tat > per * 1000000.0 + (julianday('now') - 2440587.5) * 86400000000.0""",
)

MIGRATIONS: Final = (_FIRST, _MOVING, _DRAINING)
"""Migration n leads from schema version n to n + 1."""

_HAS_META: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'workerctx_meta'"


def migrate(connection: sqlite3.Connection) -> int:
    """Create or update the tables in the caller's database, in one transaction; harmless when they are current.

    Args:
        connection: An open connection without a transaction under way.

    Returns:
        The schema's version.

    Raises:
        SchemaError: A newer release made the tables; nothing was changed.
    """
    if version(connection) == len(MIGRATIONS):
        return len(MIGRATIONS)
    cursor = connection.cursor()
    cursor.row_factory = None
    cursor.execute("BEGIN IMMEDIATE")
    try:
        for statement in pending(version(connection)):
            cursor.execute(statement)
        cursor.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            cursor.execute("ROLLBACK")
        raise
    return len(MIGRATIONS)


def pending(found: int) -> Iterator[str]:
    """Yield the statements that bring tables of a version up to date."""
    if found == len(MIGRATIONS):
        return
    if found == 0:
        yield "CREATE TABLE IF NOT EXISTS workerctx_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID"
        yield f"INSERT INTO workerctx_meta VALUES ('schema', 0), ('store', '{new_id()}'), ('clock_offset', 0)"  # noqa: S608 - an id
    for migration in MIGRATIONS[found:]:
        yield from migration
    yield f"UPDATE workerctx_meta SET value = {len(MIGRATIONS)} WHERE key = 'schema'"  # noqa: S608 - a number


def version(connection: sqlite3.Connection) -> int:
    """Return the version of the tables in a database, 0 if there are none.

    Raises:
        SchemaError: A newer release made them.
    """
    cursor = connection.cursor()
    cursor.row_factory = None
    if cursor.execute(_HAS_META).fetchone() is None:
        return 0
    row = cursor.execute("SELECT value FROM workerctx_meta WHERE key = 'schema'").fetchone()
    found = int(row[0]) if row is not None else 0
    if found > len(MIGRATIONS):
        raise SchemaError(
            f"the job tables have schema version {found} and this release knows up to {len(MIGRATIONS)}: "
            "upgrade workerctx, or use another database"
        )
    return found
