"""Signals that the main thread does not come to handle, as it is in code that is not Python's.

Python runs signal handlers in the main thread, between two instructions. A call into C that does not return, such as a
long computation in an extension, keeps it from ever running them: the process would ignore SIGTERM. The interpreter
itself takes note of each signal at once, though, and writes its number to a file descriptor. Here a thread reads that.
"""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

PATIENCE: Final = 0.5
"""Seconds that the main thread gets to run a handler."""


@define(eq=False)
class Handler:
    """A signal handler whose `act` is called once for each signal, in the main thread or on its behalf.

    Args:
        act: Called with the signal; safe in a signal handler and in any thread.
        then: Called after it, in the main thread only.
    """

    _act: Callable[[signal.Signals], object]
    _then: Callable[[signal.Signals, FrameType | None], object] | None
    _heard: int = field(default=0, init=False)
    """Signals that arrived; the ear's count."""
    _done: int = field(default=0, init=False)
    _advanced: int = field(default=0, init=False)
    """Calls of `act` that the ear made and the main thread has not come to yet."""
    # Held for the call of `act`. Reentrant, as one signal may interrupt the handling of another.
    _lock: threading.RLock = field(factory=threading.RLock, init=False)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; what Python calls."""
        name = signal.Signals(number)
        if self._lock.acquire(blocking=False):  # otherwise the ear is at it
            try:
                if self._advanced:
                    self._advanced -= 1
                else:
                    self._done += 1
                    self._act(name)
            finally:
                self._lock.release()
        if self._then is not None:
            self._then(name, frame)

    def heard(self) -> None:
        """Take note of a signal that has arrived."""
        self._heard += 1

    def catch_up(self, name: signal.Signals) -> None:
        """Do what the main thread did not come to."""
        with self._lock:
            while self._done < self._heard:
                self._done += 1
                self._advanced += 1
                self._act(name)


@define(eq=False)
class Ear:
    """Sees to it that signals with a `Handler` are handled; a context manager, entered in the event loop.

    Outside the main thread, where Python does not allow to listen, it does nothing.
    """

    _patience: float = PATIENCE
    _over: threading.Event = field(factory=threading.Event, init=False)
    _sockets: tuple[socket.socket, socket.socket] | None = field(default=None, init=False)
    _previous: int = field(default=-1, init=False)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        ours, theirs = self._sockets = socket.socketpair()
        theirs.setblocking(False)
        self._previous = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, args=(ours,), name="workerctx signals", daemon=True)
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._sockets is None:
            return
        ours, theirs = self._sockets
        listening = signal.set_wakeup_fd(self._previous, warn_on_full_buffer=False)
        if listening != theirs.fileno():  # somebody took our place meanwhile, and keeps it
            signal.set_wakeup_fd(listening, warn_on_full_buffer=False)
        self._over.set()
        theirs.close()
        self._thread.join()
        ours.close()

    def _listen(self, ours: socket.socket) -> None:
        while numbers := ours.recv(64):
            if self._previous != -1:  # an event loop may want to know, too
                with suppress(OSError), socket.socket(fileno=socket.dup(self._previous)) as other:
                    other.send(numbers)
            handlers = [(handler, number) for number in numbers if (handler := _handler_of(number)) is not None]
            for handler, _ in handlers:
                handler.heard()
            if handlers and not self._over.wait(self._patience):
                for handler, number in handlers:
                    handler.catch_up(signal.Signals(number))


def _handler_of(number: int) -> Handler | None:
    with suppress(ValueError):
        handler = signal.getsignal(number)
        return handler if isinstance(handler, Handler) else None
    return None
