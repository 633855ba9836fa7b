"""What a waiter hears: rings from any thread, none of which is lost, and the call that a ring begins."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import attrs

from workerctx.lifecycle.latch import Latch

if TYPE_CHECKING:
    from workerctx.queue.prepared import Prepared


@attrs.define(eq=False)
class Bell:
    """The bell of one waiter, level-triggered."""

    _rung: bool = attrs.field(default=False, init=False)
    _again: bool = attrs.field(default=False, init=False)
    """Whether it rang behind the ring that began the call, which may have looked too early for this one."""
    _call: Prepared[object] | None = attrs.field(default=None, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _latch: Latch = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._latch = Latch(lambda: self._rung)

    @property
    def has_rung(self) -> bool:
        """Whether it has, since that was last taken note of."""
        return self._rung

    def ring(self) -> None:
        """End the current wait, or the next one, and begin the call.

        Threads: any.
        """
        with self._lock:
            first, call = not self._rung, self._call
            self._rung = True
            self._again |= not first and call is not None
        if call is not None:
            call.begin()
        if first:
            self._latch.wake()

    def then(self, call: Prepared[object] | None) -> None:
        """Have the next ring begin a call; see `Wakeups.then`."""
        with self._lock:
            self._call = call

    async def wait(self, seconds: float | None) -> None:
        """Wait until it rings, or for so long."""
        with anyio.move_on_after(seconds):
            await self._latch.wait()

    def take_note(self) -> bool:
        """Tell whether it has rung, which then counts as heard."""
        with self._lock:
            rung, self._rung, self._again = self._rung, self._again, False
        return rung
