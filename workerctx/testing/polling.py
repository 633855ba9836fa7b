"""Waiting for something that tells nobody when it happens."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


async def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> None:
    """Wait until a condition holds, and look again every few milliseconds.

    For facts that nothing announces. A job's end can be awaited: ``await handle.result(timeout=5)``.

    Args:
        condition: A function or a coroutine function; what it returns is true or false.
        timeout: Seconds.

    Raises:
        TimeoutError: It did not hold in time.

    Cancellation: ends the wait.
    """
    pause = _FIRST_PAUSE
    with anyio.move_on_after(timeout):
        while True:
            holds = condition()
            if inspect.isawaitable(holds):
                holds = await holds
            if holds:
                return
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    name = getattr(condition, "__qualname__", repr(condition))
    raise TimeoutError(f"{name} did not come true within {timeout:g} seconds")
