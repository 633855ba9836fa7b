"""Performing batches of operations on a connection: each in its savepoint, all in one commit."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import attrs

from workerctx.queue.hand import together_or_apart
from workerctx.queue.sql.merging import Step, steps
from workerctx.queue.sql.transaction import Groups
from workerctx.queue.sqlite.connection import REFUSED
from workerctx.queue.sqlite.transaction import SqliteTransaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.broadcast import Broadcast
    from workerctx.queue.hand import Call
    from workerctx.queue.sqlite.connection import Database, FileConnection
    from workerctx.queue.sqlite.ear import SqliteHub


@attrs.define(eq=False)
class Writer:
    """The connection that writes; an `Engine` of a `Batcher`."""

    _database: Database
    _ns: int
    _broadcast: Broadcast
    _hub: SqliteHub
    _connection: FileConnection = attrs.field(init=False)
    _groups: Groups = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._connection = self._database.connect()
        self._groups = Groups()

    def perform(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls in one transaction, then publish what happened."""
        self._database.check_file(self._connection)
        try:
            tx = self._commit(calls)
        except BaseException as exc:
            # Groups that were added are not there after all.
            self._groups = Groups()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(exc, sqlite3.Error):
                raise self._database.explain(exc) from exc
            raise
        if tx.events:
            self._broadcast.publish(tx.events)
        if tx.news is not None:
            self._hub.tell(tx.news)

    def interrupt(self) -> None:
        """Make a statement that is under way fail."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _commit(self, calls: Sequence[Call[Any]]) -> SqliteTransaction:
        cursor = self._connection.begin()
        tx = SqliteTransaction(cursor, self._ns, self._groups, listening=bool(self._broadcast))
        for step in steps(calls):
            self._guarded(tx, step)
        cursor.execute("COMMIT")
        return tx

    def _guarded(self, tx: SqliteTransaction, step: Step) -> None:
        """Do a step so that its failure leaves no trace and spares the other steps."""
        told = len(tx.events)
        tx.cursor.execute("SAVEPOINT step")
        try:
            step.do(tx)
        except Exception as exc:
            if not self._connection.in_transaction:
                raise
            tx.cursor.execute("ROLLBACK TO step")
            tx.cursor.execute("RELEASE step")
            del tx.events[told:]
            tx.groups = self._groups = Groups()
            error = self._database.explain(exc) if isinstance(exc, REFUSED) else exc
            step.fail(error)
            for single in step.apart(error):
                self._guarded(tx, single)
        else:
            tx.cursor.execute("RELEASE step")


@attrs.define(eq=False)
class Reader:
    """A connection that reads beside the writer; an `Engine` of a `Batcher`."""

    _database: Database
    _ns: int
    _connection: FileConnection = attrs.field(init=False)
    _groups: Groups = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._connection = self._database.connect()
        self._connection.execute("PRAGMA query_only = 1")
        self._groups = Groups()

    def perform(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls on one snapshot, or each for itself if one of them asks for what cannot be."""
        self._database.check_file(self._connection)
        together_or_apart(calls, self._look)

    def interrupt(self) -> None:
        """Make a statement that is under way fail."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _look(self, calls: Sequence[Call[Any]]) -> None:
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN")
            tx = SqliteTransaction(cursor, self._ns, self._groups)
            for call in calls:
                try:
                    call.result = call.operation(tx)
                except REFUSED:
                    raise
                except Exception as exc:  # noqa: BLE001 - it is the caller's
                    call.error = exc
            cursor.execute("COMMIT")
        except REFUSED as exc:
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise self._database.explain(exc) from exc
