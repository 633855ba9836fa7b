"""Opening and closing a store in threads, in whatever way the task that wants it is cancelled."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from workerctx.errors import StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.define(eq=False)
class Opening:
    """Whether a store is open; one at a time opens it.

    asyncio's own way of cancelling waits for no thread. The thread that an opening leaves behind in this way closes at
    its end what it has opened.

    Args:
        start: Opens the store, in a thread; is given a function that tells whether nobody wants it any more.
        shut: Closes what of it is open, in a thread.

    Attributes:
        is_open: Whether it is open.
    """

    _start: Callable[[Callable[[], bool]], object]
    _shut: Callable[[], object]
    is_open: bool = attrs.field(default=False, init=False)
    _is_starting: bool = attrs.field(default=False, init=False)
    _left: threading.Event = attrs.field(factory=threading.Event, init=False)
    """Set when the store is to be closed; another one each time it is opened."""
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    async def open(self) -> None:
        """Open the store.

        Raises:
            StoreClosed: It is open already, or being opened.

        Cancellation: leaves it closed.
        """
        if self.is_open or self._is_starting:
            raise StoreClosed("this storage is open already, or about to be: connect again for a second one")
        try:
            self._left = threading.Event()
            await anyio.to_thread.run_sync(self._begin, self._left)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the store.

        Cancellation: waits until it is closed.
        """
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._end)

    def _begin(self, left: threading.Event) -> None:
        with self._lock:
            if left.is_set():
                return
            self._is_starting = True
        opened = False
        try:
            self._start(left.is_set)
            opened = True
        finally:
            with self._lock:
                if not left.is_set():
                    self._is_starting, self.is_open = False, opened
            if self._is_starting:  # who wanted it has gone, and left the closing to this thread
                try:
                    self._close()
                finally:
                    self._is_starting = False

    def _end(self) -> None:
        with self._lock:
            self._left.set()
            if self._is_starting:
                return
        self._close()

    def _close(self) -> None:
        self._shut()
        self.is_open = False
