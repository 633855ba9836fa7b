"""Enqueueing in the caller's own transaction."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar
from weakref import WeakKeyDictionary

import anyio
import anyio.from_thread
import anyio.to_thread
import attrs
import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from workerctx.errors import InvalidRequest, SchemaError
from workerctx.queue.sql.enqueueing import enqueue_all
from workerctx.queue.sql.rows import Group
from workerctx.queue.sql.transaction import Groups
from workerctx_postgres._connection import CONFLICTS
from workerctx_postgres._engine import CONFLICTS_BORNE
from workerctx_postgres._statements import quoted
from workerctx_postgres._transaction import PostgresTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from workerctx.queue.model import EnqueueOutcome
    from workerctx.queue.request import EnqueueRequest
    from workerctx.queue.sql.transaction import Cursor
    from workerctx_postgres._connection import Database
    from workerctx_postgres._hub import PostgresHub

T = TypeVar("T")

# Savepoints of tasks that share a connection must not cross: going back to one would undo what another task did.
_turns: WeakKeyDictionary[psycopg.AsyncConnection[Any], anyio.Lock] = WeakKeyDictionary()
_turns_lock = threading.Lock()


def _turn_on(connection: psycopg.AsyncConnection[Any]) -> anyio.Lock:
    with _turns_lock:
        return _turns.setdefault(connection, anyio.Lock())


@attrs.define(eq=False)
class CallersTransaction:
    """Enqueues on a connection that belongs to somebody else.

    Attributes:
        store_id: Which store the tables must be.
    """

    _database: Database
    _hub: PostgresHub
    _number: Callable[[], int]
    store_id: str = ""
    _groups: Groups = attrs.field(factory=Groups, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    async def enqueue(self, connection: Any, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
        """Add jobs on a connection; they are there, and workers are told, once its owner commits.

        Args:
            connection: A psycopg connection, synchronous or not, or a SQLAlchemy connection or session on one.
            requests: The jobs.

        Raises:
            InvalidRequest: It is something else, has no transaction to join, or is connected to another store.
            SchemaError: Its database has no job tables.
            StoreClosed: The storage is not open.

        Cancellation: what has begun on an asynchronous connection is ended first, or it would go on there after its
            owner has rolled back.
        Threads: what the driver does runs in the caller's thread; a connection that is not asynchronous blocks it.
        """
        ns = self._number()
        driver = await _driver_connection(connection)
        if isinstance(driver, psycopg.Connection):
            _check_status(driver)
            await anyio.to_thread.run_sync(self._add_groups, ns, requests)
            return self._enqueue(psycopg.Cursor(driver, row_factory=tuple_row), ns, requests)
        async with _turn_on(driver):
            _check_status(driver)
            await anyio.to_thread.run_sync(self._add_groups, ns, requests)
            cursor = _AsyncCursor(psycopg.AsyncCursor(driver, row_factory=tuple_row))
            return await _to_its_end(anyio.to_thread.run_sync(self._enqueue, cursor, ns, requests))

    def _enqueue(self, cursor: Cursor, ns: int, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
        """Do it within a savepoint, so that the caller can go on with his transaction whatever happens."""
        conflicts = 0
        while True:
            try:
                cursor.execute("SAVEPOINT workerctx")
                try:
                    outcomes = self._add(cursor, ns, requests)
                except BaseException:
                    cursor.execute("ROLLBACK TO workerctx")
                    raise
                finally:
                    cursor.execute("RELEASE workerctx")
            except CONFLICTS as exc:
                conflicts += 1
                if conflicts > CONFLICTS_BORNE:
                    raise self._database.explain(exc) from exc
            except (psycopg.Error, UnicodeError) as exc:
                raise self._database.explain(exc) from exc
            else:
                return outcomes

    def _add(self, cursor: Cursor, ns: int, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
        self._check_store(cursor)
        tx = PostgresTransaction(self._database.sql, cursor, ns, self._groups, dialect=self._database.sql)
        outcomes = enqueue_all(tx, requests)
        if tx.news is not None:
            self._hub.notify(cursor, tx.news, told=False)
        return outcomes

    def _check_store(self, cursor: Cursor) -> None:
        tables = f"{quoted(self._database.schema)}.workerctx_meta"
        if cursor.execute("SELECT to_regclass(%s)", (tables,)).fetchone()[0] is None:
            raise SchemaError(
                f"the connection's database has no job tables in schema {self._database.schema!r}: "
                "call workerctx_postgres.migrate(connection, schema=...) on it"
            )
        (found,) = cursor.execute(self._database.sql.store_id).fetchone()
        if found != self.store_id:
            raise InvalidRequest(
                f"the connection is to another database than this store ({self._database.place}): "
                "open a store on the URL of that database"
            )

    def _add_groups(self, ns: int, requests: Sequence[EnqueueRequest]) -> None:
        """Add groups that are new on a connection of our own.

        In the caller's transaction they would hold up everybody who needs the same ones, for as long as it lasts.
        """
        wanted = {Group(request.queue, request.kind, frozenset(request.required_labels)) for request in requests}
        with self._lock:
            unknown = [group for group in wanted if not self._groups.known(group)]
            if not unknown:
                return
            try:
                with self._database.connect() as connection, connection.transaction(), connection.cursor() as cursor:
                    tx = PostgresTransaction(self._database.sql, cursor, ns, Groups(), dialect=self._database.sql)
                    for group in unknown:
                        tx.groups.number(tx, group)
            except psycopg.Error as exc:
                raise self._database.explain(exc) from exc
            self._groups = tx.groups


class _AsyncCursor:
    """The cursor of an asynchronous connection, used from a thread while its owner waits."""

    def __init__(self, cursor: psycopg.AsyncCursor[Any]) -> None:
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        """How many rows the last statement changed."""
        return self._cursor.rowcount

    def execute(self, query: Any, params: Any = None, /) -> _AsyncCursor:
        """Execute a statement on the owner's event loop."""
        anyio.from_thread.run(self._cursor.execute, query, params)
        return self

    def executemany(self, query: Any, params_seq: Any, /) -> None:
        """Execute a statement once for each set of parameters."""
        anyio.from_thread.run(self._cursor.executemany, query, params_seq)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return anyio.from_thread.run(self._cursor.fetchone)

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        return anyio.from_thread.run(self._cursor.fetchall)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what comes of work on asyncio, the only loop of psycopg; whoever is cancelled meanwhile is so afterwards.

    The work is a task of its own, whose calls back into the event loop no scope of the caller cancels.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as exc:  # native: no shield keeps it out
                cancelled = exc
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()


async def _driver_connection(connection: Any) -> psycopg.Connection[Any] | psycopg.AsyncConnection[Any]:
    """Return the psycopg connection in what the caller passed.

    Raises:
        InvalidRequest: There is none.
    """
    inner = connection
    # A session of SQLAlchemy hands out the connection of its transaction; that one has the driver's inside.
    if hasattr(inner, "sync_session"):
        inner = await inner.connection()
    if hasattr(inner, "sync_connection"):
        if not inner.in_transaction():
            await inner.begin()
        inner = (await inner.get_raw_connection()).driver_connection
    elif any(each.__module__.startswith("sqlalchemy.") for each in type(inner).__mro__):
        if hasattr(inner, "get_bind"):
            inner = inner.connection()
        if hasattr(inner, "in_transaction") and not inner.in_transaction():
            inner.begin()
        inner = getattr(getattr(inner, "connection", None), "driver_connection", None)
    if _is_connection(inner):
        return inner
    raise InvalidRequest(
        f"cannot enqueue through {type(connection).__module__}.{type(connection).__qualname__}: "
        "pass a psycopg connection, or a SQLAlchemy connection or session on one"
    )


def _is_connection(found: object) -> TypeGuard[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]]:
    return isinstance(found, psycopg.Connection | psycopg.AsyncConnection)


def _check_status(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    status = connection.info.transaction_status
    if status is TransactionStatus.INERROR:
        raise InvalidRequest("the connection's transaction has failed: roll it back first")
    if status in (TransactionStatus.UNKNOWN, TransactionStatus.ACTIVE):
        raise InvalidRequest("the connection is closed or in the middle of a statement: nothing can be enqueued on it")
    if connection.autocommit and status is TransactionStatus.IDLE:
        raise InvalidRequest(
            "the connection commits by itself and has no transaction under way: use connection.transaction()"
        )
