"""Says what is missing before anything of Starlette is imported."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("starlette") is None:
    raise ImportError("workerctx_starlette needs the 'starlette' extra: pip install 'workerctx[starlette]'")
