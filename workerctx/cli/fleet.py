"""The workers as others see them: which of them live, and which could take a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workerctx.queue import QueuedJob, WorkerInfo

SILENT_AFTER: Final = 30.0
"""Seconds without a heartbeat after which a worker is taken for dead."""


def is_live(worker: WorkerInfo, now: float) -> bool:
    """Whether a worker was heard of lately, given the store's time."""
    return now - worker.heartbeat_at <= SILENT_AFTER


def knows(worker: WorkerInfo, kind: str) -> bool:
    """Whether a worker can run jobs of a kind."""
    return worker.kinds is None or kind in worker.kinds


def missing_labels(worker: WorkerInfo, job: QueuedJob) -> tuple[str, ...]:
    """Return the labels that a job requires and a worker does not offer."""
    return tuple(label for label in job.required_labels if label not in worker.labels)


def could_take(worker: WorkerInfo, job: QueuedJob) -> bool:
    """Whether a worker serves a job's queue, knows its kind and has its labels."""
    return job.queue in worker.queues and knows(worker, job.kind) and not missing_labels(worker, job)


def is_busy(worker: WorkerInfo) -> bool:
    """Whether all slots of a worker were taken at its last heartbeat."""
    return worker.in_flight >= worker.concurrency


def name_of(worker: WorkerInfo) -> str:
    """Return a worker's id with where it runs."""
    return f"{worker.id} (process {worker.pid} on {worker.hostname or 'an unknown host'})"


def names_of(workers: Iterable[WorkerInfo]) -> str:
    """Return the ids of workers, separated by commas."""
    return ", ".join(worker.id for worker in workers)
