"""Says what is missing before anything of prometheus_client is imported."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("prometheus_client") is None:
    raise ImportError("workerctx_prometheus needs the 'prometheus' extra: pip install 'workerctx[prometheus]'")
