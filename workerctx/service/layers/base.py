"""What a layer is, and how layers are put around a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from workerctx.service.request import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

Next: TypeAlias = Callable[[Request], Awaitable[Any]]
"""The rest of the way to the handler; a layer may call it once, several times, or not at all."""

Layer: TypeAlias = Callable[[Request, Next], Awaitable[Any]]
"""An async callable ``(request, call_next)`` that returns the output of the job."""


def wrap(layers: Sequence[Layer], endpoint: Next) -> Next:
    """Put layers around an endpoint; the first is outermost."""
    for layer in reversed(layers):
        endpoint = _around(layer, endpoint)
    return endpoint


def _around(layer: Layer, call_next: Next) -> Next:
    return lambda request: layer(request, call_next)
