"""Timeout: end what runs too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import anyio
from attrs import field, frozen

from workerctx.errors import HandlerTimeout
from workerctx.service.layers.order import LayerRole
from workerctx.service.options import positive_seconds

if TYPE_CHECKING:
    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request


@frozen(eq=False)
class Timeout:
    """Cancels what is inside after some time and raises `HandlerTimeout`.

    Outside of a retry it bounds all tries together, inside of it each one. A sync handler runs on in its thread: the
    timeout takes effect when the thread returns, and its result is kept. `JobCtx.cancel` tells such a handler earlier.

    Args:
        seconds: Seconds, or a timedelta.

    Raises:
        ValueError: It is not above 0.
    """

    role: ClassVar[LayerRole] = LayerRole.TIMEOUT

    seconds: float = field(converter=positive_seconds)

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, bounded.

        Raises:
            HandlerTimeout: It took too long and was cancelled.
        """
        with anyio.CancelScope(deadline=anyio.current_time() + self.seconds) as scope:
            return await call_next(request)
        if scope.cancelled_caught:
            raise HandlerTimeout(
                f"{request.kind} ran longer than {self.seconds:g} s and was cancelled: allow it more time, "
                "or split the job"
            )
        raise AssertionError("a scope that caught nothing was left without a result")  # pragma: no cover
