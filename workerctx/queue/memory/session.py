"""An open Storage's way to its store: the clock of its loop, its subscribers, and a transaction when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from workerctx.errors import StoreClosed
from workerctx.queue.broadcast import Broadcast
from workerctx.queue.memory.change import Change
from workerctx.queue.memory.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue.memory.store import Store


@attrs.define(eq=False)
class Session:
    """What the parts of one Storage object have in common.

    Attributes:
        store: What is shared with other Storage objects.
        broadcast: The subscribers of this one.
    """

    store: Store
    broadcast: Broadcast = attrs.field(factory=Broadcast, init=False)
    _clock: Clock | None = attrs.field(default=None, init=False)

    @property
    def is_open(self) -> bool:
        """Whether calls are served."""
        return self._clock is not None

    def open(self) -> None:
        """Bind the running event loop's clock."""
        self._clock = Clock(self.store.calendar)

    def close(self) -> None:
        """Refuse further calls and end the subscriptions."""
        self._clock = None
        self.broadcast.close()

    def check_open(self) -> Clock:
        """Return the clock of a Storage that is open.

        Raises:
            StoreClosed: It is not.
        """
        if self._clock is None:
            raise StoreClosed('the store is not open: use it inside "async with"')
        return self._clock

    def now(self) -> float:
        """Return the store's time.

        Raises:
            StoreClosed: The Storage is not open.
        """
        return self.check_open().now()

    def change(self, *, heard: bool = False) -> Change:
        """Return a transaction at this moment.

        Args:
            heard: Build events even if nobody has subscribed.

        Raises:
            StoreClosed: The Storage is not open.
        """
        store = self.store
        return Change(
            store.table,
            store.graph,
            self.now(),
            store.alarms,
            self.broadcast,
            heard=heard or bool(self.broadcast),
        )

    def upcoming(self, queues: frozenset[str] | None) -> Callable[[], float | None]:
        """Return a function for the seconds until a job of these queues becomes due or a pause ends.

        Each call leaves out what was due at the call before: whoever asked has looked at it since.
        """
        last = self.now()

        def seconds() -> float | None:
            nonlocal last
            now = self.now()
            with self.store.table.lock:
                moment = self.store.table.next_moment(queues, last)
            last = now
            return None if moment is None else max(0.0, moment - now)

        return seconds
