"""The time of a memory store: the event loop's clock, so that virtual time works, on top of one real date."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, cast

import anyio.lowlevel
import attrs

if TYPE_CHECKING:
    from collections.abc import Callable


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
        self._read = _loop_clock()
        self._anchor = calendar.today() - self._read()

    def now(self) -> float:
        """Return the store's time."""
        reading = self._anchor + self._read()
        self._calendar.note(reading)
        return reading + self._calendar.offset


class _AsyncioLoop(Protocol):
    def time(self) -> float: ...


def _loop_clock() -> Callable[[], float]:
    """Return what `anyio.current_time` reads in this loop, as a function for any thread."""
    native = anyio.lowlevel.current_token().native_token
    if hasattr(native, "time"):
        return cast("_AsyncioLoop", native).time
    import trio.lowlevel

    return trio.lowlevel.current_clock().current_time
