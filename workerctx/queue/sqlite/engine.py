"""Performing batches of operations on a connection: each in its savepoint, all in one commit."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeGuard, TypeVar

import attrs

from workerctx.errors import QueueError
from workerctx.queue.sqlite.transaction import Groups, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workerctx.queue.broadcast import Broadcast
    from workerctx.queue.hand import Call
    from workerctx.queue.sqlite.connection import Database, FileConnection
    from workerctx.queue.sqlite.wakeups import WakeupHub

A = TypeVar("A")
R = TypeVar("R")


@attrs.frozen(eq=False)
class Merging(Generic[A, R]):
    """An operation of which many are done in one go.

    Attributes:
        argument: What this one is about.
        rank: In a batch, lower ones go first; others than these go between enqueueing and claiming.
    """

    argument: A
    rank: ClassVar[int] = 0

    def __call__(self, tx: Transaction) -> R:
        """Do this one by itself."""
        (outcome,) = self.together(tx, [self.argument])
        if isinstance(outcome, QueueError):
            raise outcome
        return outcome

    @classmethod
    def together(cls, tx: Transaction, arguments: Sequence[A]) -> Sequence[R | QueueError]:
        """Do all of them; one that fails does so alone, with its error in its place."""
        raise NotImplementedError


SINGLE_RANK: Final = 2


@attrs.define(eq=False)
class Writer:
    """The connection that writes; an `Engine` of a `Batcher`."""

    _database: Database
    _ns: int
    _broadcast: Broadcast
    _hub: WakeupHub
    _connection: FileConnection = attrs.field(init=False)
    _groups: Groups = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._connection = self._database.connect()
        self._groups = Groups(self._ns)

    def perform(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls in one transaction, then publish what happened."""
        self._database.check_file(self._connection)
        try:
            tx = self._commit(calls)
        except BaseException as exc:
            # Groups that were added are not there after all.
            self._groups = Groups(self._ns)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(exc, sqlite3.Error):
                raise self._database.explain(exc) from exc
            raise
        if tx.events:
            self._broadcast.publish(tx.events)
        if tx.ready or tx.finished:
            self._hub.tell(tx.ready, finished=tx.finished)

    def interrupt(self) -> None:
        """Make a statement that is under way fail."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _commit(self, calls: Sequence[Call[Any]]) -> Transaction:
        cursor = self._connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        tx = Transaction(cursor, self._ns, self._groups, listening=bool(self._broadcast))
        for step in _steps(calls):
            self._guarded(tx, step)
        cursor.execute("COMMIT")
        return tx

    def _guarded(self, tx: Transaction, step: _Step) -> None:
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
            tx.groups = self._groups = Groups(self._ns)
            error = self._database.explain(exc) if isinstance(exc, sqlite3.Error) else exc
            step.fail(error)
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
        self._groups = Groups(self._ns)

    def perform(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls on one snapshot."""
        self._database.check_file(self._connection)
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN")
            tx = Transaction(cursor, self._ns, self._groups)
            for call in calls:
                try:
                    call.result = call.operation(tx)
                except QueueError as exc:
                    call.error = exc
            cursor.execute("COMMIT")
        except sqlite3.Error as exc:
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise self._database.explain(exc) from exc

    def interrupt(self) -> None:
        """Make a statement that is under way fail."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@attrs.frozen(eq=False)
class _Step:
    """Calls that are done together."""

    calls: Sequence[Call[Any]]
    merging: type[Merging[Any, Any]] | None = None

    def do(self, tx: Transaction) -> None:
        if self.merging is None:
            (call,) = self.calls
            call.result = call.operation(tx)
            return
        outcomes = self.merging.together(tx, [call.operation.argument for call in self.calls])
        for call, outcome in zip(self.calls, outcomes, strict=True):
            if isinstance(outcome, QueueError):
                call.error = outcome
            else:
                call.result = outcome

    def fail(self, error: BaseException) -> None:
        for call in self.calls:
            call.result, call.error = None, error


def _steps(calls: Sequence[Call[Any]]) -> Iterator[_Step]:
    """Group calls that merge. All of them are under way at the same time, so any order between them is right."""
    merged: dict[type[Merging[Any, Any]], list[Call[Any]]] = {}
    single: list[_Step] = []
    for call in calls:
        if _merges(call.operation):
            merged.setdefault(type(call.operation), []).append(call)
        else:
            single.append(_Step([call]))
    kinds = sorted(merged, key=lambda kind: kind.rank)
    yield from (_Step(merged[kind], kind) for kind in kinds if kind.rank < SINGLE_RANK)
    yield from single
    yield from (_Step(merged[kind], kind) for kind in kinds if kind.rank > SINGLE_RANK)


def _merges(operation: object) -> TypeGuard[Merging[Any, Any]]:
    return isinstance(operation, Merging)
