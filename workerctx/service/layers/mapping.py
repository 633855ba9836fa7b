"""Mapping: change what goes in, what comes out, or what goes wrong."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from attrs import frozen

from workerctx.errors import Snooze, Throttled
from workerctx.lifecycle.groups import collapse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request


async def given(value: Any) -> Any:
    """Return what a sync or async function gave."""
    return await value if inspect.isawaitable(value) else value


@frozen(eq=False)
class MapRequest:
    """Passes on the request that a function makes of each request.

    Args:
        change: Sync or async; returns the same request or another one.
    """

    change: Callable[[Request], Request | Awaitable[Request]]

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, with another request."""
        return await call_next(await given(self.change(request)))


@frozen(eq=False)
class MapResponse:
    """Hands out what a function makes of each output.

    Args:
        change: Sync or async.
    """

    change: Callable[[Any], Any]

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, and change its output."""
        return await given(self.change(await call_next(request)))


@frozen(eq=False)
class MapError:
    """Raises what a function makes of each error; `Snooze` and `Throttled`, which are no errors, pass as they are.

    Args:
        change: Sync or async; returns the same exception or another one, `Abort` for example.
    """

    change: Callable[[Exception], Exception | Awaitable[Exception]]

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, and change its error.

        Raises:
            Exception: What the function returned, with the first one as its cause.
        """
        try:
            return await call_next(request)
        except Exception as exc:
            cause = collapse(exc)
            if isinstance(cause, Snooze | Throttled) or not isinstance(cause, Exception):
                raise
            error: Exception = await given(self.change(cause))
            if error is cause:
                raise
            raise error from exc
