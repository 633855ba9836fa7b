"""How fast jobs end, and so how many of them are worth claiming before a slot is free."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterable

_SMOOTHING: Final = 0.2
"""Share of the newest sample in an average."""
_STRAGGLER: Final = 3.0
"""A run that takes this many times the usual is not expected to end soon."""
_SHORTEST_HORIZON: Final = 0.002
"""Seconds; below that, timers are no use."""


@define(eq=False)
class Pace:
    """Averages of how long a run and a round with the store take, in seconds.

    A job is worth claiming ahead if it can begin before a round could have brought it: within the horizon.
    """

    run: float = field(default=0.0, init=False)
    round: float = field(default=0.0, init=False)
    ended: int = field(default=0, init=False)
    """How many runs have ended."""
    _rate: float = field(default=0.0, init=False)
    _sampled: int = field(default=0, init=False)

    def note(self, seconds: float) -> None:
        """Take note of a run that has ended."""
        self.ended += 1
        self.run += _SMOOTHING * (seconds - self.run)

    def note_round(self, seconds: float, since_last: float) -> None:
        """Take note of a round with the store, and of the time since the one before."""
        self.round += _SMOOTHING * (seconds - self.round)
        if since_last > 0:
            self._rate += _SMOOTHING * ((self.ended - self._sampled) / since_last - self._rate)
        self._sampled = self.ended

    def brake(self) -> None:
        """Take note that too many were claimed: what follows is slower than what was."""
        self._rate = 0.0

    def horizon(self, window: float) -> float:
        """Return how far ahead to look: two rounds, within the prefetch window."""
        return min(window, max(_SHORTEST_HORIZON, 2 * self.round))

    def due(self, began: Iterable[float], now: float, window: float) -> tuple[int, float]:
        """Return how many jobs are likely to begin within the horizon, and in how many seconds to ask again.

        Args:
            began: when the runs that go on began, oldest first.
            now: on the same clock.
            window: the prefetch window, in seconds.
        """
        horizon = self.horizon(window)
        if self.run <= horizon:
            # Short jobs: half a window of them keeps rounds large, and slow ones among them harmless.
            return int(self._rate * max(horizon, window / 2)), math.inf
        soon = 0
        for moment in began:
            age = now - moment
            if age < self.run - horizon:
                return soon, self.run - horizon - age
            soon += age < _STRAGGLER * self.run
        return soon, math.inf
