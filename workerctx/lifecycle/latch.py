"""A wake-up that reaches every waiter, whatever thread or event loop it waits on.

`anyio.Event.set()` from a thread or a signal handler does not wake a sleeping loop, and an Event belongs to one
backend. A `Latch` keeps no Event: each waiter brings its own, together with the loop that must deliver it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from attrs import define, field

from workerctx.lifecycle.home import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from anyio import CancelScope


@define(eq=False)
class Latch:
    """Lets any number of tasks wait until a fact holds.

    The fact itself lives elsewhere: make it true first, then call `wake`.

    Args:
        holds: tells whether the fact holds; cheap, and safe to call from any thread.
    """

    holds: Callable[[], bool]
    _waiters: dict[object, tuple[Home, Callable[[], object]]] = field(
        factory=dict[object, "tuple[Home, Callable[[], object]]"], init=False
    )

    def wake(self) -> None:
        """Let every waiter look at the fact again.

        Threads: any thread, any loop, and a signal handler; harmless when a waiter's loop is gone.
        """
        for home, callback in list(self._waiters.values()):
            home.post(callback)

    async def wait(self, unless: Callable[[], bool] | None = None) -> None:
        """Return once the fact holds, or once `unless` does at a wake-up.

        Cancellation: leaves nothing behind. Always a checkpoint.
        """
        if self.holds():
            await anyio.lowlevel.checkpoint()
            return
        home = _here()
        while True:
            woken = anyio.Event()
            key = object()
            self._waiters[key] = (home, woken.set)
            try:
                # The waiter is registered before it looks, so a wake-up in between is not lost.
                if self.holds() or (unless is not None and unless()):
                    return
                await woken.wait()
            finally:
                self._waiters.pop(key, None)

    @contextmanager
    def cancelling(self, scope: CancelScope) -> Generator[None]:
        """Cancel `scope` as soon as the fact holds, while inside this context manager."""

        def look() -> None:
            if self.holds():
                scope.cancel()

        key = object()
        self._waiters[key] = (_here(), look)
        try:
            look()
            yield
        finally:
            self._waiters.pop(key, None)

    @property
    def waiting(self) -> int:
        """How many waiters there are."""
        return len(self._waiters)


def _here() -> Home:
    return Home(anyio.lowlevel.current_token().native_token)
