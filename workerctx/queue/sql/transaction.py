"""One transaction: the statements' way to the database, one instant of time, and what to tell afterwards."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

import attrs
import msgspec

from workerctx.queue.sql.rows import MICROSECONDS, Group, json_text, to_job
from workerctx.queue.waking import News

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from workerctx.queue.events import JobEvent
    from workerctx.queue.model import QueuedJob
    from workerctx.queue.sql.rows import JobRow
    from workerctx.queue.sql.searching import Search, Taken
    from workerctx.queue.sql.statements import Statements

AT_ONCE: Final = 100
"""How many rows are read at once, each of any size: databases limit a text to about a billion bytes."""

_LONGEST_TEXT: Final = 16 * 1024 * 1024
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")


class Cursor(Protocol):
    """What a driver's cursor must be able to do."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement changed."""
        ...

    def execute(self, query: Any, params: Any = ..., /) -> Self:
        """Execute a statement."""
        ...

    def executemany(self, query: Any, params_seq: Any, /) -> object:
        """Execute a statement once for each set of parameters."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        ...


class Groups:
    """The groups of a namespace, read once and then only as they are added."""

    def __init__(self) -> None:
        self._newest = 0
        self.by_number: dict[int, Group] = {}
        self._by_queue: defaultdict[str, dict[int, Group]] = defaultdict(dict)
        self._numbers: dict[Group, int] = {}

    def refresh(self, tx: Transaction) -> None:
        """Read the groups that were added since the last look, by anybody."""
        self._read(tx, tx.newest_group())

    def find(self, tx: Transaction, number: int) -> Group:
        """Return a group by its number."""
        if number not in self.by_number:
            self._read(tx, tx.value(tx.sql.newest_group))
        return self.by_number[number]

    def of(self, queue: str) -> Mapping[int, Group]:
        """Return the groups of a queue by their numbers; there may be many more in queues that are long gone."""
        return self._by_queue.get(queue, {})

    def known(self, group: Group) -> bool:
        """Return whether the group need not be looked for."""
        return group in self._numbers

    def _read(self, tx: Transaction, newest: int | None) -> None:
        if newest is None or newest == self._newest:
            return
        for number, queue, kind, labels in tx.rows(tx.sql.groups_since, tx.ns, self._newest):
            self._remember(number, Group(queue, kind, frozenset(json.loads(labels))))
        self._newest = newest

    def number(self, tx: Transaction, group: Group) -> int:
        """Return the number of a group, adding it if need be."""
        number = self._numbers.get(group)
        if number is None:
            # Others add none meanwhile, so that the numbers become visible in their order.
            tx.shut_out(["groups"])
            self._read(tx, tx.value(tx.sql.newest_group))
            number = self._numbers.get(group)
        if number is None:
            number = tx.value(tx.sql.add_group, tx.ns, group.queue, group.kind, json_text(sorted(group.labels)))
            assert isinstance(number, int)
            self._remember(number, group)
        return number

    def _remember(self, number: int, group: Group) -> None:
        self.by_number[number] = self._by_queue[group.queue][number] = group
        self._numbers[group] = number


@attrs.define(eq=False)
class Transaction(ABC):
    """What operations are given to work with.

    Attributes:
        sql: The statements of the store.
        cursor: Of the connection, within a transaction.
        ns: Number of the namespace.
        groups: Its groups.
        now: Store time, in microseconds since the epoch, the same throughout.
        listening: Whether somebody wants the events.
        events: What happened, to be published after the commit.
        ready: Queues in which something may have become claimable.
        finished: Whether a job has finished.
        everyone: Whether all who wait are to be woken.
    """

    sql: Statements
    cursor: Cursor
    ns: int
    groups: Groups
    listening: bool = False
    now: int = attrs.field(init=False)
    events: list[JobEvent] = attrs.field(factory=list["JobEvent"], init=False)
    ready: set[str] = attrs.field(factory=set[str], init=False)
    finished: bool = attrs.field(default=False, init=False)
    everyone: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.now = self.clock()

    # What a dialect does ----------------------------------------------------

    @abstractmethod
    def clock(self) -> int:
        """Return the server's clock and the offset of the store, in microseconds since the epoch."""

    @abstractmethod
    def numbers(self, values: Collection[int]) -> object:
        """Return the parameter for a list of numbers."""

    @abstractmethod
    def array(self, statement: str, *parameters: object) -> list[Any]:
        """Return the rows of a statement made by `Statements.array`; rows of one column as their values."""

    @abstractmethod
    def fresh_numbers(self) -> Iterator[int]:
        """Return numbers for rows that this transaction adds."""

    @abstractmethod
    def insert(self, rows: Sequence[Sequence[object]]) -> None:
        """Add rows of jobs."""

    @abstractmethod
    def read_rows(self, seqs: Sequence[int]) -> Iterable[JobRow]:
        """Return those of the rows that exist; nobody else changes them before the commit."""

    @abstractmethod
    def take(self, search: Search) -> Taken:
        """Lease the best jobs that a search finds."""

    @abstractmethod
    def complete(self, leases: str) -> set[tuple[int, str]]:
        """Let jobs succeed; return row and claim of those that their lease held.

        Args:
            leases: ``[[row, claim id, result], ...]`` as JSON text.
        """

    @abstractmethod
    def shut_out(self, names: Collection[str], *, shared: bool = False) -> None:
        """Keep out others who ask for the same names, until the commit; those who share them all get in."""

    def newest_group(self) -> int | None:
        """Return the largest number of a group, None if there is none."""
        newest: int | None = self.value(self.sql.newest_group)
        return newest

    def paused_queues(self) -> set[str]:
        """Return the queues that nobody claims from now."""
        return {queue for queue, until in self.rows(self.sql.pauses, self.ns) if until is None or until > self.now}

    def promote(self, groups: Sequence[int], limit: int) -> None:
        """Make due jobs claimable, up to a limit in each group."""
        numbers = self.numbers(groups)
        if self.row(self.sql.any_due, numbers, self.now) is not None:
            self.run(self.sql.promote, numbers, self.now, limit)

    # What follows from it ---------------------------------------------------

    @property
    def seconds(self) -> float:
        """Store time in seconds."""
        return self.now / MICROSECONDS

    @property
    def news(self) -> News | None:
        """What is to be told to those who wait, if anything."""
        if self.ready or self.finished or self.everyone:
            return News(None if self.everyone else tuple(self.ready), self.finished)
        return None

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

    def run(self, statement: str, *parameters: object) -> int:
        """Change rows and return how many."""
        return self.cursor.execute(statement, parameters).rowcount

    def run_rows(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Change rows by a statement on `Statements.rows`."""
        for text in json_texts(rows):
            self.run(statement, text)

    def job_rows(self, seqs: Sequence[int]) -> dict[int, JobRow]:
        """Return rows by number; those that do not exist are left out."""
        return {row.seq: row for some in chunks(seqs) for row in self.read_rows(some)}

    def group(self, number: int) -> Group:
        """Return a group by its number."""
        return self.groups.find(self, number)

    def jobs(self, rows: Collection[JobRow]) -> list[QueuedJob]:
        """Return rows as jobs, with the outputs of the jobs they depend on."""
        upstream: dict[int, dict[str, str]] = {}
        waited = [row.seq for row in rows if row.options is not None and "depends_on" in row.options]
        if waited:
            for child, parent, result in self.rows(self.sql.upstream, self.numbers(waited)):
                upstream.setdefault(child, {})[parent] = result
        return [to_job(row, self.group(row.grp), upstream.get(row.seq)) for row in rows]


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in portions that can be read at once."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def json_texts(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Yield rows as JSON texts that are not too long for a parameter."""
    some: list[bytes] = []
    size = 0
    for row in rows:
        text = _encode(row)
        if some and size + len(text) > _LONGEST_TEXT:
            yield f"[{b','.join(some).decode()}]"
            some, size = [], 0
        some.append(text)
        size += len(text)
    if some:
        yield f"[{b','.join(some).decode()}]"
