"""What one worker has asked for, and what it was sent of that."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from attrs import define, field

from workerctx.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection

    from workerctx.remote.frames import Credit

_MOST: Final = 2**31 - 1


@define(eq=False)
class Account:
    """Counts the tasks of one session.

    Args:
        kinds: What the worker has registered for.

    Attributes:
        kind_limits: How many more jobs of each of these kinds it takes.
    """

    _kinds: Collection[str]
    kind_limits: dict[str, int] = field(factory=dict[str, int], init=False)
    _sent: int = field(default=0, init=False)
    _underway: deque[str] = field(factory=deque[str], init=False)
    """The kinds of those tasks that the worker has not received yet, as far as it has said."""
    _allowance: int = field(default=0, init=False)
    """How many tasks it takes in all."""

    @property
    def wanted(self) -> int:
        """How many more tasks it has asked for."""
        return self._allowance - self._sent

    def sent(self, kind: str) -> None:
        """Count a task that is handed to the worker."""
        self._sent += 1
        self._underway.append(kind)
        if kind in self.kind_limits:
            self.kind_limits[kind] -= 1

    def undelivered(self, kind: str) -> None:
        """Count a task no more, which could not be sent after all."""
        self._sent -= 1
        self._underway.remove(kind)

    def settle(self, credit: Credit) -> None:
        """Take note of what the worker has received and wants.

        Raises:
            ProtocolError: That cannot be.
        """
        received, free, limits = credit.received, credit.free, credit.kind_limits
        if not 0 <= received <= self._sent or not 0 <= free <= _MOST:
            raise ProtocolError(
                f"it says that it has received {received} tasks and takes {free} more, and was sent {self._sent}"
            )
        if len(limits) > len(self._kinds):
            raise ProtocolError(f"it limits {len(limits)} kinds, and has registered {len(self._kinds)}")
        while len(self._underway) > self._sent - received:
            self._underway.popleft()
        self._allowance = received + free
        underway = Counter(self._underway if limits else ())
        self.kind_limits = {
            kind: max(0, min(limit, _MOST) - underway[kind]) for kind, limit in limits.items() if kind in self._kinds
        }
