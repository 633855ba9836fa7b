"""Statements as PostgreSQL wants them: lists travel as arrays, rows as jsonb, and who reads to write takes locks."""

# ruff: noqa: S608 - statements are made of constants

from __future__ import annotations

from typing import ClassVar, Final, cast

from workerctx.queue.model import DELIVERY_MARGIN
from workerctx.queue.sql.rows import COLUMNS
from workerctx.queue.sql.statements import Statements

_COLUMNS: Final = ", ".join(f"j.{column}" for column in COLUMNS)
_WORDS: Final = frozenset({"among", "greatest", "hold", "hold_free", "share"})
"""Parts of statements, not statements."""
_BEST: Final = "priority DESC, run_at, seq"
_UNFIT: Final = (
    f"((j.expires_at IS NOT NULL AND j.expires_at <= ?) OR j.deliveries - {DELIVERY_MARGIN} >= j.max_attempts)"
)
# Of each group no more than the limit are looked at, in the order of the index; then the best of all of them.
_CANDIDATES: Final = (
    f"FROM (SELECT j.seq, j.grp, j.priority, j.run_at, {_UNFIT}::int AS unfit "
    "FROM unnest(?::bigint[]) AS g(value) CROSS JOIN LATERAL (SELECT * FROM workerctx_jobs h "
    f"WHERE h.grp = g.value AND h.state = 'queued' ORDER BY {_BEST} LIMIT ?) j ORDER BY {_BEST} LIMIT ?) c"
)
_INSERTED: Final = (
    ("seq", "bigint"),
    ("ns", "bigint"),
    ("id", "text"),
    ("grp", "bigint"),
    ("state", "text"),
    ("priority", "int"),
    ("run_at", "bigint"),
    ("created_at", "bigint"),
    ("max_attempts", "int"),
    ("waiting", "int"),
    ("expires_at", "bigint"),
    ("unique_key", "text"),
    ("workflow_id", "text"),
    ("tenant_id", "text"),
    ("finished_at", "bigint"),
    ("options", "text"),
    ("errors", "text"),
    ("payload", "text"),
)


class PostgresStatements(Statements):
    """The dialect of PostgreSQL, for the tables in one schema."""

    among: ClassVar[str] = "= ANY (?::bigint[])"
    greatest: ClassVar[str] = "greatest"
    hold: ClassVar[str] = " FOR UPDATE"
    hold_free: ClassVar[str] = " FOR UPDATE SKIP LOCKED"
    share: ClassVar[str] = " FOR SHARE"

    count_waiting: tuple[str, ...] = tuple(
        f"SELECT grp, '{state}', count(*) FROM workerctx_jobs "
        f"WHERE state = '{state}' AND grp = ANY (?::bigint[]) GROUP BY grp"
        for state in ("queued", "scheduled", "blocked")
    )
    count_others: tuple[str, ...] = (
        "SELECT grp, 'running', count(*) FROM workerctx_jobs WHERE state = 'running' AND ns = ? GROUP BY grp",
        "SELECT grp, state, count(*) FROM workerctx_jobs WHERE finished_at IS NOT NULL AND ns = ? GROUP BY state, grp",
    )
    promote: str = (
        "UPDATE workerctx_jobs SET state = 'queued' WHERE seq = ANY (ARRAY("
        "SELECT d.seq FROM unnest(?::bigint[]) AS g(value) CROSS JOIN LATERAL (SELECT h.seq FROM workerctx_jobs h "
        "WHERE h.grp = g.value AND h.state = 'scheduled' AND h.run_at <= ? ORDER BY h.run_at LIMIT ? "
        "FOR UPDATE SKIP LOCKED) d))"
    )
    candidates: str = f"SELECT seq, unfit, grp {_CANDIDATES}"
    ranked_candidates: str = f"SELECT seq, unfit, grp, -priority, run_at {_CANDIDATES}"
    any_open: str = "SELECT 1 FROM workerctx_dependencies WHERE done = 0 LIMIT 1"

    start: str = (
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint "
        "+ (SELECT value::bigint FROM workerctx_meta WHERE key = 'clock_offset'), "
        "(SELECT max(grp) FROM workerctx_groups), "
        "ARRAY(SELECT json_build_array(queue, until) FROM workerctx_pauses WHERE ns = ?)"
    )
    """Everything that a transaction wants to know first: the time, the newest group, and the pauses."""
    lease: str = (
        # While a job of the groups is due and not promoted, nothing is leased.
        "WITH due AS MATERIALIZED (SELECT EXISTS (SELECT 1 FROM unnest(?::bigint[]) AS g(value) CROSS JOIN LATERAL ("
        "SELECT 1 FROM workerctx_jobs h WHERE h.grp = g.value AND h.state = 'scheduled' AND h.run_at <= ? LIMIT 1) d) "
        "AS found), "
        # Which rows are the best is read without locks; only as many as are wanted are then locked, and those that
        # another claim holds are left out. How many were looked at tells whether there may be more.
        "seen AS MATERIALIZED (SELECT c.seq FROM unnest(?::bigint[]) AS g(value) CROSS JOIN LATERAL ("
        f"SELECT h.seq, h.priority, h.run_at FROM workerctx_jobs h WHERE h.grp = g.value AND h.state = 'queued' "
        f"ORDER BY {_BEST} LIMIT ?) c WHERE NOT (SELECT found FROM due) ORDER BY {_BEST} LIMIT ?), "
        f"heads AS MATERIALIZED (SELECT j.seq, j.priority, j.run_at, {_UNFIT} AS unfit FROM workerctx_jobs j "
        "WHERE j.seq = ANY (ARRAY(SELECT seq FROM seen)) AND (j.state || '') = 'queued' "
        f"ORDER BY {_BEST} LIMIT ? FOR UPDATE SKIP LOCKED), "
        f"dealt AS MATERIALIZED (SELECT seq, row_number() OVER (ORDER BY {_BEST}) AS place "
        "FROM heads WHERE NOT unfit), "
        "leased AS (UPDATE workerctx_jobs j SET state = 'running', attempt = attempt + s.begun, "
        "deliveries = deliveries + 1, claim_id = ?, worker_id = s.worker, lease_expires = s.expires, "
        "began = s.begun, claimed_at = ?, cancel = NULL "
        "FROM dealt d JOIN unnest(?::int[], ?::int[], ?::text[], ?::bigint[], ?::int[]) "
        "AS s(start, stop, worker, expires, begun) ON d.place > s.start AND d.place <= s.stop "
        "WHERE j.seq = d.seq "
        f"RETURNING {_COLUMNS}, d.place) "
        f"SELECT * FROM leased UNION ALL SELECT seq{', NULL' * (len(COLUMNS) - 1)}, 0 FROM heads WHERE unfit "
        f"UNION ALL SELECT CASE WHEN found THEN NULL ELSE (SELECT count(*) FROM seen) END{', NULL' * len(COLUMNS)} "
        "FROM due"
    )
    """Lease the best jobs. Rows with a place are leased, those in place 0 are unfit, and one has no place: it begins
    with how many were looked at, or with NULL while a job has to be promoted first."""
    insert: str = (
        f"INSERT INTO workerctx_jobs ({', '.join(name for name, _ in _INSERTED)}) "
        f"SELECT {', '.join(f'(r.value->>{place})::{kind}' for place, (_, kind) in enumerate(_INSERTED))} "
        "FROM jsonb_array_elements(?::jsonb) r"
    )
    job_rows: str = (
        f"SELECT {_COLUMNS} FROM workerctx_jobs j WHERE +j.ns = ? AND j.seq = ANY (?::bigint[]) ORDER BY j.seq"
    )
    held_rows: str = f"{job_rows} FOR UPDATE"
    more_numbers: str = "SELECT nextval('workerctx_seq')"
    shut_out: str = "SELECT pg_advisory_xact_lock(?, lock) FROM unnest(?::int[]) AS lock"
    shut_out_shared: str = "SELECT pg_advisory_xact_lock_shared(?, lock) FROM unnest(?::int[]) AS lock"
    notify: str = "SELECT pg_notify(?, ?)"
    find_namespace: str = "SELECT ns FROM workerctx_namespaces WHERE name = ?"
    add_namespace: str = "INSERT INTO workerctx_namespaces (name) VALUES (?) ON CONFLICT DO NOTHING"
    move_clock: str = "UPDATE workerctx_meta SET value = value::bigint + ? WHERE key = 'clock_offset'"

    def __init__(self, schema: str) -> None:
        super().__init__()
        self._tables = f"{quoted(schema)}.workerctx_"
        # A join could begin at the wrong end as long as the tables are small.
        self.known_jobs = (
            "SELECT id, seq, state FROM workerctx_jobs "
            "WHERE id = ANY (ARRAY(SELECT value->>0 FROM jsonb_array_elements(?::jsonb))) AND ns = ? FOR SHARE"
        )
        self.holders = (
            "SELECT unique_key, id FROM workerctx_jobs "
            "WHERE unique_key = ANY (ARRAY(SELECT value->>0 FROM jsonb_array_elements(?::jsonb))) AND ns = ? "
            "AND unique_key IS NOT NULL AND finished_at IS NULL"
        )
        self.upstream = (
            "SELECT d.child, p.id, p.result FROM workerctx_dependencies d CROSS JOIN LATERAL (SELECT id, result "
            "FROM workerctx_jobs WHERE seq = d.parent AND state = 'succeeded' OFFSET 0) p "
            f"WHERE d.child {self.among}"
        )
        self.completed = f"{self.complete} RETURNING workerctx_jobs.seq, workerctx_jobs.claim_id"
        for name in dir(self):
            said = getattr(self, name)
            if name.startswith("_") or name in _WORDS:
                continue
            if isinstance(said, str):
                setattr(self, name, self._translate(said))
            elif isinstance(said, tuple):
                setattr(self, name, tuple(map(self._translate, cast("tuple[str, ...]", said))))

    def numbers(self, alias: str) -> str:
        """Return the members of an array."""
        return f"unnest(?::bigint[]) AS {alias}(value)"

    def rows(self, alias: str) -> str:
        """Return the arrays in a jsonb array."""
        return f"jsonb_array_elements(?::jsonb) {alias}"

    def number(self, alias: str, place: int) -> str:
        """Return a member of a jsonb array."""
        return f"({alias}.value->>{place})::bigint"

    def text(self, alias: str, place: int) -> str:
        """Return a member of a jsonb array."""
        return f"({alias}.value->>{place})"

    def by_itself(self, column: str) -> str:
        """Return the column as an expression, of which no index knows."""
        return f"({column} || '')"

    def array(self, columns: str, query: str) -> str:  # noqa: ARG002 - rows come as they are
        """Return the query itself."""
        return query

    def page(self, conditions: list[str]) -> str:
        """Return the query for a page, translated."""
        return self._translate(super().page(conditions))

    def _translate(self, statement: str) -> str:
        """Name the schema, and write placeholders as the driver wants them."""
        return statement.replace("workerctx_", self._tables).replace("?", "%s")


def quoted(name: str) -> str:
    """Return a name as an identifier."""
    return '"' + name.replace('"', '""') + '"'
