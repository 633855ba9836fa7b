"""Rate limits by the generic cell rate algorithm: one number for each scope, moved by one statement."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from workerctx.errors import InvalidRequest, QueueError, Throttled, UnknownScope
from workerctx.queue.limits import Granted, LimitInUse, RateLimit, check_acquire
from workerctx.queue.sql.merging import Merging
from workerctx.queue.sql.rows import MICROSECONDS, from_micros, to_micros
from workerctx.queue.transitions import check_wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.batching import Batcher
    from workerctx.queue.sql.transaction import Transaction


def configure(tx: Transaction, limit: RateLimit) -> None:
    """Set a limit, of which as many calls stay used up as were."""
    known = _hold(tx, limit)
    if limit != known.limit:
        _change(tx, limit, limit.full_until(known, tx.seconds), known.closed_until)


def adopt(tx: Transaction, arriving: LimitInUse) -> None:
    """Set a limit unless it is there, and count as used up what is used up elsewhere."""
    known = _hold(tx, arriving.limit)
    full_until = max(known.full_until, known.limit.full_until(arriving, tx.seconds))
    _change(tx, known.limit, full_until, max(known.closed_until, arriving.closed_until))


def acquire(tx: Transaction, scope: str, amount: int) -> Granted | Throttled:
    """Take ``amount`` calls, or say how long to wait.

    Raises:
        UnknownScope: Nobody configured the limit.
        InvalidRequest: More than its capacity is asked for, which it can never give.
    """
    if tx.run(tx.sql.acquire, tx.now, amount, tx.ns, scope, tx.now, amount, tx.now):
        return Granted(scope)
    found = tx.row(tx.sql.find_limit, tx.ns, scope)
    if found is None:
        raise UnknownScope(scope)
    capacity, per, tat = found
    if amount > capacity:
        raise InvalidRequest(f"rate limit {scope!r} never gives {amount} at once: its capacity is {capacity}")
    wait = max(tat, tx.now) + amount * per * MICROSECONDS / capacity - per * MICROSECONDS - tx.now
    return Throttled(max(wait, 1) / MICROSECONDS, scope)


class Acquire(Merging["tuple[str, int]", "Granted | Throttled"]):
    """Take calls; many of them go by scope, so that no two transactions wait for each other."""

    rank = 1

    @classmethod
    def together(
        cls, tx: Transaction, arguments: Sequence[tuple[str, int]]
    ) -> Sequence[Granted | Throttled | QueueError]:
        """Take each amount in turn, or say why not."""
        outcomes: dict[int, Granted | Throttled | QueueError] = {}
        for place, (scope, amount) in sorted(enumerate(arguments), key=itemgetter(1)):
            try:
                outcomes[place] = acquire(tx, scope, amount)
            except QueueError as exc:
                outcomes[place] = exc
        return [outcomes[place] for place in range(len(arguments))]


def drain(tx: Transaction, scope: str, retry_after: float) -> None:
    """Let nobody acquire for ``retry_after`` seconds.

    Raises:
        UnknownScope: Nobody configured the limit.
    """
    opens = tx.now + to_micros(retry_after)
    if not tx.run(tx.sql.drain, opens, opens, tx.ns, scope):
        raise UnknownScope(scope)


def in_use(row: tuple[Any, ...]) -> LimitInUse:
    """Return a limit as `Statements.limits_in_use` reads it."""
    scope, capacity, per, tat, closed_until = row
    return LimitInUse(RateLimit(scope, capacity, per), from_micros(tat), from_micros(closed_until))


def _hold(tx: Transaction, limit: RateLimit) -> LimitInUse:
    """Return the limit of a scope, the given one if there was none; nobody acquires meanwhile."""
    tx.run(tx.sql.add_limit, tx.ns, limit.scope, limit.capacity, limit.per)
    return in_use(tx.row(tx.sql.hold_limit, tx.ns, limit.scope))


def _change(tx: Transaction, limit: RateLimit, full_until: float, closed_until: float) -> None:
    times = to_micros(full_until), to_micros(closed_until)
    tx.run(tx.sql.change_limit, limit.capacity, limit.per, *times, tx.ns, limit.scope)


class SqlRateLimits:
    """`RateLimits` in a table; see there for what each method promises."""

    def __init__(self, writer: Batcher[Transaction], reader: Batcher[Transaction]) -> None:
        self._writer = writer
        self._reader = reader

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Set a limit."""
        limit = RateLimit(scope, capacity, per)
        await self._writer.call(lambda tx: configure(tx, limit))

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Take some, or learn how long to wait."""
        check_acquire(scope, amount)
        return await self._writer.call(Acquire((scope, amount)))

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Let nobody acquire for a while."""
        check_wait(retry_after)
        await self._writer.call(lambda tx: drain(tx, scope, retry_after))

    async def list(self) -> Sequence[RateLimit]:
        """Return the limits, by scope."""
        rows = await self._reader.call(lambda tx: tx.rows(tx.sql.list_limits, tx.ns))
        return [RateLimit(*row) for row in rows]
