"""Chores that go on through failures of the store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from workerctx.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger("workerctx")


async def keep_on(worker: str, purpose: str, seconds: float, chore: Callable[[], Awaitable[object]]) -> None:
    """Do a chore every so many seconds, until cancelled; of failures in a row only the first and the end are logged.

    Args:
        worker: Its name, for the log.
        purpose: What the chore is for, for the log: "worker 'a' could not ...".
        seconds: From the end of one to the beginning of the next.
        chore: What to do.

    Raises:
        StoreClosed: The store does not come back.
    """
    failures = 0
    while True:
        try:
            await chore()
        except StoreClosed:
            raise
        except Exception as exc:  # noqa: BLE001 - logged, and tried again
            if not failures:
                _log.warning("worker %r could not %s and goes on trying", worker, purpose, exc_info=exc)
            failures += 1
        else:
            if failures:
                _log.info("worker %r could %s again after %d failures", worker, purpose, failures)
            failures = 0
        await anyio.sleep(seconds)
