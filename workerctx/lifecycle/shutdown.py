"""Stopping many workers at once: the `Shutdown` token and, opt-in, operating system signals."""

from __future__ import annotations

import signal
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from workerctx.errors import WorkerError
from workerctx.lifecycle.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType

T = TypeVar("T")


class Stoppable(Protocol):
    """What a token or a signal can stop: a context, a monitor, a token."""

    def stop(self, reason: str | None = None, *, grace: float | None = ...) -> object:
        """Ask for a stop; callable from any thread and from a signal handler."""
        ...


class Shutdown:
    """A token that stops every worker it was given to, as soon as it is set.

    Give it to contexts with ``WorkerContext(..., shutdown=token)``. It can be set once; the first reason counts.

    Threads: everything may be called from any thread and from a signal handler.
    """

    __slots__ = ("__weakref__", "_facts", "_latch", "_targets")

    def __init__(self) -> None:
        self._facts: dict[str, str] = {}
        self._latch = Latch(lambda: bool(self._facts))
        self._targets: dict[int, weakref.ref[Stoppable]] = {}

    def set(self, reason: str = "shutdown") -> bool:
        """Stop everybody who holds the token; True for the call that set it."""
        marker = str(reason)
        # dict.setdefault is atomic: of many callers one sets the token.
        first = "reason" not in self._facts and self._facts.setdefault("reason", marker) is marker
        self._latch.wake()
        for reference in list(self._targets.values()):
            target = reference()
            if target is not None:
                target.stop(self._facts["reason"])
        return first

    def stop(self, reason: str | None = None, *, grace: float | None = -1.0) -> bool:
        """Set the token; a second call with `grace` (seconds) shortens the drain of everybody who holds it."""
        first = self.set(reason or "shutdown")
        if grace is None or grace >= 0:
            for reference in list(self._targets.values()):
                target = reference()
                if target is not None:
                    target.stop(reason, grace=grace)
        return first

    @property
    def is_set(self) -> bool:
        """Whether the token was set."""
        return bool(self._facts)

    @property
    def reason(self) -> str | None:
        """Why the token was set; None before."""
        return self._facts.get("reason")

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
        key = id(target)
        self._targets[key] = weakref.ref(target, lambda _: self._targets.pop(key, None))
        if self._facts:
            target.stop(self._facts["reason"])

    def __repr__(self) -> str:
        return f"<Shutdown {'set: ' + self._facts['reason'] if self._facts else 'not set'}>"


DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals(
    target: Stoppable,
    *signals: signal.Signals,
    then: Callable[[signal.Signals, FrameType | None], object] | None = None,
) -> Generator[None]:
    """Stop `target` when the process gets a signal, while inside this context manager.

    The first signal asks for a stop with the target's own grace, a second one for a stop with grace 0. The previous
    handlers are back afterwards. Nothing else in the library touches signal handlers.

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

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        name = signal.Signals(number)
        if seen == 1:
            target.stop(f"signal {name.name}")
        else:
            target.stop(f"signal {name.name} again", grace=0.0)
        if then is not None:
            then(name, frame)

    previous = {number: signal.getsignal(number) for number in signals or DEFAULT_SIGNALS}
    try:
        for number in previous:
            signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            # None: the handler was not installed from Python and cannot be put back by it.
            if before is not None:
                signal.signal(number, before)
