"""Says what is missing before anything of OpenTelemetry is imported."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("opentelemetry") is None:
    raise ImportError("workerctx_opentelemetry needs the 'opentelemetry' extra: pip install 'workerctx[opentelemetry]'")
