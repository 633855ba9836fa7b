"""Performing batches of operations on a connection, and doing them again where that is right."""

from __future__ import annotations

import os
import random
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import psycopg
from psycopg.pq import TransactionStatus

from workerctx.errors import StoreUnavailable
from workerctx.queue.hand import together_or_apart
from workerctx.queue.sql.merging import steps
from workerctx.queue.sql.transaction import Groups
from workerctx_postgres._connection import CONFLICTS, is_lost
from workerctx_postgres._transaction import Numbers, PostgresTransaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.broadcast import Broadcast
    from workerctx.queue.hand import Call
    from workerctx.queue.sql.merging import Step
    from workerctx.queue.waking import News
    from workerctx_postgres._connection import Database
    from workerctx_postgres._hub import PostgresHub

CONFLICTS_BORNE: Final = 20
"""How often a transaction is done again because others were in its way."""

_LONGEST_PAUSE: Final = 0.01


class _StepFailed(Exception):
    """One of several steps failed; all of them are done again, each guarded."""


@attrs.define(eq=False)
class Writer:
    """The connection that writes; an `Engine` of a `Batcher`."""

    _database: Database
    _ns: int
    _broadcast: Broadcast
    _hub: PostgresHub
    _connection: psycopg.Connection = attrs.field(init=False)
    _groups: Groups = attrs.field(factory=Groups, init=False)
    _numbers: Numbers = attrs.field(factory=Numbers, init=False)
    _interrupted: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._connection = self._database.enter()

    def perform(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls in one transaction, then publish what happened."""
        tx = self._persist(calls)
        if tx is None:
            return
        if tx.events:
            self._broadcast.publish(tx.events)
        if tx.news is not None:
            self._hub.hear(tx.news)
            if not _tells_of_work(tx.news):
                self._hub.announce(self._connection, tx.news)

    def interrupt(self) -> None:
        """Make a statement that is under way fail, for good: its callers were told that nobody knows."""
        self._interrupted = True
        hang_up(self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _persist(self, calls: Sequence[Call[Any]]) -> PostgresTransaction | None:
        """Do the calls, again if others were in the way or the connection was lost before the commit."""
        guarded = False
        conflicts = 0
        reconnected = False
        while True:
            for call in calls:
                call.result, call.error = None, None
            try:
                return self._transact(calls, guarded=guarded)
            except _StepFailed:
                guarded = True
            except CONFLICTS as exc:
                conflicts += 1
                if conflicts > CONFLICTS_BORNE:
                    raise self._database.explain(exc) from exc
                time.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - only so that two do not meet again
            except psycopg.Error as exc:
                if reconnected or self._interrupted or not is_lost(exc):
                    raise self._database.explain(exc) from exc
                reconnected = True
                self._connection.close()
                self._connection = self._database.enter()

    def _transact(self, calls: Sequence[Call[Any]], *, guarded: bool) -> PostgresTransaction | None:
        cursor = self._connection.cursor()
        try:
            tx = PostgresTransaction(
                self._database.sql,
                cursor,
                self._ns,
                self._groups,
                listening=bool(self._broadcast),
                dialect=self._database.sql,
                row_numbers=self._numbers,
                begun=self._database.begin(cursor, self._ns),
            )
            done = self._do(tx, cursor, calls, guarded=guarded)
        except BaseException:
            self._roll_back()
            raise
        if not done:
            self._roll_back()
            return None
        self._commit(cursor, tx.news)
        return tx

    def _do(
        self, tx: PostgresTransaction, cursor: psycopg.Cursor[Any], calls: Sequence[Call[Any]], *, guarded: bool
    ) -> bool:
        """Do the steps; False if the only one failed.

        Raises:
            _StepFailed: One of several did.
        """
        todo = list(steps(calls))
        for step in todo:
            if guarded:
                self._do_guarded(tx, cursor, step)
                continue
            try:
                step.do(tx)
            except CONFLICTS:
                raise
            except Exception as exc:
                error = self._explained(exc)
                if len(todo) > 1 or step.apart(error):
                    raise _StepFailed from exc
                step.fail(error)
                return False
        return True

    def _do_guarded(self, tx: PostgresTransaction, cursor: psycopg.Cursor[Any], step: Step) -> None:
        """Do a step so that its failure leaves no trace and spares the others."""
        told = len(tx.events)
        cursor.execute("SAVEPOINT step", prepare=False)
        try:
            step.do(tx)
        except CONFLICTS:
            raise
        except Exception as exc:  # noqa: BLE001 - its callers get it
            error = self._explained(exc)
            self._connection.pgconn.exec_(b"ROLLBACK TO step")
            del tx.events[told:]
            tx.groups = self._groups = Groups()
            step.fail(error)
            for single in step.apart(error):
                self._do_guarded(tx, cursor, single)

    def _explained(self, error: Exception) -> Exception:
        """Return what a call is to be told; raises the error again if the store is to blame."""
        if not isinstance(error, (psycopg.Error, UnicodeError)):
            return error
        explained = self._database.explain(error)
        if isinstance(explained, StoreUnavailable):
            raise error
        return explained

    def _commit(self, cursor: psycopg.Cursor[Any], news: News | None) -> None:
        tell = b"" if news is None or not _tells_of_work(news) else self._hub.telling(self._connection, news) + b"; "
        try:
            cursor.execute(tell + b"COMMIT", prepare=False)
        except CONFLICTS:
            self._roll_back()
            raise
        except psycopg.Error as exc:
            self._roll_back()
            if is_lost(exc):
                raise StoreUnavailable(
                    f"the connection to {self._database.place} was lost during a commit; whether it was done is unknown"
                ) from exc
            raise

    def _roll_back(self) -> None:
        # Groups that were added are not there after all.
        self._groups = Groups()
        roll_back(self._connection)


@attrs.define(eq=False)
class Reader:
    """A connection that reads beside the writer; an `Engine` of a `Batcher`."""

    _database: Database
    _ns: int
    _connection: psycopg.Connection = attrs.field(init=False)
    _groups: Groups = attrs.field(factory=Groups, init=False)

    def __attrs_post_init__(self) -> None:
        self._connection = self._database.enter()

    def perform(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls on one snapshot, or each for itself if one of them asks for what cannot be."""
        together_or_apart(calls, self._persist)

    def interrupt(self) -> None:
        """Make a statement that is under way fail."""
        hang_up(self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _persist(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls, again if the connection was lost."""
        try:
            self._look(calls)
        except (psycopg.Error, UnicodeError) as exc:
            if isinstance(exc, UnicodeError) or not is_lost(exc):
                roll_back(self._connection)
                raise self._database.explain(exc) from exc
            self._connection.close()
            self._connection = self._database.enter()
            try:
                self._look(calls)
            except (psycopg.Error, UnicodeError) as again:
                roll_back(self._connection)
                raise self._database.explain(again) from again

    def _look(self, calls: Sequence[Call[Any]]) -> None:
        cursor = self._connection.cursor()
        tx = PostgresTransaction(
            self._database.sql,
            cursor,
            self._ns,
            self._groups,
            dialect=self._database.sql,
            writing=False,
            begun=self._database.begin(cursor, self._ns, "ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        )
        for call in calls:
            call.result, call.error = None, None
            try:
                call.result = call.operation(tx)
            except (psycopg.Error, UnicodeError):
                raise
            except Exception as exc:  # noqa: BLE001 - it is the caller's
                call.error = exc
        cursor.execute("COMMIT", prepare=False)


def roll_back(connection: psycopg.Connection) -> None:
    """Undo the transaction; not through the driver, which would forget every prepared statement."""
    if connection.info.transaction_status is not TransactionStatus.UNKNOWN:
        with suppress(psycopg.Error):
            connection.pgconn.exec_(b"ROLLBACK")


def hang_up(connection: psycopg.Connection) -> None:
    """End a connection under the thread that waits for it; never blocks, unlike asking a server that may be gone."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def _tells_of_work(news: News) -> bool:
    """Return whether the news belong into the transaction, so that work is never there without a wake-up.

    A notification in a transaction makes every other one wait until it is on disk. Whoever waits for a result looks
    again by himself, so those are told afterwards.
    """
    return news.queues is None or bool(news.queues)
