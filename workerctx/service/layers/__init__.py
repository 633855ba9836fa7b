"""Layers: what stands around a handler, one file each; `layer(request, call_next)`, the first added is outermost."""

from workerctx.service.layers.base import Layer as Layer
from workerctx.service.layers.base import Next as Next
from workerctx.service.layers.catch import Catch as Catch
from workerctx.service.layers.catch import as_failure as as_failure
from workerctx.service.layers.concurrency import Concurrency as Concurrency
from workerctx.service.layers.timeout import Timeout as Timeout
from workerctx.service.layers.trace import Trace as Trace

__all__ = ["Catch", "Concurrency", "Layer", "Next", "Timeout", "Trace", "as_failure"]
