"""A transaction on PostgreSQL, beside others."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict, deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import msgspec

from workerctx.queue.sql.claiming import pick, portions
from workerctx.queue.sql.rows import JobRow, to_micros
from workerctx.queue.sql.searching import Taken
from workerctx.queue.sql.transaction import Transaction, json_texts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from workerctx.queue.sql.searching import Search
    from workerctx_postgres._connection import Moment
    from workerctx_postgres._statements import PostgresStatements

NUMBERS_AT_ONCE: Final = 1000
"""How many row numbers a process takes at once; the sequence grows in such steps."""

_ADVISORY: Final = 0x77637478
"""The class of our advisory locks; the names in it share a few hundred locks, so that there are never too many."""
_LOCKS: Final = 256
_MARGIN: Final = 16


class Numbers:
    """Row numbers that this process may give out."""

    def __init__(self) -> None:
        self._left: Iterator[int] = iter(())

    def take(self, tx: PostgresTransaction) -> Iterator[int]:
        """Yield numbers without end; those of a transaction that fails are never used."""
        while True:
            yield from self._left
            first: int = tx.value(tx.dialect.more_numbers)
            self._left = iter(range(first, first + NUMBERS_AT_ONCE))


@attrs.define(eq=False)
class PostgresTransaction(Transaction):
    """What operations are given to work with.

    Attributes:
        dialect: The statements, again, with those that only this store has.
        row_numbers: For rows that are added.
        writing: Whether rows that are read are held until the commit.
        begun: What was found as the transaction began, unless it has still to be asked for.
    """

    dialect: PostgresStatements = attrs.field(kw_only=True)
    row_numbers: Numbers = attrs.field(kw_only=True, factory=Numbers)
    writing: bool = attrs.field(kw_only=True, default=True)
    begun: Moment | None = attrs.field(kw_only=True, default=None)
    _newest_group: int | None = attrs.field(default=None, init=False)
    _promotion: tuple[object, ...] | None = attrs.field(default=None, init=False)
    _pauses: list[tuple[str, int | None]] = attrs.field(factory=list[tuple[str, "int | None"]], init=False)

    def clock(self) -> int:
        """Return the server's clock with the offset of the store."""
        now, self._newest_group, self._pauses = self.begun or cast("Moment", self.row(self.dialect.start, self.ns))
        return now

    def newest_group(self) -> int | None:
        """Return what was found at the start."""
        return self._newest_group

    def paused_queues(self) -> set[str]:
        """Return what was found at the start."""
        return {queue for queue, until in self._pauses if until is None or until > self.now}

    def numbers(self, values: Collection[int]) -> object:
        """Return the text of an array."""
        return f"{{{','.join(map(str, values))}}}"

    def array(self, statement: str, *parameters: object) -> list[Any]:
        """Return the rows, or their values if they have one column."""
        found = self.rows(statement, *parameters)
        return [value for (value,) in found] if found and len(found[0]) == 1 else found

    def fresh_numbers(self) -> Iterator[int]:
        """Return numbers from a sequence."""
        return self.row_numbers.take(self)

    def insert(self, rows: Sequence[Sequence[object]]) -> None:
        """Add rows of jobs."""
        for text in json_texts(rows):
            self.run(self.dialect.insert, text)

    def read_rows(self, seqs: Sequence[int]) -> Iterable[JobRow]:
        """Return those of the rows that exist, locked if this transaction writes."""
        statement = self.dialect.held_rows if self.writing else self.dialect.job_rows
        return msgspec.convert(self.rows(statement, self.ns, self.numbers(seqs)), list[JobRow])

    def complete(self, leases: str) -> set[tuple[int, str]]:
        """Let jobs succeed whose leases hold them."""
        return set(self.rows(self.dialect.completed, self.now, leases, self.ns))

    def shut_out(self, names: Collection[str], *, shared: bool = False) -> None:
        """Take advisory locks, always in the same order."""
        if not names:
            return
        locks = sorted({zlib.crc32(name.encode()) % _LOCKS for name in names})
        statement = self.dialect.shut_out_shared if shared else self.dialect.shut_out
        self.rows(statement, _ADVISORY, self.numbers(locks))

    def promote(self, groups: Sequence[int], limit: int) -> None:
        """Leave it to the lease to say whether that is needed: to ask would be a round trip more."""
        self._promotion = (self.numbers(groups), self.now, limit)

    def _promote(self) -> None:
        if self._promotion is not None:
            self.run(self.dialect.promote, *self._promotion)
            self._promotion = None

    def take(self, search: Search) -> Taken:
        """Lock the best jobs that nobody else holds, and lease them, all in one statement for each portion."""
        parts = {
            (queue, kind): groups
            for queue, line in search.lines.items()
            for kind, groups in portions(self, search, line)
        }
        if len(parts) == 1:
            ((_, kind), groups) = next(iter(parts.items()))
            return Taken(*self._lease(search, groups, min(search.limit, search.room.get(kind or "", search.limit))))
        self._promote()
        order = [self._portion(search, candidate.grp) for candidate in pick(self, search)]
        found: defaultdict[tuple[str, str | None], deque[JobRow]] = defaultdict(deque)
        unfit: list[int] = []
        taken = 0
        for key, wanted in Counter(order).items():
            rows, in_the_way = self._lease(search, parts[key], wanted, skip=taken)
            found[key].extend(rows)
            unfit += in_the_way
            taken += len(rows)
        if len(search.shares) > 1:
            # The claims were dealt their jobs in this order.
            return Taken([row for rows in found.values() for row in rows], unfit)
        return Taken([found[key].popleft() for key in order if found[key]], unfit)

    def _portion(self, search: Search, grp: int) -> tuple[str, str | None]:
        group = self.group(grp)
        return group.queue, group.kind if group.kind in search.room else None

    def _lease(
        self, search: Search, groups: Sequence[int], wanted: int, *, skip: int = 0
    ) -> tuple[list[JobRow], list[int]]:
        """Lease up to as many jobs as wanted; return them, and the rows of those that are unfit to run.

        Args:
            search: What it is for.
            groups: Where to look.
            wanted: Largest number.
            skip: How many jobs the claims have got already.
        """
        rows: list[JobRow] = []
        unfit: list[int] = []
        # Another process may hold as many at this moment.
        depth = 2 * wanted + _MARGIN
        numbers = self.numbers(groups)
        while True:
            found = self.rows(
                self.dialect.lease,
                numbers,
                0 if self._promotion is None else self.now,
                numbers,
                depth,
                depth,
                self.now,
                wanted - len(rows) - len(unfit),
                search.claim_id,
                self.now,
                *self._deals(search, skip + len(rows)),
            )
            looked: int | None = next(row[0] for row in found if row[-1] is None)
            if looked is None:
                self._promote()
                continue
            placed = sorted((row for row in found if row[-1]), key=_place)
            rows += msgspec.convert(placed, list[JobRow])
            unfit += [row[0] for row in found if row[-1] == 0]
            if len(rows) + len(unfit) >= wanted or looked < depth:
                return rows, unfit
            # Others hold what was looked at: look further.
            depth *= 2

    def _deals(self, search: Search, skip: int) -> tuple[object, ...]:
        """Return which of the jobs go to which claim, from the first that is not dealt yet; a list for each column."""
        deals: list[tuple[int, int, str, int, int]] = []
        start = -skip
        for share in search.shares:
            request = share.request
            stop = start + share.room
            deals.append((start, stop, request.worker_id, self.now + to_micros(request.lease_ttl), int(request.began)))
            start = stop
        return tuple(map(list, zip(*deals, strict=True)))


_place = itemgetter(-1)
