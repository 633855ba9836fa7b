"""`WorkerMetrics`: everything that is measured, behind one call."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Self

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, ProcessCollector
from prometheus_client.registry import Collector

from workerctx.lifecycle import Error, HeartBeat, Start, Success
from workerctx.runtime import (
    JobFinished,
    JobLost,
    JobsClaimed,
    LoopBlocked,
    LoopLag,
    RunOverran,
    StoreFailed,
    WorkerLoop,
)
from workerctx_prometheus._depth import QueueDepth
from workerctx_prometheus._jobs import DURATIONS, JobSeries
from workerctx_prometheus._serving import MetricsEndpoint, MetricsServer
from workerctx_prometheus._workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import Metric
    from starlette.routing import Route

    from workerctx.lifecycle import Event, WorkerContext

_LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class WorkerMetrics:
    """Measures the workers that are attached to it.

    Labels are bounded: kinds and queues by `max_series`, workers by how many are attached, all others by lists of
    words. Give workers names that stay the same over restarts; the default name has the process id in it.

    Args:
        registry: where the metrics are registered. By default a registry of their own, to which the process's memory,
            CPU and garbage collection are added.
        max_series: how many pairs of kind and queue, and how many queues, get series of their own; what comes later is
            counted under ``other``.
        buckets: upper bounds of the durations of runs, in seconds.
        depth_interval: seconds between two questions to the store how many jobs are in its queues; None never asks. A
            store that is slow to count is asked less often, one that fails loses its figures after three.

    Attributes:
        registry: where the metrics are registered.
        endpoint: an ASGI application that answers scrapes.

    Raises:
        ValueError: `max_series` or `depth_interval` are out of range, or the registry has these metrics already.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        max_series: int = 200,
        buckets: Sequence[float] = DURATIONS,
        depth_interval: float | None = 15.0,
    ) -> None:
        if max_series < 1:
            raise ValueError(f"max_series must be at least 1, not {max_series}")
        if depth_interval is not None and not depth_interval > 0:
            raise ValueError(f"depth_interval must be more than 0 seconds, or None for never, not {depth_interval}")
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            GCCollector(registry=registry)
        self.registry: CollectorRegistry = registry
        self.endpoint: MetricsEndpoint = MetricsEndpoint(registry)
        self._workers = Workers()
        self._depth = None if depth_interval is None else QueueDepth(depth_interval, max_series)
        self._jobs = JobSeries(registry, max_series, tuple(buckets))
        self._claims = Counter("workerctx_jobs_claimed", "Jobs taken from the store.", registry=registry)
        self._lease_losses = Counter(
            "workerctx_lease_losses",
            "Leases that ran out here, during a run or after it.",
            ("during",),
            registry=registry,
        )
        self._store_failures = Counter(
            "workerctx_store_failures", "Rounds with the store that failed and were repeated.", registry=registry
        )
        self._blocks = Counter(
            "workerctx_event_loop_blocks", "How often the event loop was blocked for too long.", registry=registry
        )
        self._overruns = Counter(
            "workerctx_run_overruns", "How often a thread went on although its run was over.", registry=registry
        )
        self._lag = Histogram(
            "workerctx_event_loop_lag_seconds",
            "How long the event loop took to answer, asked twice a second or so.",
            buckets=_LAGS,
            registry=registry,
        )
        self._tasks = Histogram(
            "workerctx_task_duration_seconds",
            "How long tracked and spawned tasks took, except for jobs.",
            ("worker", "outcome"),
            buckets=tuple(buckets),
            registry=registry,
        )
        registry.register(_AtScrape(self._workers, self._depth))

    def attach(self, worker: WorkerLoop | WorkerContext) -> Self:
        """Measure a loop and its jobs, or a context and its tasks, from now on.

        Returns:
            These metrics.

        Raises:
            WorkerError: another worker with its name is attached and has not finished.

        Threads: any, but attach a loop before it runs.
        """
        if isinstance(worker, WorkerLoop):
            self._attach_loop(worker)
        else:
            self._workers.add(worker, None)
            succeeded = self._tasks.labels(worker.name, "succeeded")
            failed = self._tasks.labels(worker.name, "failed")
            worker.listen(lambda _, event: succeeded.observe(event.seconds), Success)
            worker.listen(lambda _, event: failed.observe(event.seconds), Error)
        return self

    def serve(self, port: int, host: str = "127.0.0.1") -> MetricsServer:
        """Answer scrapes on a port, from a thread of its own: also while the event loop is blocked.

        Args:
            port: 0 for any that is free, see `MetricsServer.port`.
            host: the address to listen on; ``0.0.0.0`` for every one of this machine.

        Returns:
            The server, which runs; close it, or use it as a context manager.

        Raises:
            WorkerError: the port cannot be opened.
        """
        return MetricsServer.start(self.registry, port, host)

    def route(self, path: str = "/metrics") -> Route:
        """Make a route for a Starlette or FastAPI application that answers scrapes.

        Raises:
            ImportError: Starlette is not installed.
        """
        return self.endpoint.route(path)

    def _attach_loop(self, loop: WorkerLoop) -> None:
        context = loop.context
        self._workers.add(context, loop)
        during = {False: self._lease_losses.labels("run"), True: self._lease_losses.labels("finish")}
        context.listen(self._jobs.note, JobFinished)
        context.listen(lambda _, event: self._claims.inc(event.number), JobsClaimed)
        context.listen(lambda _, event: during[event.after_run].inc(), JobLost)
        context.listen(_counting(self._store_failures), StoreFailed)
        context.listen(lambda _, event: self._lag.observe(event.seconds), LoopLag)
        context.listen(_counting(self._blocks), LoopBlocked)
        context.listen(_counting(self._overruns), RunOverran)
        if self._depth is not None:
            context.listen(partial(self._depth.look, loop), Start, HeartBeat)


def _counting(counter: Counter) -> Callable[[WorkerContext, Event], None]:
    return lambda _, __: counter.inc()


class _AtScrape(Collector):
    def __init__(self, workers: Workers, depth: QueueDepth | None) -> None:
        self._workers = workers
        self._depth = depth

    def collect(self) -> Iterator[Metric]:
        yield from self._workers.collect()
        if self._depth is not None:
            yield from self._depth.collect()
