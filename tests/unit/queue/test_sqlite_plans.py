"""Every statement that a loop runs finds its rows through an index, whatever else is in the table."""

from __future__ import annotations

import re
import sqlite3

import pytest

from workerctx.queue.sqlite import (
    claiming,
    enqueueing,
    leases,
    limits,
    looking,
    migrate,
    schedules,
    settling,
    steering,
    transaction,
    workers,
)

HOT = {
    "promotion, is anything due": (claiming.ANY_DUE, "workerctx_jobs_due (grp=? AND state=? AND run_at<?)"),
    "promotion": (claiming.PROMOTE, "workerctx_jobs_due (grp=? AND state=? AND run_at<?)"),
    "claim, the heads of the groups": (
        claiming.CANDIDATES,
        "h USING COVERING INDEX workerctx_jobs_ready (grp=? AND state=?)",
    ),
    "claim, the rows": (claiming.CANDIDATES, "j USING INTEGER PRIMARY KEY"),
    "claim, the lease": (claiming.LEASE, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "claim, pauses": (claiming.PAUSED, "workerctx_pauses USING PRIMARY KEY"),
    "reading rows": (transaction.ROWS, "j USING INTEGER PRIMARY KEY"),
    "new groups": (transaction.GROUPS_SINCE, "workerctx_groups USING"),
    "enqueue, the unique key": (enqueueing.BY_KEY, "workerctx_jobs_unique (ns=? AND unique_key=?)"),
    "enqueue, an id": (enqueueing.BY_ID, "workerctx_jobs_id (ns=? AND id=?)"),
    "complete": (settling.COMPLETE, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "complete, who holds": (settling.HOLDING, "j USING INTEGER PRIMARY KEY"),
    "other ends": (settling.WRITE_BACK, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "reap, leases": (settling.EXPIRED_LEASES, "workerctx_jobs_leased (ns=? AND state=? AND lease_expires<?)"),
    "reap, jobs": (settling.EXPIRED_JOBS, "workerctx_jobs_expiring (ns=? AND expires_at>? AND expires_at<?)"),
    "is anything to reap": (looking.ANY_EXPIRED, "workerctx_jobs_leased (ns=? AND state=? AND lease_expires<?)"),
    "is any job too late": (looking.ANY_EXPIRED, "workerctx_jobs_expiring (ns=? AND expires_at>? AND expires_at<?)"),
    "is anybody waiting": (settling.ANY_OPEN, "INDEX workerctx_dependencies_open"),
    "dependants": (settling.OPEN_CHILDREN, "d USING PRIMARY KEY (parent=?)"),
    "dependants, done": (settling.CLOSE, "workerctx_dependencies USING PRIMARY KEY (parent=?)"),
    "upstream outputs": (transaction.UPSTREAM, "workerctx_dependencies_child (child=?)"),
    "renewal": (leases.RENEW, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "renewal, what is held": (leases.HELD, "j USING INTEGER PRIMARY KEY"),
    "runs begin": (leases.BEGIN_RUNS, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "progress": (leases.SET_PROGRESS, "workerctx_jobs USING INTEGER PRIMARY KEY"),
    "next due": (looking.NEXT_DUE, "workerctx_jobs_due (grp=? AND state=? AND run_at>?)"),
    "prune": (steering.PRUNABLE, "workerctx_jobs_finished (ns=? AND state=? AND finished_at>? AND finished_at<?)"),
    "a workflow's jobs": (steering.IN_WORKFLOW, "workerctx_jobs_workflow (ns=? AND workflow_id=?)"),
    "rate limit": (limits.ACQUIRE, "workerctx_rate_limits USING PRIMARY KEY"),
    "heartbeat": (workers.HEARTBEAT, "workerctx_workers USING PRIMARY KEY"),
    "due schedules": (schedules.DUE, "workerctx_schedules USING PRIMARY KEY (ns=?)"),
    **{
        f"count, {index}": (statement, f"COVERING INDEX workerctx_jobs_{index}")
        for statement, index in zip(
            looking.COUNT_WAITING + looking.COUNT_OTHERS,
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
        connection.executemany(enqueueing.INSERT, rows)
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
    if ":" in statement:
        return dict.fromkeys(re.findall(r":(\w+)", statement), 1)
    numbered = [int(number) for number in re.findall(r"\?(\d)", statement)]
    return [1] * (max(numbered) if numbered else statement.count("?"))
