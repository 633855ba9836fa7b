"""Who hears of a worker's events, and in which order.

blinker is the surface: receivers of the process-wide signals below hear every worker. The engine is ours, because
blinker promises no order, lets the first exception starve the other receivers and nests re-entrant sends: an `Outbox`
hands each event to everybody before it takes the next one, and one listener's failure is nobody else's.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self

from attrs import define, field
from blinker import Namespace, Signal

from workerctx.lifecycle import events
from workerctx.lifecycle.latch import Latch

if TYPE_CHECKING:
    import weakref
    from types import TracebackType

    from workerctx.lifecycle.context import WorkerContext
    from workerctx.lifecycle.home import Home

_log = logging.getLogger("workerctx")

_namespace = Namespace()
worker_started: Final = _namespace.signal("worker_started", "A worker began to run.")
worker_paused: Final = _namespace.signal("worker_paused", "A worker was paused.")
worker_resumed: Final = _namespace.signal("worker_resumed", "A paused worker runs again.")
worker_stopped: Final = _namespace.signal("worker_stopped", "A worker was asked to stop.")
worker_exited: Final = _namespace.signal("worker_exited", "A worker's life is over.")
worker_event: Final = _namespace.signal("worker_event", "Any event of any worker.")

TRANSITION_SIGNALS: Final[dict[type[events.Event], Signal]] = {
    events.Start: worker_started,
    events.Pause: worker_paused,
    events.Resume: worker_resumed,
    events.Stop: worker_stopped,
    events.Exit: worker_exited,
}

ListenerFunction = Callable[["WorkerContext", Any], object]
"""A listener: ``f(ctx, event)``, plain or async."""


@define(eq=False)
class Listener:
    """A registered listener; `disconnect` it, or use it as a context manager."""

    function: ListenerFunction
    event_types: tuple[type[events.Event], ...]
    _outbox: Outbox
    mailbox: Mailbox | None = None
    """Where an async listener's events wait for it."""

    def hears(self, event_type: type[events.Event]) -> bool:
        """Tell whether the listener wants events of this type."""
        return not self.event_types or issubclass(event_type, self.event_types)

    def disconnect(self) -> None:
        """Stop listening; harmless when repeated.

        Threads: any thread. An event that is being delivered may still arrive.
        """
        self._outbox.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.disconnect()


@define(eq=False)
class Mailbox:
    """The ordered queue of one async listener."""

    _waiting: deque[events.Event] = field(factory=deque[events.Event], init=False)
    _closed: bool = field(default=False, init=False)
    _latch: Latch = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._latch = Latch(lambda: self._closed or bool(self._waiting))

    def put(self, event: events.Event) -> None:
        """Queue an event."""
        self._waiting.append(event)
        self._latch.wake()

    def close(self) -> None:
        """Let the listener end once it has seen what is queued."""
        self._closed = True
        self._latch.wake()

    def __len__(self) -> int:
        return len(self._waiting)

    async def take(self) -> events.Event | None:
        """Return the next event; None once closed and empty."""
        if not self._waiting:
            await self._latch.wait()
        return self._waiting.popleft() if self._waiting else None


@define(eq=False)
class Outbox:
    """Delivers one worker's events, in order, each to everybody before the next.

    Args:
        context: the worker, weakly: an outbox does not keep it alive.
        on_crash: told what a listener raised, if that was no `Exception` and nobody else is there to be told.
    """

    _context: weakref.ref[WorkerContext]
    _on_crash: Callable[[BaseException], object]
    home: Home | None = field(default=None, init=False)
    """The loop on which listeners run; None before there is one."""
    listeners: tuple[Listener, ...] = field(default=(), init=False)
    """In delivery order; replaced as a whole, so a delivery in progress keeps the tuple it began with."""
    _queue: deque[Callable[[], Iterable[events.Event]]] = field(
        factory=deque[Callable[[], "Iterable[events.Event]"]], init=False
    )
    _turn: list[None] = field(factory=lambda: [None], init=False)
    _changing: threading.RLock = field(factory=threading.RLock, init=False)

    def add(self, listener: Listener, *, in_front: bool) -> None:
        """Connect a listener."""
        with self._changing:
            self.listeners = (listener, *self.listeners) if in_front else (*self.listeners, listener)

    def remove(self, listener: Listener) -> None:
        """Disconnect a listener, if it is connected."""
        with self._changing:
            self.listeners = tuple(other for other in self.listeners if other is not listener)
        if listener.mailbox is not None:
            listener.mailbox.close()

    def silence(self) -> None:
        """Forget every listener and everything that is queued."""
        with self._changing:
            self.listeners = ()
        self._queue.clear()

    def audience(self, event_type: type[events.Event]) -> bool:
        """Tell whether anybody wants events of this type."""
        if worker_event.receivers:
            return True
        signal = TRANSITION_SIGNALS.get(event_type)
        if signal is not None and signal.receivers:
            return True
        return any(listener.hears(event_type) for listener in self.listeners)

    def send(self, event: events.Event) -> None:
        """Deliver one event.

        Threads: the worker's event loop only; elsewhere `put` it and `flush`.
        """
        self._queue.append(lambda: (event,))
        self.deliver()

    def put(self, make: Callable[[], Iterable[events.Event]]) -> None:
        """Queue events; `make` builds them when their turn has come."""
        self._queue.append(make)

    def flush(self) -> None:
        """Deliver what is queued: at once if this is the home loop or there is none, else soon, over there."""
        home = self.home
        if home is None or home.is_here() or not home.post(self._deliver_posted):
            self.deliver()

    def deliver(self) -> None:
        """Deliver everything that is queued, unless a delivery is going on: then that one delivers it."""
        while self._queue:
            try:
                self._turn.pop()  # atomic: of many callers one gets the turn
            except IndexError:
                return
            try:
                while self._queue:
                    for event in self._queue.popleft()():
                        self._deliver(event)
            finally:
                self._turn.append(None)

    def _deliver_posted(self) -> None:
        try:
            self.deliver()
        except BaseException as exc:  # noqa: BLE001 - a callback of the loop has nobody to raise to
            self._on_crash(exc)
            self.flush()

    def _deliver(self, event: events.Event) -> None:
        context = self._context()
        if context is None:
            return
        for listener in self.listeners:
            if not listener.hears(type(event)):
                continue
            if listener.mailbox is not None:
                listener.mailbox.put(event)
                continue
            try:
                listener.function(context, event)
            except Exception as exc:  # noqa: BLE001 - isolated and reported
                self.report(listener.function, event, exc)
        self._send(worker_event, context, event)
        signal = TRANSITION_SIGNALS.get(type(event))
        if signal is not None:
            self._send(signal, context, event)

    def _send(self, signal: Signal, context: WorkerContext, event: events.Event) -> None:
        if not signal.receivers:
            return
        for receiver in signal.receivers_for(context):
            try:
                result: object = receiver(context, event=event)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(  # noqa: TRY301 - reported like any failure of a receiver
                        f"receiver {receiver!r} of a worker signal is async: use ctx.listen() for async listeners"
                    )
            except Exception as exc:  # noqa: BLE001 - isolated and reported
                self.report(receiver, event, exc)

    def report(self, listener: object, event: events.Event, error: Exception) -> None:
        """Log a listener's failure and tell the other listeners of it, once."""
        _log.error(
            "listener %r failed on %s; the other listeners are not affected",
            listener,
            type(event).__name__,
            exc_info=error,
        )
        if isinstance(event, events.ListenerError) or not self.audience(events.ListenerError):
            return
        made = events.ListenerError(sequence=event.sequence, listener=listener, event=event, error=error)
        self.put(lambda: (made,))


def is_async(function: object) -> bool:
    """Tell whether calling `function` makes a coroutine; sees through partials and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    )


async def serve(context: WorkerContext, outbox: Outbox, listener: Listener) -> None:
    """Hand an async listener its events, one after the other, until its mailbox is closed and empty."""
    mailbox = listener.mailbox
    assert mailbox is not None
    while (event := await mailbox.take()) is not None:
        try:
            result = listener.function(context, event)
            if isinstance(result, Awaitable):
                await result
        except Exception as exc:  # noqa: BLE001 - isolated and reported
            outbox.report(listener.function, event, exc)
            outbox.deliver()
