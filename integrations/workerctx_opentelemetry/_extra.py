"""Says what is missing before anything of OpenTelemetry is imported."""

from __future__ import annotations

from importlib.util import find_spec

# Other distributions share the namespace.
if find_spec("opentelemetry") is None or find_spec("opentelemetry.trace") is None:
    raise ImportError("workerctx_opentelemetry needs the 'opentelemetry' extra: pip install 'workerctx[opentelemetry]'")
