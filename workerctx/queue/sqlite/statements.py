"""Statements as SQLite wants them: lists travel as JSON, and indexes are named where the planner would err."""

# ruff: noqa: S608 - statements are made of constants

from __future__ import annotations

from typing import ClassVar, Final

from workerctx.queue.model import DELIVERY_MARGIN
from workerctx.queue.sql.rows import COLUMNS
from workerctx.queue.sql.statements import Statements

# Of each group no more than the limit are looked at, in the order of the index; then the best of all of them.
_CANDIDATES: Final = (
    "FROM (SELECT j.priority, j.run_at, j.seq, j.grp, "
    f"(j.expires_at IS NOT NULL AND j.expires_at <= ?) OR j.deliveries >= j.max_attempts + {DELIVERY_MARGIN} AS unfit "
    "FROM json_each(?) g CROSS JOIN workerctx_jobs j WHERE j.seq IN (SELECT h.seq FROM workerctx_jobs h "
    "WHERE h.grp = g.value AND h.state = 'queued' ORDER BY h.priority DESC, h.run_at, h.seq LIMIT ?) "
    "ORDER BY j.priority DESC, j.run_at, j.seq LIMIT ?)"
)


class SqliteStatements(Statements):
    """The dialect of SQLite."""

    among: ClassVar[str] = "IN (SELECT value FROM json_each(?))"
    greatest: ClassVar[str] = "max"

    # One covering index for each state, so that counting a million jobs does not read them.
    count_waiting: tuple[str, ...] = tuple(
        f"SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_{index} "
        f"WHERE state = '{state}' AND grp IN (SELECT value FROM json_each(?)) GROUP BY grp"
        for index, state in (("ready", "queued"), ("due", "scheduled"), ("blocked", "blocked"))
    )
    count_others: tuple[str, ...] = (
        (
            "SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_leased "
            "WHERE state = 'running' AND ns = ? GROUP BY grp"
        ),
        (
            "SELECT grp, state, count(*) FROM workerctx_jobs INDEXED BY workerctx_jobs_finished "
            "WHERE finished_at IS NOT NULL AND ns = ? GROUP BY state, grp"
        ),
    )
    promote: str = (
        "UPDATE workerctx_jobs SET state = 'queued' WHERE seq IN "
        "(SELECT j.seq FROM json_each(?) g CROSS JOIN workerctx_jobs j "
        "WHERE j.seq IN (SELECT h.seq FROM workerctx_jobs h WHERE h.grp = g.value AND h.state = 'scheduled' "
        "AND h.run_at <= ? ORDER BY h.run_at LIMIT ?))"
    )
    candidates: str = f"SELECT json_group_array(json_array(seq, unfit, grp)) {_CANDIDATES}"
    ranked_candidates: str = f"SELECT json_group_array(json_array(seq, unfit, grp, -priority, run_at)) {_CANDIDATES}"
    lease: str = (
        "UPDATE workerctx_jobs SET state = 'running', attempt = attempt + ?, deliveries = deliveries + 1, "
        "claim_id = ?, worker_id = ?, lease_expires = ?, began = ?, claimed_at = ?, cancel = NULL "
        "WHERE seq IN (SELECT value FROM json_each(?))"
    )
    insert: str = (
        "INSERT INTO workerctx_jobs (seq, ns, id, grp, state, priority, run_at, created_at, max_attempts, waiting, "
        "expires_at, unique_key, workflow_id, tenant_id, finished_at, options, errors, payload) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    job_rows: str = (
        f"SELECT json_group_array(json_array({', '.join(f'j.{column}' for column in COLUMNS)})) FROM workerctx_jobs j "
        "WHERE +j.ns = ? AND j.seq IN (SELECT value FROM json_each(?))"
    )
    any_open: str = "SELECT 1 FROM workerctx_dependencies INDEXED BY workerctx_dependencies_open WHERE done = 0 LIMIT 1"
    newest: str = "SELECT max(seq) FROM workerctx_jobs"
    offset: str = "SELECT value FROM workerctx_meta WHERE key = 'clock_offset'"

    def numbers(self, alias: str) -> str:
        """Return the values of a JSON array."""
        return f"json_each(?) {alias}"

    def rows(self, alias: str) -> str:
        """Return the arrays in a JSON array."""
        return f"json_each(?) {alias}"

    def number(self, alias: str, place: int) -> str:
        """Return a member of an array."""
        return f"json_extract({alias}.value, '$[{place}]')"

    def text(self, alias: str, place: int) -> str:
        """Return a member of an array."""
        return self.number(alias, place)

    def by_itself(self, column: str) -> str:
        """Return the column with a sign that hides it from the planner."""
        return f"+{column}"

    def array(self, columns: str, query: str) -> str:
        """Return a query that makes one JSON text of its rows."""
        member = f"json_array({columns})" if "," in columns else columns
        return f"SELECT json_group_array({member}) FROM ({query})"


SQLITE: Final = SqliteStatements()
