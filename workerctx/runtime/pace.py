"""How fast jobs end, and so how many of them are worth claiming before a slot is free."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterable

_SMOOTHING: Final = 0.2
"""Share of the newest in an average."""
_SHORTEST_MEMORY: Final = 0.01
"""Seconds of work after which the rate at which jobs end is as good as forgotten; it takes a run at the least."""
_MOST: Final = 1000
"""Jobs to claim ahead: with more, a round costs no less for each, and workers share a queue less evenly."""
_SHORTEST_WAIT: Final = 0.001
"""Seconds; below that, timers are no use."""


@define(eq=False)
class Pace:
    """How long runs take, how much that varies, and how many end in a second of work.

    A job is worth claiming ahead if it is likely to begin soon: within half of the prefetch window after it has come,
    so that one which is late is still in time.
    """

    run: float = field(default=0.0, init=False)
    """Seconds that a run takes, on average."""
    deviation: float = field(default=0.0, init=False)
    """Seconds by which runs differ from that, on average."""
    round: float = field(default=0.0, init=False)
    """Seconds that a round with the store takes, on average."""
    _rate: float = field(default=0.0, init=False)
    _ended: int = field(default=0, init=False)

    def note(self, seconds: float) -> None:
        """Take note of a run that has ended."""
        self._ended += 1
        difference = seconds - self.run
        self.run += _SMOOTHING * difference
        self.deviation += _SMOOTHING * (abs(difference) - self.deviation)

    def note_round(self, seconds: float) -> None:
        """Take note of how long a round with the store took."""
        self.round += _SMOOTHING * (seconds - self.round)

    def note_work(self, seconds: float) -> None:
        """Take note of how long the slots had work, not counting when all of them waited for some.

        Else a slow store would make the jobs look slow, so few of them would be claimed, and the slots would wait.
        """
        if seconds <= 0:
            return
        ended, self._ended = self._ended, 0
        memory = max(_SHORTEST_MEMORY, self.run)
        self._rate += min(1.0, seconds / memory) * (ended / seconds - self._rate)

    def brake(self) -> None:
        """Take note that too many were claimed: what follows is slower than what was."""
        self._rate, self._ended = 0.0, 0

    def due(self, began: Iterable[float], now: float, window: float) -> tuple[int, float]:
        """Return how many jobs are likely to begin soon, and in how many seconds to ask again.

        Args:
            began: When the runs that go on began, oldest first.
            now: On the same clock.
            window: The prefetch window, in seconds.
        """
        horizon = min(window, window / 2 + self.round)
        if self.run <= horizon or self.deviation > horizon:
            # Who is next to end cannot be told, only how many will.
            return min(_MOST, int(self._rate * horizon)), math.inf
        soon = 0
        for moment in began:
            left = self.run - (now - moment)
            if left > horizon:
                return soon, max(_SHORTEST_WAIT, left - horizon)
            soon += left > -horizon
        return soon, math.inf
