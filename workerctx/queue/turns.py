"""Whose turn it is: queues in their order, weighted, so that a busy one cannot starve the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

PREFERENCE: Final = 4
"""A queue that always has jobs is served this many times as often as the one after it."""

_LARGEST_EXPONENT: Final = 8


class Turns:
    """Smooth weighted round robin over the queues that have something to give.

    Args:
        queues: In order of preference.
    """

    __slots__ = ("_credit", "_weights")

    def __init__(self, queues: Sequence[str]) -> None:
        last = len(queues) - 1
        self._weights = {
            queue: PREFERENCE ** min(last - place, _LARGEST_EXPONENT) for place, queue in enumerate(queues)
        }
        self._credit = dict.fromkeys(queues, 0)

    def next(self, candidates: Collection[str]) -> str:
        """Return which of the candidates is served now; each is one of the queues, in their order."""
        if len(candidates) == 1:
            return next(iter(candidates))
        credit = self._credit
        total = 0
        for queue in candidates:
            weight = self._weights[queue]
            total += weight
            credit[queue] += weight
        chosen = max(candidates, key=credit.__getitem__)
        credit[chosen] -= total
        return chosen
