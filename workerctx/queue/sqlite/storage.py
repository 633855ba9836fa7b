"""A namespace of a SQLite file, opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

import anyio
import attrs

from workerctx.errors import InvalidRequest, StoreClosed
from workerctx.queue.batching import Batcher
from workerctx.queue.broadcast import Broadcast
from workerctx.queue.sql.jobs import SqlJobs
from workerctx.queue.sql.limits import SqlRateLimits
from workerctx.queue.sql.rows import to_micros
from workerctx.queue.sql.schedules import SqlSchedules
from workerctx.queue.sql.workers import SqlWorkers
from workerctx.queue.sqlite.callers import CallersTransaction
from workerctx.queue.sqlite.connection import STORE_ID, Database
from workerctx.queue.sqlite.ear import SqliteHub
from workerctx.queue.sqlite.engine import Reader, Writer
from workerctx.queue.sqlite.renewer import SqliteRenewer

if TYPE_CHECKING:
    from types import TracebackType

    from workerctx.queue.connect import StoreURL
    from workerctx.queue.sql.transaction import Transaction

ADD_NAMESPACE: Final = "INSERT OR IGNORE INTO workerctx_namespaces (name) VALUES (?)"
FIND_NAMESPACE: Final = "SELECT ns FROM workerctx_namespaces WHERE name = ?"
MOVE_CLOCK: Final = "UPDATE workerctx_meta SET value = value + ? WHERE key = 'clock_offset'"

_OPTIONS: Final = frozenset({"synchronous"})


def open_sqlite(url: StoreURL) -> SqliteStorage:
    """Return the storage that a ``sqlite:`` URL names.

    Raises:
        InvalidRequest: The URL has no path, a host, or an option that is not known.
    """
    url.refuse_unknown(_OPTIONS)
    if urlsplit(url.raw).netloc:
        raise InvalidRequest(f"{url.raw!r} names a host; write sqlite:///relative.db or sqlite:////absolute/path.db")
    path = unquote(url.path).removeprefix("/")
    if not path or path == ":memory:":
        raise InvalidRequest(f"{url.raw!r} names no file; for jobs in memory use memory://")
    return SqliteStorage(
        url=url.raw,
        namespace=url.namespace,
        database=Database(Path(path), url.options.get("synchronous", "full").lower()),
    )


@attrs.define(eq=False, kw_only=True)
class SqliteStorage:
    """`Storage` in a SQLite file; see there for what each method promises.

    Attributes:
        url: As it was given.
        namespace: The part of the file that is used.
    """

    url: str
    namespace: str
    _database: Database = attrs.field(alias="database")
    _broadcast: Broadcast = attrs.field(factory=Broadcast, init=False)
    _hub: SqliteHub = attrs.field(init=False)
    _writer: Batcher[Transaction] = attrs.field(init=False)
    _reader: Batcher[Transaction] = attrs.field(init=False)
    _callers: CallersTransaction = attrs.field(init=False)
    jobs: SqlJobs = attrs.field(init=False)
    rate_limits: SqlRateLimits = attrs.field(init=False)
    workers: SqlWorkers = attrs.field(init=False)
    schedules: SqlSchedules = attrs.field(init=False)
    _ns: int | None = attrs.field(default=None, init=False)
    _opened: Database = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._opened = self._database
        self._hub = SqliteHub(self._database, self.namespace)
        self._writer = Batcher(self._make_writer, "workerctx-sqlite-writer")
        self._reader = Batcher(self._make_reader, "workerctx-sqlite-reader")
        self._callers = CallersTransaction(self._database)
        self.jobs = SqlJobs(self._writer, self._reader, self._broadcast, self._hub, self._callers)
        self.rate_limits = SqlRateLimits(self._writer, self._reader)
        self.workers = SqlWorkers(self._writer, self._reader)
        self.schedules = SqlSchedules(self._writer, self._reader)

    async def __aenter__(self) -> Self:
        if self._ns is not None:
            raise StoreClosed("this storage is open already: connect again for a second one")
        try:
            await anyio.to_thread.run_sync(self._open)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close)

    def open_renewer(self) -> SqliteRenewer:
        """Return a renewer for the leases of this storage.

        Raises:
            StoreClosed: The storage is not open.
        """
        return SqliteRenewer(self._opened, self._number())

    async def now(self) -> float:
        """Return the store's time, in seconds since the epoch."""
        return await self._reader.call(lambda tx: tx.seconds)

    async def advance(self, seconds: float) -> None:
        """Move the clock of this file forward, for everyone who uses it."""
        if not 0 <= seconds < float("inf"):
            raise InvalidRequest(f"a clock moves forward by 0 or more seconds, not by {seconds}")

        def do(tx: Transaction) -> None:
            tx.run(MOVE_CLOCK, to_micros(seconds))
            tx.everyone = tx.finished = True

        await self._writer.call(do)

    def _open(self) -> None:
        self._database.prepare()
        try:
            connection = self._database.connect()
            try:
                connection.execute(ADD_NAMESPACE, (self.namespace,))
                (self._ns,) = connection.execute(FIND_NAMESPACE, (self.namespace,)).fetchone()
                (self._callers.store_id,) = connection.execute(STORE_ID).fetchone()
            finally:
                connection.close()
        except sqlite3.Error as exc:
            raise self._database.explain(exc) from exc
        self._callers.ns = self._number()
        # From now on the file must stay this store; a backup of it may take its place.
        self._opened = attrs.evolve(self._database, store_id=self._callers.store_id)
        self._hub.open()
        self._writer.start()
        self._reader.start()

    def _close(self) -> None:
        self._hub.close()
        self._reader.close()
        self._writer.close()
        self._broadcast.close()
        self._ns = None

    def _number(self) -> int:
        if self._ns is None:
            raise StoreClosed('the store is not open: use it inside "async with"')
        return self._ns

    def _make_writer(self) -> Writer:
        return Writer(self._opened, self._number(), self._broadcast, self._hub)

    def _make_reader(self) -> Reader:
        return Reader(self._opened, self._number())
