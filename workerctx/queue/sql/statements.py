"""What is asked of a database, in the words that all dialects share; a dialect adds its own.

Placeholders are question marks. Lists travel as one parameter: numbers as the dialect likes them, rows as one JSON
text of arrays, of which `number` and `text` take a field.
"""

# ruff: noqa: S608 - statements are made of constants

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

_EXPIRED = "expires_at IS NOT NULL AND finished_at IS NULL AND state <> 'running'"
_SCHEDULE = "name, enabled, definition, next_fire_at, last_fired_at"
_WORKER = "info, heartbeat_at, state, in_flight"


class Statements(ABC):
    """The statements of a dialect.

    Attributes:
        among: Makes a condition of a column and a list of numbers.
        greatest: The function for the larger of two values.
        hold: Locks the rows of a query until the commit, where others could write meanwhile.
        hold_free: The same, leaving out rows that others hold.
        share: Keeps others from changing the rows of a query until the commit.
    """

    among: ClassVar[str]
    greatest: ClassVar[str]
    hold: ClassVar[str] = ""
    hold_free: ClassVar[str] = ""
    share: ClassVar[str] = ""

    # Only a dialect can say these -------------------------------------------

    count_waiting: tuple[str, ...]
    """Count the jobs in some groups by group and state, for the states in which jobs wait."""
    count_others: tuple[str, ...]
    """The same for the other states of the namespace."""
    promote: str
    """Make due jobs of some groups claimable."""
    candidates: str
    """Find the best jobs of some groups, and whether each is unfit to run."""
    ranked_candidates: str
    """The same with what they are ordered by."""
    any_open: str
    """Tell whether any job waits for another."""

    @abstractmethod
    def numbers(self, alias: str) -> str:
        """Return a table ``alias`` with the column ``value`` for each of a list of numbers."""

    @abstractmethod
    def rows(self, alias: str) -> str:
        """Return a table ``alias`` with the column ``value`` for each of a list of rows."""

    @abstractmethod
    def number(self, alias: str, place: int) -> str:
        """Return a field of a row as a number."""

    @abstractmethod
    def text(self, alias: str, place: int) -> str:
        """Return a field of a row as a text."""

    @abstractmethod
    def by_itself(self, column: str) -> str:
        """Return a text column such that no index is chosen for it: the rows are known by their numbers."""

    @abstractmethod
    def array(self, columns: str, query: str) -> str:
        """Return a query whose rows `Transaction.array` reads; ``columns`` are those that it selects."""

    def page(self, conditions: list[str]) -> str:
        """Return the query for the numbers of jobs under some conditions, in order of their ids."""
        query = f"SELECT seq FROM workerctx_jobs WHERE {' AND '.join(conditions)} ORDER BY ns, id LIMIT ?"
        return self.array("seq", query)

    def __init__(self) -> None:
        self._groups()
        self._enqueueing()
        self._claiming()
        self._leases()
        self._settling()
        self._steering()
        self._looking()
        self._companions()
        self._moving()

    def _groups(self) -> None:
        self.newest_group: str = "SELECT max(grp) FROM workerctx_groups"
        self.groups_since: str = "SELECT grp, queue, kind, labels FROM workerctx_groups WHERE ns = ? AND grp > ?"
        self.add_group: str = "INSERT INTO workerctx_groups (ns, queue, kind, labels) VALUES (?, ?, ?, ?) RETURNING grp"

    def _enqueueing(self) -> None:
        named = f"FROM {self.rows('n')} CROSS JOIN"
        name = self.text("n", 0)
        self.known_jobs: str = self.array(
            "id, seq, state",
            f"SELECT j.id, j.seq, j.state {named} workerctx_jobs j WHERE j.ns = ? AND j.id = {name}{self.share}",
        )
        self.holders: str = self.array(
            "unique_key, id",
            f"SELECT j.unique_key, j.id {named} workerctx_jobs j WHERE j.ns = ? AND j.unique_key = {name} "
            "AND j.unique_key IS NOT NULL AND j.finished_at IS NULL",
        )
        self.cancelled_workflows: str = self.array(
            "workflow_id",
            f"SELECT w.workflow_id {named} workerctx_cancelled_workflows w WHERE w.ns = ? AND w.workflow_id = {name}",
        )
        self.add_dependencies: str = (
            "INSERT INTO workerctx_dependencies (parent, child, done) "
            f"SELECT {self.number('d', 0)}, {self.number('d', 1)}, {self.number('d', 2)} FROM {self.rows('d')}"
        )

    def _claiming(self) -> None:
        self.any_due: str = (
            f"SELECT 1 FROM {self.numbers('g')} WHERE EXISTS (SELECT 1 FROM workerctx_jobs "
            "WHERE grp = g.value AND state = 'scheduled' AND run_at <= ?) LIMIT 1"
        )

    def _leases(self) -> None:
        own = (
            f"FROM {self.rows('l')} WHERE workerctx_jobs.seq = {self.number('l', 0)} "
            f"AND workerctx_jobs.claim_id = {self.text('l', 1)} "
            f"AND {self.by_itself('workerctx_jobs.state')} = 'running' AND +workerctx_jobs.ns = ?"
        )
        held = (
            f"FROM {self.rows('l')} CROSS JOIN workerctx_jobs j WHERE j.seq = {self.number('l', 0)} "
            f"AND j.claim_id = {self.text('l', 1)} AND {self.by_itself('j.state')} = 'running' AND +j.ns = ?"
        )
        self.renew: str = f"UPDATE workerctx_jobs SET lease_expires = ? {own} AND +lease_expires >= ?"
        self.begin_runs: str = f"UPDATE workerctx_jobs SET began = 1, attempt = attempt + 1 {own} AND began = 0"
        self.held: str = self.array(
            "seq, claim_id, cancel",
            f"SELECT j.seq, j.claim_id, j.cancel {held} AND +j.lease_expires >= ?",
        )
        self.set_progress: str = (
            "UPDATE workerctx_jobs SET progress = ? "
            f"WHERE seq = ? AND claim_id = ? AND {self.by_itself('state')} = 'running' AND +ns = ?"
        )
        self.complete: str = (
            f"UPDATE workerctx_jobs SET state = 'succeeded', result = {self.text('l', 2)}, finished_at = ?, "
            f"attempt = attempt + 1 - began, began = 1, lease_expires = NULL, cancel = NULL {own}"
        )
        self.holding: str = self.array("seq, claim_id", f"SELECT j.seq, j.claim_id {held}")

    def _settling(self) -> None:
        self.upstream: str = (
            f"SELECT d.child, p.id, p.result FROM {self.numbers('c')} "
            "CROSS JOIN workerctx_dependencies d CROSS JOIN workerctx_jobs p "
            "WHERE d.child = c.value AND p.seq = d.parent AND p.state = 'succeeded'"
        )
        self.write_back: str = (
            f"UPDATE workerctx_jobs SET state = {self.text('r', 1)}, attempt = {self.number('r', 2)}, "
            f"deliveries = {self.number('r', 3)}, run_at = {self.number('r', 4)}, expires_at = {self.number('r', 5)}, "
            f"worker_id = {self.text('r', 6)}, claimed_at = {self.number('r', 7)}, "
            f"finished_at = {self.number('r', 8)}, result = {self.text('r', 9)}, errors = {self.text('r', 10)}, "
            "lease_expires = NULL, began = 0, cancel = NULL "
            f"FROM {self.rows('r')} WHERE workerctx_jobs.seq = {self.number('r', 0)}"
        )
        self.unblock: str = (
            f"UPDATE workerctx_jobs SET state = {self.text('r', 1)}, waiting = {self.number('r', 2)} "
            f"FROM {self.rows('r')} WHERE workerctx_jobs.seq = {self.number('r', 0)}"
        )
        self.expired_leases: str = self.array(
            "seq",
            "SELECT seq FROM workerctx_jobs WHERE ns = ? AND state = 'running' AND lease_expires < ? "
            f"ORDER BY lease_expires LIMIT ?{self.hold_free}",
        )
        self.expired_jobs: str = self.array(
            "seq",
            f"SELECT seq FROM workerctx_jobs WHERE ns = ? AND expires_at <= ? AND {_EXPIRED} "
            f"ORDER BY expires_at LIMIT ?{self.hold_free}",
        )
        self.open_children: str = self.array(
            "parent, child",
            f"SELECT d.parent, d.child FROM {self.numbers('p')} CROSS JOIN workerctx_dependencies d "
            "WHERE d.parent = p.value AND d.done = 0",
        )
        self.close: str = f"UPDATE workerctx_dependencies SET done = 1 WHERE done = 0 AND parent {self.among}"

    def _steering(self) -> None:
        self.by_id: str = "SELECT seq FROM workerctx_jobs WHERE ns = ? AND id = ?"
        self.holder: str = (
            "SELECT id FROM workerctx_jobs WHERE ns = ? AND unique_key = ? "
            "AND unique_key IS NOT NULL AND finished_at IS NULL"
        )
        # A user's word stands: what was cancelled is not given back because its queue is paused as well.
        self.ask_to_stop: str = (
            f"UPDATE workerctx_jobs SET cancel = ? WHERE seq {self.among} "
            f"AND {self.by_itself('state')} = 'running' AND coalesce(cancel, '') <> 'user'"
        )
        self.in_workflow: str = self.array(
            "seq",
            "SELECT seq FROM workerctx_jobs WHERE ns = ? AND workflow_id = ? "
            "AND workflow_id IS NOT NULL AND finished_at IS NULL",
        )
        self.flag_workflow: str = (
            "INSERT INTO workerctx_cancelled_workflows (ns, workflow_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
        )
        self.clear_workflow: str = "DELETE FROM workerctx_cancelled_workflows WHERE ns = ? AND workflow_id = ?"
        self.pause: str = (
            "INSERT INTO workerctx_pauses (ns, queue, until) VALUES (?, ?, ?) "
            "ON CONFLICT (ns, queue) DO UPDATE SET until = excluded.until"
        )
        self.adopt_pause: str = (
            "INSERT INTO workerctx_pauses (ns, queue, until) VALUES (?, ?, ?) ON CONFLICT (ns, queue) DO UPDATE SET "
            "until = CASE WHEN workerctx_pauses.until IS NULL OR excluded.until IS NULL THEN NULL "
            f"ELSE {self.greatest}(workerctx_pauses.until, excluded.until) END"
        )
        self.resume: str = "DELETE FROM workerctx_pauses WHERE ns = ? AND queue = ?"
        self.running_in: str = self.array(
            "seq",
            "SELECT j.seq FROM workerctx_groups g JOIN workerctx_jobs j ON j.grp = g.grp "
            "WHERE j.ns = ? AND j.state = 'running' AND g.queue = ?",
        )
        self.unfinished_parents: str = self.array(
            "parent",
            "SELECT d.parent FROM workerctx_dependencies d JOIN workerctx_jobs p ON p.seq = d.parent "
            f"WHERE d.child = ? AND p.finished_at IS NULL{self.share}",
        )
        self.reopen: str = f"UPDATE workerctx_dependencies SET done = 0 WHERE child = ? AND parent {self.among}"
        self.block: str = "UPDATE workerctx_jobs SET state = 'blocked', waiting = ? WHERE seq = ?"
        self.remove: str = f"DELETE FROM workerctx_jobs WHERE seq {self.among}"
        self.remove_dependencies: str = (
            f"DELETE FROM workerctx_dependencies WHERE child {self.among} OR parent {self.among}"
        )
        # A job whose outputs an unfinished one still waits for is kept.
        self.prunable: str = self.array(
            "seq",
            "SELECT seq FROM workerctx_jobs j WHERE j.ns = ? AND j.state = ? AND j.finished_at < ? "
            "AND j.finished_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workerctx_dependencies d "
            "JOIN workerctx_jobs c ON c.seq = d.child WHERE d.parent = j.seq AND c.finished_at IS NULL) "
            f"ORDER BY j.finished_at LIMIT ?{self.hold_free}",
        )

    def _looking(self) -> None:
        self.due: str = (
            "SELECT grp, count(*) FROM workerctx_jobs WHERE state = 'scheduled' AND run_at <= ? "
            f"AND grp {self.among} GROUP BY grp"
        )
        self.next_due: str = (
            "SELECT min((SELECT min(run_at) FROM workerctx_jobs "
            f"WHERE grp = g.value AND state = 'scheduled' AND run_at > ?)) FROM {self.numbers('g')}"
        )
        self.pauses: str = "SELECT queue, until FROM workerctx_pauses WHERE ns = ?"
        self.any_expired: str = (
            "SELECT EXISTS (SELECT 1 FROM workerctx_jobs WHERE ns = ? AND state = 'running' AND lease_expires < ?) "
            f"OR EXISTS (SELECT 1 FROM workerctx_jobs WHERE ns = ? AND expires_at <= ? AND {_EXPIRED})"
        )

    def _companions(self) -> None:
        self.add_limit: str = (
            "INSERT INTO workerctx_rate_limits (ns, scope, capacity, per, tat) VALUES (?, ?, ?, ?, 0) "
            "ON CONFLICT DO NOTHING"
        )
        self.change_limit: str = (
            "UPDATE workerctx_rate_limits SET capacity = ?, per = ?, tat = ?, closed_until = ? "
            "WHERE ns = ? AND scope = ?"
        )
        after = f"{self.greatest}(tat, ?) + CAST(? * per * 1000000 / capacity AS BIGINT)"
        self.acquire: str = (
            f"UPDATE workerctx_rate_limits SET tat = {after} "
            f"WHERE ns = ? AND scope = ? AND {after} <= ? + per * 1000000"
        )
        self.drain: str = (
            f"UPDATE workerctx_rate_limits SET tat = {self.greatest}(tat, "
            "? + CAST(per * 1000000 * (capacity - 1) / capacity AS BIGINT)), "
            f"closed_until = {self.greatest}(closed_until, ?) WHERE ns = ? AND scope = ?"
        )
        self.find_limit: str = "SELECT capacity, per, tat FROM workerctx_rate_limits WHERE ns = ? AND scope = ?"
        limit_in_use = "SELECT scope, capacity, per, tat, closed_until FROM workerctx_rate_limits WHERE ns = ?"
        self.hold_limit: str = f"{limit_in_use} AND scope = ?{self.hold}"
        self.limits_in_use: str = f"{limit_in_use} ORDER BY scope"
        self.list_limits: str = "SELECT scope, capacity, per FROM workerctx_rate_limits WHERE ns = ? ORDER BY scope"

        self.register: str = (
            "INSERT INTO workerctx_workers (ns, id, info, heartbeat_at, state, in_flight) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (ns, id) DO UPDATE SET info = excluded.info, heartbeat_at = excluded.heartbeat_at, "
            "state = excluded.state, in_flight = excluded.in_flight, commands = '[]'"
        )
        self.heartbeat: str = (
            "UPDATE workerctx_workers SET heartbeat_at = ?, state = ?, in_flight = ?, commands = '[]' "
            "WHERE ns = ? AND id = ?"
        )
        self.commands: str = f"SELECT commands FROM workerctx_workers WHERE ns = ? AND id = ?{self.hold}"
        self.send: str = "UPDATE workerctx_workers SET commands = ? WHERE ns = ? AND id = ?"
        self.deregister: str = "DELETE FROM workerctx_workers WHERE ns = ? AND id = ?"
        self.list_workers: str = f"SELECT {_WORKER} FROM workerctx_workers WHERE ns = ? ORDER BY id"
        self.silent: str = (
            f"SELECT {_WORKER} FROM workerctx_workers WHERE ns = ? AND heartbeat_at < ? ORDER BY id{self.hold_free}"
        )

        self.put_schedule: str = (
            f"INSERT INTO workerctx_schedules (ns, {_SCHEDULE}) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (ns, name) DO UPDATE SET enabled = excluded.enabled, definition = excluded.definition, "
            "next_fire_at = excluded.next_fire_at, last_fired_at = excluded.last_fired_at"
        )
        self.get_schedule: str = f"SELECT {_SCHEDULE} FROM workerctx_schedules WHERE ns = ? AND name = ?"
        self.hold_schedule: str = f"{self.get_schedule}{self.hold}"
        self.list_schedules: str = f"SELECT {_SCHEDULE} FROM workerctx_schedules WHERE ns = ? ORDER BY name"
        self.due_schedules: str = (
            f"SELECT {_SCHEDULE} FROM workerctx_schedules WHERE ns = ? AND enabled = 1 AND next_fire_at <= ? "
            "ORDER BY name"
        )
        self.next_schedule: str = "SELECT min(next_fire_at) FROM workerctx_schedules WHERE ns = ? AND enabled = 1"
        self.advance_schedule: str = (
            "UPDATE workerctx_schedules SET next_fire_at = ?, last_fired_at = coalesce(?, last_fired_at) "
            "WHERE ns = ? AND name = ? AND next_fire_at = ? AND enabled = 1"
        )
        self.enable_schedule: str = (
            "UPDATE workerctx_schedules SET enabled = ?, next_fire_at = ? WHERE ns = ? AND name = ?"
        )
        self.delete_schedule: str = "DELETE FROM workerctx_schedules WHERE ns = ? AND name = ?"

    def _moving(self) -> None:
        self.store_id: str = "SELECT value FROM workerctx_meta WHERE key = 'store'"
        waiting = f"FROM workerctx_jobs WHERE grp {self.among}"
        self.waiting: str = self.array("seq", f"SELECT seq {waiting} AND state = 'queued' LIMIT ? OFFSET ?")
        self.later: str = self.array("seq", f"SELECT seq {waiting} AND state = 'scheduled' LIMIT ? OFFSET ?")
        self.ended: str = self.array(
            "seq",
            "SELECT seq FROM workerctx_jobs WHERE ns = ? AND state = ? AND finished_at IS NOT NULL LIMIT ? OFFSET ?",
        )
        self.any_ties: str = "SELECT 1 FROM workerctx_dependencies LIMIT 1"
        self.live_children: str = self.array(
            "parent, child",
            f"SELECT d.parent, d.child FROM {self.numbers('p')} CROSS JOIN workerctx_dependencies d "
            "CROSS JOIN workerctx_jobs c WHERE d.parent = p.value AND c.seq = d.child AND c.finished_at IS NULL",
        )
        self.parents: str = self.array(
            "parent, child",
            f"SELECT d.parent, d.child FROM {self.numbers('c')} CROSS JOIN workerctx_dependencies d "
            "WHERE d.child = c.value",
        )
        self.weighed: str = self.array(
            "seq, is_running, size",
            "SELECT seq, state = 'running' AS is_running, length(payload) + coalesce(length(result), 0) AS size "
            f"FROM workerctx_jobs WHERE seq {self.among}",
        )
        self.oldest_batch: str = "SELECT min(batch) FROM workerctx_outbox WHERE ns = ?"
        self.outbox: str = "SELECT target, record FROM workerctx_outbox WHERE ns = ? AND batch = ? ORDER BY place"
        self.put_out: str = "INSERT INTO workerctx_outbox (ns, batch, place, target, record) VALUES (?, ?, ?, ?, ?)"
        self.clear_out: str = "DELETE FROM workerctx_outbox WHERE ns = ? AND batch = ?"
        self.was_received: str = "SELECT 1 FROM workerctx_received WHERE ns = ? AND batch = ?"
        self.receive: str = "INSERT INTO workerctx_received (ns, batch) VALUES (?, ?)"
        self.put_progress: str = (
            f"UPDATE workerctx_jobs SET progress = {self.text('r', 1)} FROM {self.rows('r')} "
            f"WHERE workerctx_jobs.seq = {self.number('r', 0)}"
        )
        self.stopped_workflows: str = "SELECT workflow_id FROM workerctx_cancelled_workflows WHERE ns = ?"
