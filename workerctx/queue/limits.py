"""Rate limits as values; the counting is a store's business."""

from __future__ import annotations

import msgspec

from workerctx.errors import InvalidRequest
from workerctx.queue.request import check_name
from workerctx.queue.retry import LONGEST_WAIT


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
        if not (isinstance(self.capacity, int) and self.capacity >= 1 and 0 < self.per <= LONGEST_WAIT):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidRequest(
                f"a rate limit needs a whole capacity >= 1 and per > 0 seconds, got {self.capacity} per {self.per}"
            )

    @property
    def interval(self) -> float:
        """Seconds between two calls at the allowed rate."""
        return self.per / self.capacity
