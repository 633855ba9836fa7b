"""Concurrency: how many may be inside at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import anyio
from attrs import Factory, field, frozen, validators

from workerctx.service.layers.keyed import Key, Keyed
from workerctx.service.layers.order import LayerRole

if TYPE_CHECKING:
    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request


@frozen(eq=False)
class Concurrency:
    """Lets at most `limit` requests be inside at once; the others wait, in order of arrival.

    One object counts together all that it stands around, on each event loop by itself. Who waits holds a slot of the
    worker: where that is too much, put a `LoadShed` around it.

    Args:
        limit: At least 1.
        by: Counts the requests of each key for themselves: `by_kind`, `by_tenant`, or any function of a request.

    Raises:
        ValueError: The limit is below 1.
    """

    role: ClassVar[LayerRole] = LayerRole.CONCURRENCY

    limit: int = field(validator=validators.ge(1))
    by: Key | None = field(default=None, kw_only=True)
    _rooms: Keyed[anyio.Semaphore] = field(
        default=Factory(lambda self: self.rooms(), takes_self=True), init=False, repr=False
    )

    def rooms(self) -> Keyed[anyio.Semaphore]:
        """Return what counts who is inside, with nobody in."""
        return Keyed(
            lambda: anyio.Semaphore(self.limit, fast_acquire=True), lambda room, _: room.value == self.limit, self.by
        )

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Wait for room, and run what is inside.

        Cancellation: a request that waits gives up its place, and one that is inside makes room.
        """
        async with self._rooms.of(request):
            return await call_next(request)
