"""Rate limits as values; the counting is a store's business."""

from __future__ import annotations

import math

import msgspec

from workerctx.errors import InvalidRequest
from workerctx.queue.request import check_name


class Granted(msgspec.Struct, frozen=True):
    """The limit had room, and some of it is now used."""

    scope: str


class RateLimit(msgspec.Struct, frozen=True):
    """``capacity`` calls at once, refilled evenly over ``per`` seconds.

    Attributes:
        scope: Its name, cluster-wide.
        capacity: Largest burst, at least 1.
        per: Seconds in which ``capacity`` calls are allowed.
    """

    scope: str
    capacity: int
    per: float

    def __post_init__(self) -> None:
        check_name("a rate limit's scope", self.scope)
        if self.capacity < 1 or not (math.isfinite(self.per) and self.per > 0):
            raise InvalidRequest(
                f"a rate limit needs capacity >= 1 and per > 0 seconds, got {self.capacity} per {self.per}"
            )

    @property
    def interval(self) -> float:
        """Seconds between two calls at the allowed rate."""
        return self.per / self.capacity
