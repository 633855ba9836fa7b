"""What a layer is, and how layers are put around a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from workerctx.errors import InvalidHandler
from workerctx.service.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Next: TypeAlias = Callable[[Request], Awaitable[Any]]
"""The rest of the way to the handler; a layer may call it once, several times, or not at all."""

Layer: TypeAlias = Callable[[Request, Next], Awaitable[Any]]
"""An async callable ``(request, call_next)`` that returns the output of the job."""


def as_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return layers as a tuple.

    Raises:
        InvalidHandler: One of them is none, or the class of one.
    """
    found = tuple(layers)
    for layer in found:
        if isinstance(layer, type):
            raise InvalidHandler(f"{layer.__name__} is a class and no layer yet: call it, {layer.__name__}(...)")
        if not callable(layer):
            raise InvalidHandler(f"a layer is an async callable (request, call_next), not {layer!r}")
    return found


def wrap(layers: Sequence[Layer], endpoint: Next) -> Next:
    """Put layers around an endpoint; the first is outermost."""
    for layer in reversed(layers):
        endpoint = _around(layer, endpoint)
    return endpoint


def _around(layer: Layer, call_next: Next) -> Next:
    return lambda request: layer(request, call_next)
