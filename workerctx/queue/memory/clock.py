"""The time of a memory store: the event loop's clock, so that virtual time works, on top of one real date."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import attrs

from workerctx.lifecycle.home import Home


@attrs.define(eq=False)
class Calendar:
    """What the clocks of one store agree on.

    Attributes:
        offset: Seconds by which tests have moved the store's time.
    """

    offset: float = 0.0
    _latest: float = attrs.field(init=False)
    _started: float = attrs.field(factory=time.monotonic, init=False)
    _date: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._date = self._latest = datetime.now(UTC).timestamp()

    def today(self) -> float:
        """Return where a clock that starts now begins: at the real time, or later if another was ahead."""
        return max(self._latest, self._date + time.monotonic() - self._started)

    def note(self, reading: float) -> None:
        """Remember how far a clock has come, so that no later one begins before that."""
        self._latest = max(self._latest, reading)


class Clock:
    """Store time for one event loop, readable from any thread.

    Seconds since the epoch: the real date when it was made, moved on by the loop's own clock and the offset.
    """

    __slots__ = ("_anchor", "_calendar", "_read")

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        home = Home.current()
        assert home is not None
        self._read = home.clock()
        self._anchor = calendar.today() - self._read()

    def now(self) -> float:
        """Return the store's time."""
        reading = self._anchor + self._read()
        self._calendar.note(reading)
        return reading + self._calendar.offset
