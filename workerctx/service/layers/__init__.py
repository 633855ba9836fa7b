"""Layers: what stands around a handler, one file each; `layer(request, call_next)`, the first added is outermost."""

from workerctx.service.layers.ack import Ack as Ack
from workerctx.service.layers.ack import Acknowledge as Acknowledge
from workerctx.service.layers.base import Layer as Layer
from workerctx.service.layers.base import Next as Next
from workerctx.service.layers.catch import Catch as Catch
from workerctx.service.layers.catch import as_failure as as_failure
from workerctx.service.layers.circuit_breaker import CircuitBreaker as CircuitBreaker
from workerctx.service.layers.circuit_breaker import CircuitState as CircuitState
from workerctx.service.layers.concurrency import Concurrency as Concurrency
from workerctx.service.layers.filter import Filter as Filter
from workerctx.service.layers.keyed import Key as Key
from workerctx.service.layers.keyed import by_kind as by_kind
from workerctx.service.layers.keyed import by_tenant as by_tenant
from workerctx.service.layers.load_shedding import LoadShed as LoadShed
from workerctx.service.layers.long_running import LongRunning as LongRunning
from workerctx.service.layers.long_running import Operation as Operation
from workerctx.service.layers.long_running import Operations as Operations
from workerctx.service.layers.mapping import MapError as MapError
from workerctx.service.layers.mapping import MapRequest as MapRequest
from workerctx.service.layers.mapping import MapResponse as MapResponse
from workerctx.service.layers.order import LayerRole as LayerRole
from workerctx.service.layers.rate_limit import ClusterRateLimit as ClusterRateLimit
from workerctx.service.layers.rate_limit import LocalRateLimit as LocalRateLimit
from workerctx.service.layers.retry import Retry as Retry
from workerctx.service.layers.retry import Try as Try
from workerctx.service.layers.tenant import Tenant as Tenant
from workerctx.service.layers.timeout import Timeout as Timeout
from workerctx.service.layers.trace import Trace as Trace

__all__ = [
    "Ack",
    "Acknowledge",
    "Catch",
    "CircuitBreaker",
    "CircuitState",
    "ClusterRateLimit",
    "Concurrency",
    "Filter",
    "Key",
    "Layer",
    "LayerRole",
    "LoadShed",
    "LocalRateLimit",
    "LongRunning",
    "MapError",
    "MapRequest",
    "MapResponse",
    "Next",
    "Operation",
    "Operations",
    "Retry",
    "Tenant",
    "Timeout",
    "Trace",
    "Try",
    "as_failure",
    "by_kind",
    "by_tenant",
]
