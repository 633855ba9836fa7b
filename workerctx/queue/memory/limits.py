"""How full a rate limit is."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from workerctx.queue.limits import LimitInUse
from workerctx.queue.retry import LONGEST_WAIT

if TYPE_CHECKING:
    from workerctx.queue.limits import RateLimit

_ROUNDING = 1e-9
"""Calls; what float arithmetic may add to a bucket that is exactly full."""


@attrs.define(eq=False)
class Bucket:
    """A limit as a bucket that leaks: each call fills it by one, and it runs dry evenly.

    This is the generic cell rate algorithm, counted in calls instead of in arrival times, so that the precision
    does not depend on the size of the clock's numbers.
    """

    limit: RateLimit
    _used: float = attrs.field(default=0.0, init=False)
    _at: float = attrs.field(default=0.0, init=False)
    _closed_until: float = attrs.field(default=0.0, init=False)

    def take(self, amount: int, now: float) -> float:
        """Take ``amount`` calls and return 0, or take nothing and return the seconds until there is room."""
        used = self._leak(now)
        excess = used + amount - self.limit.capacity
        if now >= self._closed_until and excess <= _ROUNDING:
            self._used = used + amount
            return 0.0
        if now < self._closed_until:
            # What leaks until then is counted from there: there is room for one call at most.
            return self._at - now + excess * self.limit.interval
        return excess * self.limit.interval

    def drain(self, retry_after: float, now: float) -> None:
        """Take everything, so that the next call is possible ``retry_after`` seconds from now."""
        until = now + retry_after
        if until >= self._closed_until:
            self._used = max(self._leak(until), self.limit.capacity - 1.0)
            self._closed_until = until

    @property
    def in_use(self) -> LimitInUse:
        """The limit and how much of it is used up."""
        return LimitInUse(self.limit, self._at + self._used * self.limit.interval, self._closed_until)

    def fill(self, other: LimitInUse, now: float) -> None:
        """Count as many calls as used as of another limit, and stay closed as long."""
        until = self.limit.full_until(other, now)
        self._used = max(self._leak(now), (until - self._at) / self.limit.interval)
        if other.closed_until > now:
            self.drain(other.closed_until - now, now)

    def change(self, limit: RateLimit, now: float) -> None:
        """Follow another capacity and period; as many calls stay used up as were."""
        self._used = min(self._leak(now), LONGEST_WAIT / limit.interval)
        if now < self._closed_until:
            self._used = max(self._used, limit.capacity - 1.0)
        self.limit = limit

    def _leak(self, now: float) -> float:
        elapsed = now - self._at
        if elapsed > 0:
            self._used = max(0.0, self._used - elapsed / self.limit.interval)
            self._at = now
        return self._used


Buckets: TypeAlias = dict[str, Bucket]
