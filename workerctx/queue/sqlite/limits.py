"""Rate limits by the generic cell rate algorithm: one number for each scope, moved by one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workerctx.errors import InvalidRequest, Throttled, UnknownScope
from workerctx.queue.limits import Granted, RateLimit
from workerctx.queue.sql import MICROSECONDS, to_micros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.batching import Batcher
    from workerctx.queue.sqlite.transaction import Transaction

CONFIGURE: Final = (
    "INSERT INTO workerctx_rate_limits (ns, scope, capacity, per, tat) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (ns, scope) DO UPDATE SET capacity = excluded.capacity, per = excluded.per"
)
ACQUIRE: Final = (
    "UPDATE workerctx_rate_limits SET tat = max(tat, :now) + CAST(:amount * per * 1000000 / capacity AS INTEGER) "
    "WHERE ns = :ns AND scope = :scope "
    "AND max(tat, :now) + CAST(:amount * per * 1000000 / capacity AS INTEGER) <= :now + per * 1000000"
)
DRAIN: Final = (
    "UPDATE workerctx_rate_limits "
    "SET tat = max(tat, ? + ? + CAST(per * 1000000 * (capacity - 1) / capacity AS INTEGER)) "
    "WHERE ns = ? AND scope = ?"
)
FIND: Final = "SELECT capacity, per, tat FROM workerctx_rate_limits WHERE ns = ? AND scope = ?"
LIST: Final = "SELECT scope, capacity, per FROM workerctx_rate_limits WHERE ns = ? ORDER BY scope"


def acquire(tx: Transaction, scope: str, amount: int) -> Granted | Throttled:
    """Take ``amount`` calls, or say how long to wait.

    Raises:
        UnknownScope: Nobody configured the limit.
        InvalidRequest: More than its capacity is asked for, which it can never give.
    """
    taken = tx.cursor.execute(ACQUIRE, {"now": tx.now, "amount": amount, "ns": tx.ns, "scope": scope}).rowcount
    if taken:
        return Granted(scope)
    found = tx.row(FIND, tx.ns, scope)
    if found is None:
        raise UnknownScope(scope)
    capacity, per, tat = found
    if amount > capacity:
        raise InvalidRequest(f"rate limit {scope!r} never gives {amount} at once: its capacity is {capacity}")
    wait = max(tat, tx.now) + amount * per * MICROSECONDS / capacity - per * MICROSECONDS - tx.now
    return Throttled(max(wait, 1) / MICROSECONDS, scope)


def drain(tx: Transaction, scope: str, retry_after: float) -> None:
    """Let nobody acquire for ``retry_after`` seconds.

    Raises:
        UnknownScope: Nobody configured the limit.
    """
    if not tx.run(DRAIN, tx.now, to_micros(retry_after), tx.ns, scope):
        raise UnknownScope(scope)


class SqliteRateLimits:
    """`RateLimits` in a SQLite file."""

    def __init__(self, writer: Batcher[Transaction], reader: Batcher[Transaction]) -> None:
        self._writer = writer
        self._reader = reader

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Do `RateLimits.configure`."""
        limit = RateLimit(scope, capacity, per)
        await self._writer.call(lambda tx: tx.run(CONFIGURE, tx.ns, limit.scope, limit.capacity, limit.per, 0))

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Do `RateLimits.acquire`."""
        if amount < 1:
            raise InvalidRequest(f"acquire at least 1, not {amount}")
        return await self._writer.call(lambda tx: acquire(tx, scope, amount))

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Do `RateLimits.drain`."""
        if not 0 <= retry_after < float("inf"):
            raise InvalidRequest(f"retry_after must be 0 or more seconds, got {retry_after}")
        await self._writer.call(lambda tx: drain(tx, scope, retry_after))

    async def list(self) -> Sequence[RateLimit]:
        """Do `RateLimits.list`."""
        rows = await self._reader.call(lambda tx: tx.rows(LIST, tx.ns))
        return [RateLimit(*row) for row in rows]
