"""Renewing leases from a thread that no event loop can hold up."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Self

import attrs

from workerctx.errors import StoreUnavailable
from workerctx.queue.finish import check_ttl
from workerctx.queue.sql.leases import renew
from workerctx.queue.sql.transaction import Groups
from workerctx.queue.sqlite.transaction import SqliteTransaction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from workerctx.queue.model import Renewed
    from workerctx.queue.sqlite.connection import Database, FileConnection


@attrs.define(eq=False)
class SqliteRenewer:
    """`LeaseRenewer` with a connection of its own.

    Threads: used by one thread.
    """

    _database: Database
    _ns: int
    _connection: FileConnection | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        self._connection = self._database.connect()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def renew(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        """Renew leases for ``extend_by`` seconds from now; see `LeaseRenewer.renew`."""
        check_ttl("extend_by", extend_by)
        connection = self._connection
        if connection is None:
            connection = self._connection = self._database.connect()
        try:
            self._database.check_file(connection)
            cursor = connection.begin()
            renewed = renew(SqliteTransaction(cursor, self._ns, Groups()), lease_ids, extend_by)
            cursor.execute("COMMIT")
        except (sqlite3.Error, StoreUnavailable) as exc:
            # A connection that failed is not trusted again; the next renewal opens another one.
            self._connection = None
            connection.close()
            if isinstance(exc, sqlite3.Error):
                raise self._database.explain(exc) from exc
            raise
        return renewed
