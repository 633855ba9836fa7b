"""What is read from the workers at the moment of a scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field
from prometheus_client.core import GaugeMetricFamily

from workerctx.errors import WorkerError
from workerctx.lifecycle import WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from workerctx.lifecycle import WorkerContext
    from workerctx.runtime import WorkerLoop


@define(eq=False)
class Workers:
    """The attached workers, by name; those that have finished are kept until another one is attached."""

    _contexts: dict[str, WorkerContext] = field(factory=dict["str", "WorkerContext"], init=False)
    _loops: dict[str, WorkerLoop] = field(factory=dict["str", "WorkerLoop"], init=False)

    def add(self, context: WorkerContext, loop: WorkerLoop | None) -> None:
        """Add a worker.

        Raises:
            WorkerError: there is one with this name, which has not finished.
        """
        contexts = {name: known for name, known in self._contexts.items() if not known.is_finished}
        if context.name in contexts:
            raise WorkerError(
                f"a worker named {context.name!r} is attached to these metrics and has not finished: give each worker"
                " a name of its own, and attach it once"
            )
        loops = {name: known for name, known in self._loops.items() if name in contexts}
        # Replaced as a whole, for a scrape in another thread.
        self._contexts = contexts | {context.name: context}
        self._loops = loops if loop is None else loops | {context.name: loop}

    def collect(self) -> Iterator[Metric]:
        """Make the families of the workers' states and of what they have in hand."""
        state = _by_worker("workerctx_worker_state", "Whether a worker is in a state.", "state")
        ready = _by_worker("workerctx_worker_ready", "Whether a worker could take work now.")
        alive = _by_worker("workerctx_worker_alive", "Whether nothing is wrong that only a restart would mend.")
        tasks = _by_worker(
            "workerctx_tasks_in_progress", "Tracked and spawned tasks of a worker, running jobs included."
        )
        for name, context in self._contexts.items():
            now = context.state
            for each in WorkerState:
                state.add_metric((name, each.value), each is now)
            ready.add_metric((name,), context.is_ready)
            alive.add_metric((name,), context.is_alive)
            tasks.add_metric((name,), context.task_count)
        yield from (state, ready, alive, tasks)
        running = _by_worker("workerctx_jobs_in_progress", "Jobs that a worker runs.")
        slots = _by_worker("workerctx_job_slots", "How many jobs a worker runs at once, at the most.")
        for name, loop in self._loops.items():
            running.add_metric((name,), loop.in_flight)
            slots.add_metric((name,), loop.config.concurrency)
        yield from (running, slots)


def _by_worker(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, None, ("worker", *labels))
