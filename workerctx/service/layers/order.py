"""In which order layers belong: the pairs that are doubtful the other way round, and why."""

from __future__ import annotations

from enum import Enum
from itertools import combinations
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class LayerRole(Enum):
    """What a layer does, as far as its place among others depends on it.

    A layer tells its role in an attribute ``role``; one without it may stand anywhere.
    """

    RETRY = "retry"
    TIMEOUT = "timeout"
    TRACE = "trace"
    METRICS = "metrics"
    CONCURRENCY = "concurrency"
    RATE_LIMIT = "rate_limit"
    LOAD_SHEDDING = "load_shedding"
    CATCH = "catch"


WANTED: Final = {
    (LayerRole.RETRY, LayerRole.TRACE): "else all tries together make one record",
    (LayerRole.RETRY, LayerRole.METRICS): "else only the last try is measured",
    (LayerRole.RETRY, LayerRole.TIMEOUT): "else all tries together have the time that is meant for each",
    (LayerRole.TIMEOUT, LayerRole.TRACE): "else a record is written before it is known that the time was over",
    (LayerRole.TIMEOUT, LayerRole.METRICS): "else what counts is how long the timeout took, not the handler",
    (LayerRole.CONCURRENCY, LayerRole.RETRY): "else a job queues again for each try",
    (LayerRole.CONCURRENCY, LayerRole.TIMEOUT): "else waiting for a place uses up the time",
    (LayerRole.RATE_LIMIT, LayerRole.RETRY): "else each try uses up the limit, and a full limit ends the tries",
    (LayerRole.LOAD_SHEDDING, LayerRole.RETRY): "else a job is given back between its tries",
    (LayerRole.RETRY, LayerRole.CATCH): "else a crash passes the retry by",
}
"""Pairs of roles as (outer, inner), each with what happens the other way round."""


def doubts(layers: Sequence[Callable[..., object]]) -> list[tuple[int, int, str]]:
    """Return what is doubtful about an order of layers.

    A pair of which one is absent is no reason for doubt, nor is one that also stands in the wanted order: a timeout
    around a retry with another inside, say.

    Args:
        layers: The first is outermost.

    Returns:
        For each doubt the indices of the outer and the inner layer, and a sentence.
    """
    roles: list[object] = [getattr(layer, "role", None) for layer in layers]
    found: dict[tuple[object, object], tuple[int, int]] = {}
    for outer, inner in combinations(range(len(layers)), 2):
        found.setdefault((roles[outer], roles[inner]), (outer, inner))
    result: list[tuple[int, int, str]] = []
    for (first, second), why in WANTED.items():
        if (first, second) in found or (second, first) not in found:
            continue
        outer, inner = found[second, first]
        names = type(layers[inner]).__name__, type(layers[outer]).__name__
        result.append((outer, inner, f"{names[0]} belongs around {names[1]}, not inside of it: {why}"))
    return result
