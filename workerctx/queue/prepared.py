"""Calls that are made ready before they are needed, and begun by whoever learns first that they are."""

from __future__ import annotations

from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Prepared(Protocol[T_co]):
    """A call of a store that has not been made yet, or is under way, or is done.

    Its owner asks for the result or drops it, once; others may begin it for him.
    """

    def begin(self) -> None:
        """Make the call, unless that was done; once it is dropped, do nothing.

        Threads: any.
        """
        ...

    async def result(self) -> T_co:
        """Make the call, unless that was done, and return what came of it.

        Raises:
            QueueError: What the call itself would raise.

        Cancellation: as that of the call itself.
        """
        ...

    def drop(self) -> None:
        """Do without the result: a call that was not made is never made, and what another one did is undone.

        Does nothing once the result was returned.
        """
        ...
