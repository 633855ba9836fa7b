"""Rate limits: how many may begin in some time, on one event loop or in the whole cluster."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import anyio
from attrs import Factory, field, frozen, validators

from workerctx.errors import Throttled
from workerctx.service.jobctx import JobCtx
from workerctx.service.layers.keyed import Key, Keyed
from workerctx.service.layers.order import LayerRole
from workerctx.service.options import positive_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request

_Window: TypeAlias = "deque[float]"


@frozen(eq=False)
class LocalRateLimit:
    """Lets at most `limit` requests begin within any `per` seconds; gives the others back, at no attempt's cost.

    One object counts together all that it stands around, on each event loop by itself.

    Args:
        limit: At least 1.
        per: Seconds, or a timedelta.
        by: Counts the requests of each key for themselves.

    Raises:
        ValueError: The limit is below 1, or the time not above 0.
    """

    role: ClassVar[LayerRole] = LayerRole.RATE_LIMIT

    limit: int = field(validator=validators.ge(1))
    per: float = field(converter=positive_seconds)
    by: Key | None = field(default=None, kw_only=True)
    _windows: Keyed[_Window] = field(
        default=Factory(lambda self: self.windows(), takes_self=True), init=False, repr=False
    )

    def windows(self) -> Keyed[_Window]:
        """Return what knows when requests began, with none begun."""
        return Keyed(deque[float], lambda window, now: not window or window[-1] + self.per <= now, self.by)

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, if the limit allows.

        Raises:
            Throttled: It does not, with the seconds until it does.
        """
        now = anyio.current_time()
        window = self._windows.of(request)
        while window and window[0] + self.per <= now:
            window.popleft()
        if len(window) >= self.limit:
            raise Throttled(window[0] + self.per - now)
        window.append(now)
        return await call_next(request)


@frozen(eq=False)
class ClusterRateLimit:
    """Takes from a limit that the store keeps for the whole cluster; gives back who gets nothing, at no attempt's cost.

    Args:
        scope: The limit's name, or a function of the request that returns it. Somebody configures the limit
            beforehand: ``await storage.rate_limits.configure("github", capacity=10, per=60)``.
        amount: How much one run takes.

    Raises:
        ValueError: The amount is below 1.
    """

    role: ClassVar[LayerRole] = LayerRole.RATE_LIMIT

    scope: str | Callable[[Request], str]
    amount: int = field(default=1, validator=validators.ge(1))

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, if the limit allows.

        Raises:
            Throttled: It does not, with the seconds until it does.
            UnknownScope: Nobody configured the limit.
            MissingData: The request has no `JobCtx`.
        """
        scope = self.scope if isinstance(self.scope, str) else self.scope(request)
        answer = await request.data.require(JobCtx).rate_limit.acquire(scope, amount=self.amount)
        if isinstance(answer, Throttled):
            raise Throttled(answer.retry_after)  # without the scope, which would ask the store to drain the limit
        return await call_next(request)
