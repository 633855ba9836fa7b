"""A namespace of a SQL store, opened: two threads with a connection each, and what is told to those who wait."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import attrs

from workerctx.errors import InvalidRequest, StoreClosed
from workerctx.queue.batching import HANG_LIMIT, Batcher
from workerctx.queue.broadcast import Broadcast
from workerctx.queue.opening import Opening
from workerctx.queue.sql.jobs import SqlJobs
from workerctx.queue.sql.limits import SqlRateLimits
from workerctx.queue.sql.moving import SqlMoving
from workerctx.queue.sql.rows import to_micros
from workerctx.queue.sql.schedules import SqlSchedules
from workerctx.queue.sql.workers import SqlWorkers

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from workerctx.queue.base import LeaseRenewer
    from workerctx.queue.hand import Engine
    from workerctx.queue.sql.jobs import CallersTransaction
    from workerctx.queue.sql.transaction import Transaction
    from workerctx.queue.waking import WakeupHub


@attrs.define(eq=False, kw_only=True)
class SqlStorage(ABC):
    """`Storage` in tables; see there for what each method promises.

    Attributes:
        url: As it was given.
        namespace: The part of the store that is used.
    """

    url: str = attrs.field(repr=False)
    namespace: str
    jobs: SqlJobs = attrs.field(init=False, repr=False)
    rate_limits: SqlRateLimits = attrs.field(init=False, repr=False)
    workers: SqlWorkers = attrs.field(init=False, repr=False)
    schedules: SqlSchedules = attrs.field(init=False, repr=False)
    moving: SqlMoving = attrs.field(init=False, repr=False)
    _ns: int | None = attrs.field(default=None, init=False, repr=False)
    _opening: Opening = attrs.field(
        default=attrs.Factory(lambda self: Opening(self._start, self._shut), takes_self=True), init=False, repr=False
    )
    _broadcast: Broadcast = attrs.field(factory=Broadcast, init=False, repr=False)
    _waiters: WakeupHub = attrs.field(init=False, repr=False)
    _writer: Batcher[Transaction] = attrs.field(init=False, repr=False)
    _reader: Batcher[Transaction] = attrs.field(init=False, repr=False)

    # What a store does ------------------------------------------------------

    @abstractmethod
    def _find_namespace(self) -> int:
        """Bring the tables up to date and return the number of the namespace; in a thread."""

    @abstractmethod
    def _make_writer(self) -> Engine:
        """Open the connection that writes; in its thread."""

    @abstractmethod
    def _make_reader(self) -> Engine:
        """Open the connection that reads; in its thread."""

    @abstractmethod
    def _move_clock(self, tx: Transaction, micros: int) -> None:
        """Move the clock of the store forward."""

    @abstractmethod
    def open_renewer(self) -> LeaseRenewer:
        """Return a renewer for the leases of this storage."""

    def _assemble(
        self, name: str, waiters: WakeupHub, callers: CallersTransaction, *, hang_limit: float = HANG_LIMIT
    ) -> None:
        """Put the parts together.

        Args:
            name: Of the store, in the names of its threads.
            waiters: Of this storage.
            callers: How to enqueue on connections of others.
            hang_limit: Seconds after which a connection that does not answer is given up.
        """
        self._waiters = waiters
        self._writer = Batcher(self._make_writer, f"workerctx-{name}-writer", hang_limit=hang_limit)
        self._reader = Batcher(self._make_reader, f"workerctx-{name}-reader", hang_limit=hang_limit)
        self.jobs = SqlJobs(self._writer, self._reader, self._broadcast, waiters, callers)
        self.rate_limits = SqlRateLimits(self._writer, self._reader)
        self.workers = SqlWorkers(self._writer, self._reader)
        self.schedules = SqlSchedules(self._writer, self._reader)
        self.moving = SqlMoving(self._writer, self._reader, self.namespace)

    # What follows from it ---------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._opening.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._opening.close()

    async def now(self) -> float:
        """Return the store's time, in seconds since the epoch."""
        return await self._reader.call(lambda tx: tx.seconds)

    async def advance(self, seconds: float) -> None:
        """Move the clock of the store forward, for everyone who uses it."""
        if not 0 <= seconds < float("inf"):
            raise InvalidRequest(f"a clock moves forward by 0 or more seconds, not by {seconds}")

        def do(tx: Transaction) -> None:
            self._move_clock(tx, to_micros(seconds))
            tx.everyone = tx.finished = True

        await self._writer.call(do)

    def _start(self, is_left: Callable[[], bool]) -> None:
        self._ns = self._find_namespace()
        if not is_left():
            self._writer.start()
            self._reader.start()

    def _shut(self) -> None:
        self._waiters.close()
        self._reader.close()
        self._writer.close()
        self._broadcast.close()
        self._ns = None

    def _number(self) -> int:
        if self._ns is None:
            raise StoreClosed('the store is not open: use it inside "async with"')
        return self._ns
