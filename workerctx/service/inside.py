"""Running something inside a context manager that has no say in how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager


async def run_inside(manager: AbstractAsyncContextManager[object], call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what ``call()`` returns, inside a context manager.

    What it raises comes through even if the context manager swallows it: that must not make a failed job look like a
    success.

    Args:
        manager: Entered before, left after.
        call: Called once it was entered.
    """
    output: Any = None
    failures: list[BaseException] = []
    async with manager:
        try:
            output = await call()
        except BaseException as exc:
            failures.append(exc)
            raise
    if failures:
        raise failures[0]
    return output
