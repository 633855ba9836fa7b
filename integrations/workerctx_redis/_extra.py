"""Says what is missing before anything of coredis is imported."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("coredis") is None:
    raise ImportError("workerctx_redis needs the 'redis' extra: pip install 'workerctx[redis]'")
