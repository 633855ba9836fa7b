"""Chores that go on through failures of the store."""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING, Final

import anyio

from workerctx.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.lifecycle.latch import Latch

_log = logging.getLogger("workerctx")

_IN_A_ROW: Final = 30.0
"""Seconds after which a chore that goes on for ever has put its last failure behind itself."""

_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 3.0
_LAST_BACKOFF: Final = 0.1
_DOUBLINGS: Final = 5
"""After so many of the first pause it is the longest."""


def backoff(failures: int) -> float:
    """Return the seconds until a store is asked again that had failed so often in a row before it failed now."""
    # An outage of hours counts thousands of failures: the power is bounded before it is taken.
    doublings = min(failures, _DOUBLINGS)
    return min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0**doublings) * (0.5 + random.random() / 2)  # noqa: S311 - no secret


async def pause(seconds: float, ending: Latch) -> None:
    """Wait until the next try; once the end has begun, when little time is left, hardly at all."""
    if ending.holds():
        await anyio.sleep(min(seconds, _LAST_BACKOFF))
        return
    with anyio.move_on_after(seconds):
        await ending.wait()


async def keep_on(worker: str, purpose: str, seconds: float, chore: Callable[[], Awaitable[object]]) -> None:
    """Do a chore again and again, until cancelled; of failures in a row only the first and the end are logged.

    Args:
        worker: Its name, for the log.
        purpose: What the chore is for, for the log: "worker 'a' could not ...".
        seconds: From the end of one to the beginning of the next, also after a failure.
        chore: What to do; if it returns a float, that many seconds are waited this time.

    Raises:
        StoreClosed: The store does not come back.
    """
    failures, failed_at = 0, -math.inf
    while True:
        pause = seconds
        try:
            answer = await chore()
        except StoreClosed:
            raise
        except Exception as exc:  # noqa: BLE001 - logged, and tried again
            if anyio.current_time() - failed_at > max(_IN_A_ROW, 3 * seconds):
                failures = 0
            if not failures:
                _log.warning("worker %r could not %s and goes on trying", worker, purpose, exc_info=exc)
            failures, failed_at = failures + 1, anyio.current_time()
        else:
            if failures:
                _log.info("worker %r could %s again after %d failures", worker, purpose, failures)
            failures = 0
            pause = answer if isinstance(answer, float) else seconds
        await anyio.sleep(pause)
