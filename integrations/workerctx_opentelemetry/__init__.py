"""Traces of jobs for OpenTelemetry: a span for each enqueueing and each run, linked through the job's headers."""

from __future__ import annotations

from workerctx_opentelemetry import _extra as _extra
from workerctx_opentelemetry._tracing import JobTracing as JobTracing

__all__ = ["JobTracing"]
