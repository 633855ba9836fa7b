"""How a running handler learns that it should stop."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from attrs import define, field

from workerctx.errors import RunCancelled
from workerctx.lifecycle.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Generator

    from anyio import CancelScope

    from workerctx.queue import CancelReason

# One for all: it is held for an assignment, and re-entrant for the sake of signal handlers.
_lock: Final = threading.RLock()


@define(eq=False)
class JobCancel:
    """Whether and why the run of a job is being cancelled; the first reason stays.

    The run itself is cancelled through its scope. This tells a handler that wants to know earlier (at a shutdown, the
    scope is cancelled only after the grace) or that runs in a thread, where no scope reaches it.
    """

    _reason: CancelReason | None = field(default=None, init=False)
    _latch: Latch | None = field(default=None, init=False)

    @property
    def reason(self) -> CancelReason | None:
        """Why; None as long as nobody asked."""
        return self._reason

    def is_set(self) -> bool:
        """Tell whether the run is being cancelled.

        Threads: any.
        """
        return self._reason is not None

    def check(self) -> None:
        """Raise if the run is being cancelled; for loops in threads.

        Threads: any.

        Raises:
            RunCancelled: It is.
        """
        if self._reason is not None:
            raise RunCancelled(self._reason)

    async def wait(self) -> CancelReason:
        """Return the reason once the run is being cancelled.

        Cancellation: leaves nothing behind.
        """
        await self._waiting().wait()
        assert self._reason is not None
        return self._reason

    @contextmanager
    def cancelling(self, scope: CancelScope) -> Generator[None]:
        """Cancel a scope of the handler's own as soon as the run is being cancelled, while inside this block."""
        with self._waiting().cancelling(scope):
            yield

    def set(self, reason: CancelReason) -> bool:
        """Ask the run to stop; False if somebody did before. Belongs to who runs the job.

        Threads: any.
        """
        with _lock:
            if self._reason is not None:
                return False
            self._reason = reason
            latch = self._latch
        if latch is not None:
            latch.wake()
        return True

    def _waiting(self) -> Latch:
        with _lock:
            self._latch = self._latch or Latch(self.is_set)
        return self._latch
