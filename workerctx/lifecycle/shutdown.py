"""Stopping many workers at once: the `Shutdown` token and, opt-in, operating system signals."""

from __future__ import annotations

import signal
import threading
import weakref
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from workerctx.errors import WorkerError
from workerctx.lifecycle.control import OWN_GRACE, OwnGrace, seconds_of
from workerctx.lifecycle.latch import Latch
from workerctx.lifecycle.overheard import Handler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType

T = TypeVar("T")


class Stoppable(Protocol):
    """What a token or a signal can stop: a context, a monitor, a token."""

    def stop(self, reason: str | None = None, *, grace: float | OwnGrace | None = ...) -> object:
        """Ask for a stop; callable from any thread and from a signal handler."""
        ...


class Shutdown:
    """A token that stops every worker it was given to, as soon as it is set.

    Give it to contexts with ``WorkerContext(..., shutdown=token)``. It can be set once; the first reason counts.

    Threads: everything may be called from any thread and from a signal handler.
    """

    __slots__ = ("__weakref__", "_latch", "_reasons", "_targets")

    def __init__(self) -> None:
        # A dict of one entry: setdefault is atomic, so of many callers one sets the token.
        self._reasons: dict[str, tuple[str]] = {}
        reasons = self._reasons
        self._latch = Latch(lambda: bool(reasons))
        self._targets: weakref.WeakValueDictionary[int, Stoppable] = weakref.WeakValueDictionary()

    def set(self, reason: str = "shutdown") -> bool:
        """Stop everybody who holds the token; True for the call that set it."""
        return self._set(reason, lambda target, first: target.stop(first))

    def stop(self, reason: str | None = None, *, grace: float | OwnGrace | None = OWN_GRACE) -> bool:
        """Set the token; `grace` (seconds, None for ever) is handed on, and in a later call can only shorten.

        Raises:
            ValueError: `grace` is negative, or no number; the token is as it was.
        """
        if not isinstance(grace, OwnGrace):
            seconds_of(grace)
        return self._set(reason or "shutdown", lambda target, first: target.stop(first, grace=grace))

    def _set(self, reason: str, stop: Callable[[Stoppable, str], object]) -> bool:
        mine = (reason,)
        kept = self._reasons.setdefault("reason", mine)
        self._latch.wake()
        with ExitStack() as stops:  # goes on when a listener breaks one of them
            for reference in self._targets.valuerefs():
                target = reference()
                if target is not None:
                    stops.callback(stop, target, kept[0])
        return kept is mine

    @property
    def is_set(self) -> bool:
        """Whether the token was set."""
        return bool(self._reasons)

    @property
    def reason(self) -> str | None:
        """Why the token was set; None before."""
        kept = self._reasons.get("reason")
        return None if kept is None else kept[0]

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until the token is set; many may wait, on any event loop."""
        return self._latch.wait().__await__()

    async def after(self, awaitable: Awaitable[T]) -> T:
        """Set the token when `awaitable` ends, however it ends, and hand back its result or exception.

        Cancellation: passes to the awaitable, and sets the token.
        """
        try:
            return await awaitable
        finally:
            self.set("what it was waiting for has ended")

    def attach(self, target: Stoppable) -> None:
        """Stop `target` when the token is set, at once if it is; keeps no strong reference."""
        self._targets[id(target)] = target
        if self.reason is not None:
            target.stop(self.reason)

    def __repr__(self) -> str:
        return "<Shutdown not set>" if self.reason is None else f"<Shutdown set: {self.reason}>"


DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(
    target: Stoppable,
    *signals: signal.Signals,
    then: Callable[[signal.Signals, FrameType | None], object] | None = None,
) -> Generator[None]:
    """Stop `target` when the process gets a signal, while inside this context manager.

    The first signal asks for a stop with the target's own grace, a second one for a stop with grace 0. The previous
    handlers are back afterwards, where nobody has set others meanwhile. Nothing else in the library touches signal
    handlers.

    Args:
        target: a `WorkerContext`, `Monitor` or `Shutdown`.
        signals: which signals; SIGTERM and SIGINT if none is named.
        then: also called with each signal, after the target was told.

    Raises:
        WorkerError: not in the main thread, where Python delivers signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise WorkerError(
            "signals reach only the main thread of a process, and this is another one: enter stop_on_signals() there,"
            " or call stop() yourself"
        )
    seen = 0

    def stop(number: signal.Signals) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            target.stop(f"signal {number.name}")
        else:
            target.stop(f"signal {number.name} again", grace=0.0)

    handler = Handler(stop, then)
    previous = {number: signal.getsignal(number) for number in signals or DEFAULT_SIGNALS}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            # None: the handler was not installed from Python and cannot be put back by it.
            if before is not None and signal.getsignal(number) is handler:
                signal.signal(number, before)
