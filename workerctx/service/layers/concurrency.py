"""Concurrency: how many may be inside at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import RunVar
from attrs import field, frozen, validators

if TYPE_CHECKING:
    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request


def _limiters() -> RunVar[anyio.Semaphore | None]:
    return RunVar("workerctx concurrency", None)


@frozen(eq=False)
class Concurrency:
    """Lets at most `limit` requests be inside at once; the others wait, in order of arrival.

    One object counts together all that it stands around, on each event loop by itself.

    Args:
        limit: At least 1.

    Raises:
        ValueError: It is below 1.
    """

    limit: int = field(validator=validators.ge(1))
    _semaphore: RunVar[anyio.Semaphore | None] = field(factory=_limiters, init=False, repr=False)

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Wait for room, and run what is inside.

        Cancellation: a request that waits gives up its place, and one that is inside makes room.
        """
        semaphore = self._semaphore.get()
        if semaphore is None:
            semaphore = anyio.Semaphore(self.limit, fast_acquire=True)
            self._semaphore.set(semaphore)
        async with semaphore:
            return await call_next(request)
