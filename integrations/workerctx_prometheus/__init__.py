"""Metrics of workers and their jobs for Prometheus: listeners that count, and a page to scrape."""

from __future__ import annotations

from workerctx_prometheus import _extra as _extra
from workerctx_prometheus._command import serve_metrics as serve_metrics
from workerctx_prometheus._metrics import WorkerMetrics as WorkerMetrics
from workerctx_prometheus._serving import MetricsEndpoint as MetricsEndpoint
from workerctx_prometheus._serving import MetricsServer as MetricsServer

__all__ = [
    "MetricsEndpoint",
    "MetricsServer",
    "WorkerMetrics",
    "serve_metrics",
]
