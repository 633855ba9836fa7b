"""A worker context in Starlette and FastAPI applications: lifespan, middleware, injection, probes."""

from __future__ import annotations

from workerctx_starlette import _extra as _extra
from workerctx_starlette._inject import inject as inject
from workerctx_starlette._lifespan import WorkerLifespan as WorkerLifespan
from workerctx_starlette._lifespan import combine_lifespans as combine_lifespans
from workerctx_starlette._lifespan import worker_lifespan as worker_lifespan
from workerctx_starlette._lookup import CurrentWorker as CurrentWorker
from workerctx_starlette._lookup import Named as Named
from workerctx_starlette._lookup import current_worker as current_worker
from workerctx_starlette._lookup import worker_from as worker_from
from workerctx_starlette._lookup import workers_from as workers_from
from workerctx_starlette._middleware import WorkerContextMiddleware as WorkerContextMiddleware
from workerctx_starlette._probes import probes as probes

__all__ = [
    "CurrentWorker",
    "Named",
    "WorkerContextMiddleware",
    "WorkerLifespan",
    "combine_lifespans",
    "current_worker",
    "inject",
    "probes",
    "worker_from",
    "worker_lifespan",
    "workers_from",
]
