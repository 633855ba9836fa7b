"""Every statement that a loop runs finds its rows through an index, whatever else is in the table."""

from __future__ import annotations

import sqlite3

import pytest

from workerctx.queue.sqlite import migrate
from workerctx.queue.sqlite.statements import SQLITE

HOT = {
    "promotion, is anything due": (SQLITE.any_due, "workerctx_jobs_due (grp=? AND state=? AND run_at<?)"),
    "promotion": (SQLITE.promote, "workerctx_jobs_due (grp=? AND state=? AND run_at<?)"),
    "claim, the heads of the groups": (
        SQLITE.candidates,
        "h USING COVERING INDEX workerctx_jobs_ready (grp=? AND state=?)",
    ),
    "claim, the rows": (SQLITE.candidates, "j USING INTEGER PRIMARY KEY"),
    "claim, the lease": (SQLITE.lease, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "claim, pauses": (SQLITE.pauses, "workerctx_pauses USING PRIMARY KEY"),
    "reading rows": (SQLITE.job_rows, "j USING INTEGER PRIMARY KEY"),
    "new groups": (SQLITE.groups_since, "workerctx_groups USING"),
    "enqueue, the unique key": (SQLITE.holders, "workerctx_jobs_unique (ns=? AND unique_key=?)"),
    "enqueue, an id": (SQLITE.known_jobs, "workerctx_jobs_id (ns=? AND id=?)"),
    "enqueue, cancelled workflows": (SQLITE.cancelled_workflows, "w USING PRIMARY KEY (ns=? AND workflow_id=?)"),
    "one job": (SQLITE.by_id, "workerctx_jobs_id (ns=? AND id=?)"),
    "one unique key": (SQLITE.holder, "workerctx_jobs_unique (ns=? AND unique_key=?)"),
    "complete": (SQLITE.complete, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "complete, who holds": (SQLITE.holding, "j USING INTEGER PRIMARY KEY"),
    "other ends": (SQLITE.write_back, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "other ends, dependants": (SQLITE.unblock, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "reap, leases": (SQLITE.expired_leases, "workerctx_jobs_leased (ns=? AND state=? AND lease_expires<?)"),
    "reap, jobs": (SQLITE.expired_jobs, "workerctx_jobs_expiring (ns=? AND expires_at>? AND expires_at<?)"),
    "is anything to reap": (SQLITE.any_expired, "workerctx_jobs_leased (ns=? AND state=? AND lease_expires<?)"),
    "is any job too late": (SQLITE.any_expired, "workerctx_jobs_expiring (ns=? AND expires_at>? AND expires_at<?)"),
    "is anybody waiting": (SQLITE.any_open, "INDEX workerctx_dependencies_open"),
    "dependants": (SQLITE.open_children, "d USING PRIMARY KEY (parent=?)"),
    "dependants, done": (SQLITE.close, "workerctx_dependencies USING PRIMARY KEY (parent=?)"),
    "upstream outputs": (SQLITE.upstream, "workerctx_dependencies_child (child=?)"),
    "renewal": (SQLITE.renew, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "renewal, what is held": (SQLITE.held, "j USING INTEGER PRIMARY KEY"),
    "runs begin": (SQLITE.begin_runs, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "progress": (SQLITE.set_progress, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "next due": (SQLITE.next_due, "workerctx_jobs_due (grp=? AND state=? AND run_at>?)"),
    "prune": (SQLITE.prunable, "workerctx_jobs_finished (ns=? AND state=? AND finished_at>? AND finished_at<?)"),
    "a workflow's jobs": (SQLITE.in_workflow, "workerctx_jobs_workflow (ns=? AND workflow_id=?)"),
    "move, what is queued": (SQLITE.waiting, "workerctx_jobs_ready (grp=? AND state=?)"),
    "move, what is scheduled": (SQLITE.later, "workerctx_jobs_due (grp=? AND state=?)"),
    "move, what has ended": (SQLITE.ended, "workerctx_jobs_finished (ns=? AND state=?"),
    "move, who depends on it": (SQLITE.live_children, "d USING PRIMARY KEY (parent=?)"),
    "move, on whom it depends": (SQLITE.parents, "workerctx_dependencies_child (child=?)"),
    "move, sizes": (SQLITE.weighed, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "move, progress": (SQLITE.put_progress, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "rate limit": (SQLITE.acquire, "workerctx_rate_limits USING PRIMARY KEY"),
    "heartbeat": (SQLITE.heartbeat, "workerctx_workers USING PRIMARY KEY"),
    "due schedules": (SQLITE.due_schedules, "workerctx_schedules USING PRIMARY KEY (ns=?)"),
    **{
        f"count, {index}": (statement, f"COVERING INDEX workerctx_jobs_{index}")
        for statement, index in zip(
            SQLITE.count_waiting + SQLITE.count_others,
            ["ready", "due", "blocked", "leased", "finished"],
            strict=True,
        )
    },
}


@pytest.fixture(scope="module", params=["empty", "analyzed"])
def database(request, tmp_path_factory):
    """Yield a database, once as it is created and once with statistics of some content."""
    connection = sqlite3.connect(tmp_path_factory.mktemp("plans") / "jobs.db", isolation_level=None)
    migrate(connection)
    if request.param == "analyzed":
        rows = [
            (n, 1, f"id{n}", n % 3, ("queued", "running", "succeeded", "scheduled")[n % 4], 0, n, n, 5, 0, None,
             f"key{n}", "flow", "tenant", n if n % 4 == 2 else None, None, None, "null")
            for n in range(1, 2000)
        ]  # fmt: skip
        connection.executemany(SQLITE.insert, rows)
        connection.execute("ANALYZE")
    yield connection
    connection.close()


@pytest.mark.parametrize("name", HOT)
def test_hot_statement_uses_its_index(database, name):
    """Q18: the plan of a hot statement names the index that it is meant to use and scans no jobs."""
    statement, index = HOT[name]
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", _parameters(statement))]
    assert any(index in step for step in plan), plan
    scans = [step for step in plan if step.startswith("SCAN") and "workerctx_jobs" in step]
    assert all("COVERING INDEX" in step for step in scans), plan


def _parameters(statement):
    """Return as many parameters as the statement wants; their values do not matter for the plan."""
    return [1] * statement.count("?")
