"""A namespace of a SQLite file, opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import attrs

from workerctx.errors import InvalidRequest
from workerctx.queue.sql.storage import SqlStorage
from workerctx.queue.sqlite.callers import SqliteCallers
from workerctx.queue.sqlite.connection import STORE_ID, Database
from workerctx.queue.sqlite.ear import SqliteHub
from workerctx.queue.sqlite.engine import Reader, Writer
from workerctx.queue.sqlite.migrations import SqliteMigrations
from workerctx.queue.sqlite.renewer import SqliteRenewer

if TYPE_CHECKING:
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
class SqliteStorage(SqlStorage):
    """`Storage` in a SQLite file; see there for what each method promises."""

    _database: Database = attrs.field(alias="database")
    _opened: Database = attrs.field(init=False, repr=False)
    _hub: SqliteHub = attrs.field(init=False, repr=False)
    _callers: SqliteCallers = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._opened = self._database
        self._hub = SqliteHub(self._database, self.namespace)
        self._callers = SqliteCallers(self._database, self._number)
        self._assemble("sqlite", self._hub, self._callers)

    @property
    def migrations(self) -> SqliteMigrations:
        """The tables of the file; see `Migrations`."""
        return SqliteMigrations(self._database)

    def open_renewer(self) -> SqliteRenewer:
        """Return a renewer for the leases of this storage.

        Raises:
            StoreClosed: The storage is not open.
        """
        return SqliteRenewer(self._opened, self._number())

    def _find_namespace(self) -> int:
        self._database.prepare()
        ns: int
        try:
            connection = self._database.connect()
            try:
                if connection.execute(FIND_NAMESPACE, (self.namespace,)).fetchone() is None:
                    connection.begin().execute(ADD_NAMESPACE, (self.namespace,))
                    connection.commit()
                (ns,) = connection.execute(FIND_NAMESPACE, (self.namespace,)).fetchone()
                (self._callers.store_id,) = connection.execute(STORE_ID).fetchone()
            finally:
                connection.close()
        except sqlite3.Error as exc:
            raise self._database.explain(exc) from exc
        # From now on the file must stay this store; a backup of it may take its place.
        self._opened = attrs.evolve(self._database, store_id=self._callers.store_id)
        self._hub.open()
        return ns

    def _make_writer(self) -> Writer:
        return Writer(self._opened, self._number(), self._broadcast, self._hub)

    def _make_reader(self) -> Reader:
        return Reader(self._opened, self._number())

    def _move_clock(self, tx: Transaction, micros: int) -> None:
        tx.run(MOVE_CLOCK, micros)
