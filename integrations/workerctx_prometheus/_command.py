"""What ``workerctx worker --metrics-port`` finds here."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from workerctx_prometheus._metrics import WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Generator

    from workerctx.runtime import WorkerLoop
    from workerctx_prometheus._serving import MetricsServer


@contextmanager
def serve_metrics(loop: WorkerLoop, port: int, host: str = "127.0.0.1") -> Generator[MetricsServer]:
    """Measure a loop, and answer scrapes on a port inside the block.

    Raises:
        WorkerError: the port cannot be opened.
    """
    with WorkerMetrics().attach(loop).serve(port, host) as server:
        yield server
