"""How many jobs are in the queues: asked now and then by a worker, on its event loop, whatever the scraper does."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field, frozen
from prometheus_client.core import GaugeMetricFamily

from workerctx.errors import QueueError
from workerctx_prometheus._jobs import OTHER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import Metric

    from workerctx.lifecycle import Event, WorkerContext
    from workerctx.queue import QueueInfo
    from workerctx.runtime import WorkerLoop

_PATIENCE: Final = 2.0
"""Seconds in which the store has to answer."""
_SHARE: Final = 20
"""A store that needs a second to count is left alone for twenty."""
_MISSED: Final = 3
"""Figures are shown for as long as it takes to miss so many of the next ones."""


@frozen(eq=False)
class _Count:
    infos: Sequence[QueueInfo]
    valid_until: float


@define(eq=False)
class QueueDepth:
    """Asks each store at most once per interval, through any of the loops that it is told of.

    Args:
        interval: seconds between two questions.
        limit: how many queues get series of their own, those with the most jobs first; the rest share ``other``.
    """

    _interval: float
    _limit: int
    _next: dict[tuple[str, str], float] = field(factory=dict[tuple[str, str], float], init=False)
    _counts: dict[tuple[str, str], _Count] = field(factory=dict[tuple[str, str], _Count], init=False)

    async def look(self, loop: WorkerLoop, context: WorkerContext, _: Event) -> None:
        """Ask the store of a loop if it is time to; a listener for its heartbeat."""
        began = time.monotonic()
        storage = loop.jobs.storage
        store = (storage.url, storage.namespace)
        if context.is_stopped or began < self._next.get(store, 0.0):
            return
        interval = max(self._interval, loop.config.heartbeat)
        self._next[store] = began + interval
        infos: Sequence[QueueInfo] | None = None
        try:
            with anyio.move_on_after(_PATIENCE):
                infos = await storage.jobs.queues()
        except QueueError:  # the loop meets the same, and says so
            pass
        ended = time.monotonic()
        pause = max(interval, _SHARE * (ended - began))
        self._next[store] = began + pause
        if infos is not None:
            self._counts[store] = _Count(infos, ended + _MISSED * pause)

    def collect(self) -> Iterator[Metric]:
        """Make the families of what is known and not out of date."""
        now = time.monotonic()
        infos = [info for count in list(self._counts.values()) if now < count.valid_until for info in count.infos]
        names = _with_room(infos, self._limit)
        depths = Counter[tuple[str, str]]()
        paused: dict[str, bool] = {}
        for info in infos:
            name = info.name if info.name in names else OTHER
            paused[name] = paused.get(name, False) or info.paused
            for state, number in info.counts.items():
                depths[name, state.value] += number
        jobs = GaugeMetricFamily(
            "workerctx_queue_jobs", "Jobs in the store, by queue and state.", None, ("queue", "state")
        )
        for key, number in depths.items():
            jobs.add_metric(key, number)
        pauses = GaugeMetricFamily("workerctx_queue_paused", "Whether a queue is paused.", None, ("queue",))
        for name, number in paused.items():
            pauses.add_metric((name,), number)
        yield from (jobs, pauses)


def _with_room(infos: Iterable[QueueInfo], limit: int) -> set[str]:
    sizes = Counter[str]()
    for info in infos:
        sizes[info.name] += sum(info.counts.values())
    return {name for name, _ in sizes.most_common(limit)}
