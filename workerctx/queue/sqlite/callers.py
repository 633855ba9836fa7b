"""Transactional enqueue: jobs that are part of the caller's own transaction."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final

import attrs

from workerctx.errors import InvalidRequest, SchemaError
from workerctx.queue.sql.enqueueing import enqueue_all
from workerctx.queue.sql.transaction import Groups
from workerctx.queue.sqlite.connection import STORE_ID
from workerctx.queue.sqlite.schema import version
from workerctx.queue.sqlite.transaction import SqliteTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerctx.queue.model import EnqueueOutcome
    from workerctx.queue.request import EnqueueRequest
    from workerctx.queue.sqlite.connection import Database

# Changes nothing, but takes the write lock before anything is read.
TAKE_LOCK: Final = "UPDATE workerctx_meta SET value = value WHERE key = 'store'"


@attrs.define(eq=False)
class SqliteCallers:
    """Enqueues on a connection that belongs to somebody else.

    Attributes:
        store_id: Which store the tables must be.
    """

    _database: Database
    _number: Callable[[], int]
    store_id: str = ""

    async def enqueue(self, connection: Any, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
        """Add jobs on a connection; they are there once its owner commits.

        Args:
            connection: A `sqlite3.Connection`, or a SQLAlchemy connection or session on one.
            requests: The jobs.

        Raises:
            StoreClosed: The store is not open.
            InvalidRequest: It is something else, has no transaction to join, or is connected to another store.
            SchemaError: Its database has no job tables.

        Threads: runs in the caller's, as such connections want.
        """
        ns = self._number()
        driver = _driver_connection(connection)
        try:
            self._check(driver)
            _join_transaction(driver)
            cursor = driver.cursor()
            cursor.row_factory = None
            cursor.execute(TAKE_LOCK)
            # No groups are remembered: the caller may roll them back.
            return enqueue_all(SqliteTransaction(cursor, ns, Groups()), requests)
        except sqlite3.Error as exc:
            raise self._database.explain(exc) from exc

    def _check(self, connection: sqlite3.Connection) -> None:
        if version(connection) == 0:
            raise SchemaError(
                "the connection's database has no job tables: call workerctx.queue.sqlite.migrate(connection) on it"
            )
        cursor = connection.cursor()
        cursor.row_factory = None
        (found,) = cursor.execute(STORE_ID).fetchone()
        if found != self.store_id:
            raise InvalidRequest(
                f"the connection is to another database than this store ({self._database.path}): "
                "open a store on the URL of that database"
            )


def _driver_connection(connection: Any) -> sqlite3.Connection:
    """Return the sqlite3 connection in what the caller passed.

    Raises:
        InvalidRequest: There is none.
    """
    inner = connection
    is_async = hasattr(inner, "sync_session") or hasattr(inner, "sync_connection")
    if not is_async and any(each.__module__.startswith("sqlalchemy.") for each in type(inner).__mro__):
        # A session hands out the connection of its transaction; that one has the driver's inside.
        if hasattr(inner, "get_bind"):
            inner = inner.connection()
        inner = getattr(getattr(inner, "connection", None), "driver_connection", None)
    if not isinstance(inner, sqlite3.Connection):
        raise InvalidRequest(
            f"cannot enqueue through {type(connection).__module__}.{type(connection).__qualname__}: "
            "pass a sqlite3 connection, or a SQLAlchemy connection or session on one"
        )
    return inner


def _join_transaction(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        return
    # Python 3.12 has a second way to say that every statement is its own transaction.
    if connection.isolation_level is None or getattr(connection, "autocommit", None) is True:
        raise InvalidRequest(
            "the connection commits by itself and has no transaction under way: execute BEGIN on it first"
        )
    connection.execute("BEGIN IMMEDIATE")
