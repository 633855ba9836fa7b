"""Renewing leases from a thread that no event loop can hold up."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

import attrs
import psycopg

from workerctx.queue.finish import check_ttl
from workerctx.queue.sql.leases import renew
from workerctx.queue.sql.transaction import Groups
from workerctx_postgres._transaction import PostgresTransaction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from workerctx.queue.model import Renewed
    from workerctx_postgres._connection import Database


@attrs.define(eq=False)
class PostgresRenewer:
    """`LeaseRenewer` with a connection of its own.

    Threads: used by one thread.
    """

    _database: Database
    _ns: int
    _connection: psycopg.Connection | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        self._connection = self._database.connect()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._disconnect()

    def renew(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        """Renew leases for ``extend_by`` seconds from now; see `LeaseRenewer.renew`."""
        check_ttl("extend_by", extend_by)
        if self._connection is None:
            self._connection = self._database.connect()
        try:
            with self._connection.cursor() as cursor:
                # Not by the driver's transaction, which warns of each that ends with its server.
                cursor.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                tx = PostgresTransaction(self._database.sql, cursor, self._ns, Groups(), dialect=self._database.sql)
                renewed = renew(tx, lease_ids, extend_by)
                cursor.execute("COMMIT")
                return renewed
        except BaseException as exc:
            # A connection that failed is not trusted again; the next renewal opens another one.
            self._disconnect()
            if isinstance(exc, psycopg.Error):
                raise self._database.explain(exc) from exc
            raise

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
