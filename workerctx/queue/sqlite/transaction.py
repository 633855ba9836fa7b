"""A transaction on a SQLite file, where one writes at a time."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import attrs

from workerctx.queue.sql.claiming import pick
from workerctx.queue.sql.rows import decode_rows, json_text, to_micros
from workerctx.queue.sql.searching import Taken
from workerctx.queue.sql.transaction import Transaction
from workerctx.queue.sqlite.statements import SQLITE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from workerctx.queue.sql.rows import JobRow
    from workerctx.queue.sql.searching import Search
    from workerctx.queue.sql.statements import Statements


@attrs.define(eq=False)
class SqliteTransaction(Transaction):
    """What operations are given to work with."""

    sql: Statements = attrs.field(default=SQLITE, init=False)

    def clock(self) -> int:
        """Return the machine's clock, which is SQLite's server clock, with the offset of the file."""
        offset: int = self.value(SQLITE.offset)
        return machine_clock() + offset

    def numbers(self, values: Collection[int]) -> object:
        """Return a JSON text."""
        return json_text(list(values))

    def array(self, statement: str, *parameters: object) -> list[Any]:
        """Read the JSON text that the statement makes."""
        found: list[Any] = json.loads(self.value(statement, *parameters))
        return found

    def fresh_numbers(self) -> Iterator[int]:
        """Count on from the newest row."""
        return itertools.count((self.value(SQLITE.newest) or 0) + 1)

    def insert(self, rows: Sequence[Sequence[object]]) -> None:
        """Add rows of jobs."""
        self.cursor.executemany(SQLITE.insert, rows)

    def read_rows(self, seqs: Sequence[int]) -> Iterable[JobRow]:
        """Return those of the rows that exist."""
        return decode_rows(self.value(SQLITE.job_rows, self.ns, json_text(seqs)))

    def complete(self, leases: str) -> set[tuple[int, str]]:
        """Let jobs succeed whose leases hold them."""
        # Asked before the update: afterwards it could not be told which of the leases had held their jobs.
        holding = {(seq, claim_id) for seq, claim_id in self.array(self.sql.holding, leases, self.ns)}
        self.run(self.sql.complete, self.now, leases, self.ns)
        return holding

    def shut_out(self, names: Collection[str], *, shared: bool = False) -> None:
        """Do nothing: everybody else waits for the write lock anyway."""

    def take(self, search: Search) -> Taken:
        """Pick the best jobs, then lease them."""
        picked = pick(self, search)
        seqs = [candidate.seq for candidate in picked if not candidate.unfit]
        start = 0
        for share in search.shares:
            mine = seqs[start : start + share.room]
            if not mine:
                break
            start += len(mine)
            request = share.request
            began = int(request.began)
            expires = self.now + to_micros(request.lease_ttl)
            self.run(SQLITE.lease, began, search.claim_id, request.worker_id, expires, began, self.now, json_text(mine))
        rows = self.job_rows(seqs)
        return Taken([rows[seq] for seq in seqs], [candidate.seq for candidate in picked if candidate.unfit])


def machine_clock() -> int:
    """Return the machine's clock in microseconds since the epoch."""
    return time.time_ns() // 1000
