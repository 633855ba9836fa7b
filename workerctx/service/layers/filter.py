"""Filter: which jobs reach their handler at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from workerctx.errors import RequestRejected
from workerctx.service.layers.mapping import given

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request


@frozen(eq=False)
class Filter:
    """Lets a request pass only if a function says so; a job that may not pass is dead.

    Args:
        allows: Sync or async; what it raises instead decides in its own way: `Snooze` for not now, say.
    """

    allows: Callable[[Request], bool | Awaitable[bool]]

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, if the request may pass.

        Raises:
            RequestRejected: It may not.
        """
        if not await given(self.allows(request)):
            raise RequestRejected(f"a filter rejected this job of {request.kind}, so its handler was not called")
        return await call_next(request)
