"""What all calls have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from workerctx.queue import Storage

R = TypeVar("R")


class Call(msgspec.Struct, Generic[R], frozen=True, omit_defaults=True, tag_field="call"):
    """Base of all calls.

    Attributes:
        returns: The type of what `perform` returns.
        steers: Whether it is the business of operators rather than of handlers.
        waits: Whether it mostly waits for something, rather than asks the store.
        is_large: Whether what it returns may be large.
    """

    returns: ClassVar[Any] = None
    steers: ClassVar[bool] = False
    waits: ClassVar[bool] = False
    is_large: ClassVar[bool] = False

    async def perform(self, storage: Storage, *, again: bool) -> R:
        """Do it.

        Args:
            storage: The real store.
            again: Whether it may have been done already.
        """
        raise NotImplementedError
