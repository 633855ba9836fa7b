"""Says what is missing before anything of psycopg is imported."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("psycopg") is None:
    raise ImportError("workerctx_postgres needs the 'postgres' extra: pip install 'workerctx[postgres]'")
