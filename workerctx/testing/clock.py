"""Time that tests move by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workerctx.queue.request import as_seconds

if TYPE_CHECKING:
    from workerctx.queue.base import Storage
    from workerctx.queue.request import Seconds


async def advance(storage: Storage, seconds: Seconds) -> None:
    """Move a store's clock forward.

    Due times, leases, heartbeats, rate limits and schedules follow, for everyone who has the store open and the
    same way on every store. Timeouts of your own code do not: they belong to the event loop.

    Args:
        storage: An open storage.
        seconds: By how many seconds, or a timedelta; not negative.

    Raises:
        InvalidRequest: The seconds are negative.
    """
    await storage.advance(as_seconds(seconds))
