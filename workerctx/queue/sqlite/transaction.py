"""One transaction: the statements' way to the database, one instant of time, and what to tell afterwards."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from workerctx.queue.sql import COLUMNS, MICROSECONDS, Group, JobRow, decode_rows, json_text, to_job

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from workerctx.queue.events import JobEvent
    from workerctx.queue.model import QueuedJob

OFFSET: Final = "SELECT value FROM workerctx_meta WHERE key = 'clock_offset'"
GROUPS_SINCE: Final = "SELECT grp, queue, kind, labels FROM workerctx_groups WHERE ns = ? AND grp > ?"
NEWEST_GROUP: Final = "SELECT max(grp) FROM workerctx_groups"
ADD_GROUP: Final = "INSERT INTO workerctx_groups (ns, queue, kind, labels) VALUES (?, ?, ?, ?)"
_JSON_COLUMNS: Final = ", ".join(f"j.{column}" for column in COLUMNS)
ROWS: Final = (
    f"SELECT json_group_array(json_array({_JSON_COLUMNS})) FROM workerctx_jobs j WHERE +j.ns = ? AND j.seq IN "  # noqa: S608 - constants
    "(SELECT value FROM json_each(?))"
)
UPSTREAM: Final = (
    "SELECT d.child, p.id, p.result FROM json_each(?) c "
    "CROSS JOIN workerctx_dependencies d ON d.child = c.value CROSS JOIN workerctx_jobs p ON p.seq = d.parent "
    "WHERE p.state = 'succeeded'"
)


AT_ONCE: Final = 100
"""How many rows travel in one JSON text, which SQLite limits to a billion bytes."""

T = TypeVar("T")


class Groups:
    """The groups of a namespace, read once and then only as they are added."""

    def __init__(self, ns: int) -> None:
        self._ns = ns
        self._newest = 0
        self.by_number: dict[int, Group] = {}
        self._numbers: dict[Group, int] = {}

    def refresh(self, cursor: sqlite3.Cursor) -> None:
        """Read the groups that were added since the last look, by anybody."""
        (newest,) = cursor.execute(NEWEST_GROUP).fetchone()
        if newest is None or newest == self._newest:
            return
        for number, queue, kind, labels in cursor.execute(GROUPS_SINCE, (self._ns, self._newest)).fetchall():
            self._remember(number, Group(queue, kind, frozenset(json.loads(labels))))
        self._newest = newest

    def number(self, cursor: sqlite3.Cursor, queue: str, kind: str, labels: Collection[str]) -> int:
        """Return the number of a group, adding it if need be."""
        group = Group(queue, kind, frozenset(labels))
        number = self._numbers.get(group)
        if number is None:
            self.refresh(cursor)
            number = self._numbers.get(group)
        if number is None:
            cursor.execute(ADD_GROUP, (self._ns, queue, kind, json_text(sorted(group.labels))))
            assert cursor.lastrowid is not None
            number = cursor.lastrowid
            self._remember(number, group)
        return number

    def _remember(self, number: int, group: Group) -> None:
        self.by_number[number] = group
        self._numbers[group] = number


@attrs.define(eq=False)
class Transaction:
    """What operations are given to work with.

    Attributes:
        cursor: Of the connection, within a transaction.
        ns: Number of the namespace.
        groups: Its groups.
        now: Store time, in microseconds since the epoch, the same throughout.
        listening: Whether somebody wants the events.
        events: What happened, to be published after the commit.
        ready: Queues in which something may have become claimable.
        finished: Whether a job has finished.
    """

    cursor: sqlite3.Cursor
    ns: int
    groups: Groups
    listening: bool = False
    now: int = attrs.field(init=False)
    events: list[JobEvent] = attrs.field(factory=list["JobEvent"], init=False)
    ready: set[str] = attrs.field(factory=set[str], init=False)
    finished: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.now = clock() + self.value(OFFSET)

    @property
    def seconds(self) -> float:
        """Store time in seconds."""
        return self.now / MICROSECONDS

    def value(self, statement: str, *parameters: object) -> Any:
        """Return the first column of the first row, or None."""
        row = self.cursor.execute(statement, parameters).fetchone()
        return None if row is None else row[0]

    def row(self, statement: str, *parameters: object) -> Any:
        """Return the first row, or None."""
        return self.cursor.execute(statement, parameters).fetchone()

    def rows(self, statement: str, *parameters: object) -> list[Any]:
        """Return every row."""
        return self.cursor.execute(statement, parameters).fetchall()

    def array(self, statement: str, *parameters: object) -> list[Any]:
        """Return the rows of a statement that makes one JSON array of them."""
        found: list[Any] = json.loads(self.value(statement, *parameters))
        return found

    def run(self, statement: str, *parameters: object) -> int:
        """Change rows and return how many."""
        return self.cursor.execute(statement, parameters).rowcount

    def run_many(self, statement: str, parameters: Iterable[Sequence[object]]) -> int:
        """Change rows once for each set of parameters and return how many in all."""
        return self.cursor.executemany(statement, parameters).rowcount

    def job_rows(self, seqs: Sequence[int]) -> dict[int, JobRow]:
        """Return rows by number; those that do not exist are left out."""
        return {
            row.seq: row for some in chunks(seqs) for row in decode_rows(self.value(ROWS, self.ns, json_text(some)))
        }

    def group(self, number: int) -> Group:
        """Return a group by its number."""
        group = self.groups.by_number.get(number)
        if group is None:
            self.groups.refresh(self.cursor)
            group = self.groups.by_number[number]
        return group

    def jobs(self, rows: Collection[JobRow]) -> list[QueuedJob]:
        """Return rows as jobs, with the outputs of the jobs they depend on."""
        upstream: dict[int, dict[str, str]] = {}
        waited = [row.seq for row in rows if row.options is not None and "depends_on" in row.options]
        if waited:
            for child, parent, result in self.rows(UPSTREAM, json_text(waited)):
                upstream.setdefault(child, {})[parent] = result
        return [to_job(row, self.group(row.grp), upstream.get(row.seq)) for row in rows]


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in portions whose payloads fit into one JSON text even if each has the largest size."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def clock() -> int:
    """Return the machine's clock, which is SQLite's server clock, in microseconds since the epoch."""
    return time.time_ns() // 1000
