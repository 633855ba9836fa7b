"""How fast a worker may speak."""

from __future__ import annotations

import anyio
from attrs import define, field


@define(eq=False)
class Pace:
    """Lets through so many messages a second for long, and as many at once.

    Args:
        rate: Messages a second.
    """

    _rate: float
    _left: float = field(init=False)
    _at: float = field(factory=anyio.current_time, init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self._rate

    async def keep(self) -> None:
        """Count one message, and wait as long as there were too many; no checkpoint if there were not."""
        self._left -= 1
        if self._left < 0:
            now = anyio.current_time()
            self._left = min(self._rate, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 0:
                await anyio.sleep(-self._left / self._rate)
