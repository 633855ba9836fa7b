"""When what died is started again, and when it has died too often."""

from __future__ import annotations

from collections import deque
from typing import Final

from attrs import define, field

HEALTHY: Final = 60.0
"""Seconds after which a process that lived so long is not held responsible for its forerunners."""


@define(eq=False)
class Restarts:
    """The patience of a supervisor: a growing delay for each place, a bound on the deaths of all together.

    Args:
        first: Seconds before the first restart in a place; each one that follows soon waits twice as long.
        longest: Seconds to which the delay grows, unless the first one is longer.
        bearable: How many deaths, of all places together, are borne ...
        within: ... within this many seconds.
    """

    first: float
    bearable: int
    longest: float = 30.0
    within: float = 60.0
    _in_a_row: dict[int, int] = field(factory=dict[int, int], init=False)
    _deaths: deque[float] = field(factory=deque[float], init=False)

    def delay_after_death(self, place: int, lived: float, now: float) -> float | None:
        """Return the seconds until a place is filled again; None if it was one death too many.

        Args:
            place: Which place.
            lived: How many seconds the process in it had lived.
            now: This moment, in seconds of any monotonic clock.
        """
        self._deaths.append(now)
        while now - self._deaths[0] > self.within:
            self._deaths.popleft()
        if len(self._deaths) > self.bearable:
            return None
        before = 0 if lived >= HEALTHY else self._in_a_row.get(place, 0)
        self._in_a_row[place] = before + 1
        return max(self.first, min(self.longest, self.first * 2.0 ** min(before, 60)))
