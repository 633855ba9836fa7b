"""Rate limits as values; the counting is a store's business."""

from __future__ import annotations

from typing import Final

import msgspec

from workerctx.errors import InvalidRequest, UnknownScope
from workerctx.queue.request import check_name, is_whole
from workerctx.queue.retry import LONGEST_WAIT

LARGEST_CAPACITY: Final = 2**53
"""What every store can count exactly."""


SHORTEST_PERIOD: Final = 1e-6
"""Seconds; no store tells shorter ones apart."""


class Granted(msgspec.Struct, frozen=True):
    """The limit had room, and some of it is now used."""

    scope: str


class RateLimit(msgspec.Struct, frozen=True):
    """``capacity`` calls at once, refilled evenly over ``per`` seconds.

    Attributes:
        scope: Its name, cluster-wide.
        capacity: Largest burst, at least 1 and at most `LARGEST_CAPACITY`.
        per: Seconds in which ``capacity`` calls are allowed, at least `SHORTEST_PERIOD`.
    """

    scope: str
    capacity: int
    per: float

    def __post_init__(self) -> None:
        check_name("a rate limit's scope", self.scope)
        if not (is_whole(self.capacity) and 1 <= self.capacity <= LARGEST_CAPACITY and _is_period(self.per)):
            raise InvalidRequest(
                f"a rate limit needs a whole capacity >= 1 and per >= {SHORTEST_PERIOD:g} seconds, got"
                f" {self.capacity!r} per {self.per!r}"
            )

    @property
    def interval(self) -> float:
        """Seconds between two calls at the allowed rate."""
        return self.per / self.capacity

    def full_until(self, used: LimitInUse, now: float) -> float:
        """Return when all of this limit is free if as many calls of it are used up as of another one."""
        opens = max(now, used.closed_until)
        full = opens
        if used.full_until > opens:
            slower = self.per * used.limit.capacity / (used.limit.per * self.capacity)
            full += min((used.full_until - opens) * slower, LONGEST_WAIT)
        # A closed limit opens with one call.
        return full if opens == now else max(full, opens + self.per - self.interval)


class LimitInUse(msgspec.Struct, frozen=True):
    """A rate limit and how much of it is used up.

    Attributes:
        limit: The limit.
        full_until: When all of it would be free again, in store time.
        closed_until: Until when nobody acquires because it was drained, in store time.
    """

    limit: RateLimit
    full_until: float
    closed_until: float = 0.0


def _is_period(seconds: object) -> bool:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return False
    return SHORTEST_PERIOD <= seconds <= LONGEST_WAIT


def check_acquire(scope: str, amount: int) -> None:
    """Refuse a number of calls that no limit can give, and a name that no limit can have.

    Raises:
        InvalidRequest: The amount is no whole number, below 1, or larger than any capacity.
        UnknownScope: The name is not printable.
    """
    if not (is_whole(amount) and 1 <= amount <= LARGEST_CAPACITY):
        raise InvalidRequest(
            f"acquire a whole number of calls, at least 1 and at most {LARGEST_CAPACITY}, not {amount!r}"
        )
    if not (isinstance(scope, str) and scope.isprintable()):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise UnknownScope(scope)
