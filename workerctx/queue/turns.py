"""Whose turn it is: queues in their order, weighted, so that a busy one cannot starve the others."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from workerctx.queue.finish import ClaimRequest

PREFERENCE: Final = 4
"""A queue that always has jobs is served this many times as often as the one after it."""

_LARGEST_EXPONENT: Final = 8
_REMEMBERED: Final = 64
"""How many different orders of queues a rota keeps before it starts afresh."""

T = TypeVar("T")


def preference(queues: Sequence[str]) -> dict[str, int]:
    """Return the weights of queues that were named in order of preference, without any of their own."""
    last = len(queues) - 1
    return {queue: PREFERENCE ** min(last - place, _LARGEST_EXPONENT) for place, queue in enumerate(queues)}


class Turns:
    """Smooth weighted round robin over the queues that have something to give.

    Args:
        queues: In order of preference.
        weights: How often each is served compared to the others, 1 for a queue that is not named; without any,
            each queue is served `PREFERENCE` times as often as the one after it.
    """

    __slots__ = ("_credit", "_weights")

    def __init__(self, queues: Sequence[str], weights: Mapping[str, int] | None = None) -> None:
        self._weights = {queue: weights.get(queue, 1) for queue in queues} if weights else preference(queues)
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

    @property
    def weights(self) -> list[int]:
        """How often each queue is served compared to the others, in their order."""
        return list(self._weights.values())

    @property
    def credit(self) -> list[int]:
        """What each queue has saved up, in their order: all that `next` remembers, for stores that count elsewhere."""
        return list(self._credit.values())

    @credit.setter
    def credit(self, saved: Sequence[int]) -> None:
        self._credit.update(zip(self._credit, saved, strict=True))


@attrs.frozen
class ClaimOrder:
    """A claim and whose turn it is."""

    request: ClaimRequest
    turns: Turns


class Rota:
    """The turns of every order of queues that workers claim from."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[object, Turns] = {}

    def order(self, request: ClaimRequest) -> ClaimOrder:
        """Return a claim with the turns of its queues and weights."""
        queues = tuple(request.queues)
        order = (queues, tuple(request.weights.items()))
        turns = self._turns.get(order)
        if turns is None:
            if len(self._turns) >= _REMEMBERED:
                self._turns.clear()
            turns = self._turns[order] = Turns(queues, request.weights)
        return ClaimOrder(request, turns)


def take_turns(
    turns: Turns,
    lines: Mapping[str, Sequence[T]],
    limit: int,
    *,
    room: Mapping[str, int] | None = None,
    kind_of: Callable[[T], str] | None = None,
) -> list[T]:
    """Merge the queues' candidates, each in its order, by whose turn it is.

    Args:
        turns: Whose turn it is.
        lines: The candidates of each queue, best first.
        limit: Largest number to take.
        room: Of each of these kinds at most so many.
        kind_of: Tells a candidate's kind; needed with ``room``.
    """
    if not room or kind_of is None:
        if len(lines) == 1:
            return list(next(iter(lines.values()))[:limit])
        room, kind_of = {}, _no_kind
    waiting = {queue: deque(line) for queue, line in lines.items() if line}
    taken: list[T] = []
    left = dict(room)
    while waiting and len(taken) < limit:
        queue = turns.next(waiting)
        candidate = waiting[queue].popleft()
        taken.append(candidate)
        if not waiting[queue]:
            del waiting[queue]
        kind = kind_of(candidate)
        if kind in left:
            left[kind] -= 1
            if not left[kind]:
                fitting = {q: deque(c for c in line if kind_of(c) != kind) for q, line in waiting.items()}
                waiting = {q: line for q, line in fitting.items() if line}
    return taken


def _no_kind(_candidate: object) -> str:
    return ""
