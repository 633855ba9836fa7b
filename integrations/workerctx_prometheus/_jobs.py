"""What is counted about runs of jobs, with the series of each kind and queue at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen
from prometheus_client import Counter, Histogram

from workerctx.runtime import JobOutcome

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from workerctx.lifecycle import WorkerContext
    from workerctx.runtime import JobFinished

OTHER: Final = "other"
"""What stands in a label for everything that came when there was no room for another name."""

DURATIONS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
LATENCIES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

_CUT_SHORT: Final = frozenset({JobOutcome.RELEASED, JobOutcome.LOST})
"""Outcomes of runs that say nothing of how long a job takes."""


@frozen(eq=False)
class _Series:
    """The series of one kind in one queue; finding them by their labels is slow."""

    outcomes: dict[JobOutcome, Counter]
    duration: Histogram
    latency: Histogram


@define(eq=False)
class JobSeries:
    """Counts runs by kind, queue and outcome.

    Args:
        registry: where the metrics are registered.
        limit: how many pairs of kind and queue get series of their own; the rest share ``other``.
        buckets: of the durations.
    """

    _registry: CollectorRegistry
    _limit: int
    _buckets: tuple[float, ...]
    _jobs: Counter = field(init=False)
    _durations: Histogram = field(init=False)
    _latencies: Histogram = field(init=False)
    _at_hand: dict[tuple[str, str], _Series] = field(factory=dict[tuple[str, str], _Series], init=False)

    def __attrs_post_init__(self) -> None:
        self._jobs = Counter(
            "workerctx_jobs",
            "Runs of jobs that ended, by what becomes of the job.",
            ("kind", "queue", "outcome"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "workerctx_job_duration_seconds",
            "How long runs took that came to an end of their own.",
            ("kind", "queue"),
            buckets=self._buckets,
            registry=self._registry,
        )
        self._latencies = Histogram(
            "workerctx_queue_latency_seconds",
            "How long jobs waited from the time when they were due to the beginning of their run.",
            ("queue",),
            buckets=LATENCIES,
            registry=self._registry,
        )

    def note(self, _: WorkerContext, event: JobFinished) -> None:
        """Count a run; a listener."""
        job = event.job
        series = self._at_hand.get((job.kind, job.queue))
        if series is None:
            series = self._find(job.kind, job.queue)
        outcome = event.outcome
        series.outcomes[outcome].inc()
        if outcome not in _CUT_SHORT:
            series.duration.observe(event.seconds)
            series.latency.observe(event.waited)

    def _find(self, kind: str, queue: str) -> _Series:
        if len(self._at_hand) >= self._limit and (kind, queue) != (OTHER, OTHER):
            rest = self._at_hand.get((OTHER, OTHER))
            return self._find(OTHER, OTHER) if rest is None else rest
        series = _Series(
            {outcome: self._jobs.labels(kind, queue, outcome.value) for outcome in JobOutcome},
            self._durations.labels(kind, queue),
            self._latencies.labels(queue),
        )
        self._at_hand[kind, queue] = series
        return series
