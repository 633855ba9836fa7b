"""Rate limits by the generic cell rate algorithm: one number for each scope, moved by one statement."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

from workerctx.errors import InvalidRequest, QueueError, Throttled, UnknownScope
from workerctx.queue.limits import Granted, RateLimit
from workerctx.queue.sql.merging import Merging
from workerctx.queue.sql.rows import MICROSECONDS, to_micros
from workerctx.queue.transitions import check_wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.batching import Batcher
    from workerctx.queue.sql.transaction import Transaction


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
    if not tx.run(tx.sql.drain, tx.now + to_micros(retry_after), tx.ns, scope):
        raise UnknownScope(scope)


class SqlRateLimits:
    """`RateLimits` in a table; see there for what each method promises."""

    def __init__(self, writer: Batcher[Transaction], reader: Batcher[Transaction]) -> None:
        self._writer = writer
        self._reader = reader

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Set a limit."""
        limit = RateLimit(scope, capacity, per)
        await self._writer.call(
            lambda tx: tx.run(tx.sql.configure_limit, tx.ns, limit.scope, limit.capacity, limit.per)
        )

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Take some, or learn how long to wait."""
        if amount < 1:
            raise InvalidRequest(f"acquire at least 1, not {amount}")
        return await self._writer.call(Acquire((scope, amount)))

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Let nobody acquire for a while."""
        check_wait(retry_after)
        await self._writer.call(lambda tx: drain(tx, scope, retry_after))

    async def list(self) -> Sequence[RateLimit]:
        """Return the limits, by scope."""
        rows = await self._reader.call(lambda tx: tx.rows(tx.sql.list_limits, tx.ns))
        return [RateLimit(*row) for row in rows]
