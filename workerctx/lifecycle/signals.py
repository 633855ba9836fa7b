"""Who hears of a worker's events, and in which order.

blinker is the surface: receivers of the process-wide signals below hear every worker. The engine is ours, because
blinker promises no order, lets the first exception starve the other receivers and nests re-entrant sends: an `Outbox`
hands each event to everybody before it takes the next one, and one listener's failure is nobody else's.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
from attrs import define, field
from blinker import Namespace, Signal

from workerctx.lifecycle import events
from workerctx.lifecycle.groups import stray
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

ListenerFunction = Callable[["WorkerContext", Any], Any]
"""A listener: ``f(ctx, event)``, plain or async."""


@define(eq=False)
class Listener:
    """A registered listener; `disconnect` it, or use it as a context manager."""

    function: ListenerFunction
    event_types: tuple[type[events.Event], ...]
    _outbox: Outbox
    mailbox: Mailbox | None = None
    """Where an async listener's events wait for it."""
    connected: bool = field(default=True, init=False)
    """Whether it still hears of anything."""

    def hears(self, event_type: type[events.Event]) -> bool:
        """Tell whether the listener wants events of this type."""
        return not self.event_types or issubclass(event_type, self.event_types)

    def disconnect(self) -> None:
        """Stop listening; harmless when repeated. An async listener still gets what is queued for it.

        Threads: any thread; on the worker's event loop it takes effect at once.
        """
        self.connected = False
        self._outbox.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.disconnect()


@define(eq=False)
class Mailbox:
    """The ordered queue of one async listener."""

    is_served: bool = field(default=False, init=False)
    """Whether a task takes from it."""
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

    async def first(self) -> events.Event | None:
        """Return the next event, which stays queued; None once closed and empty."""
        if not self._waiting:
            await self._latch.wait()
        return self._waiting[0] if self._waiting else None

    def remove_first(self) -> None:
        """Remove the event that was taken: its listener is done with it."""
        self._waiting.popleft()


@define(eq=False)
class Outbox:
    """Delivers one worker's events, in order, each to everybody before the next.

    Args:
        context: the worker, weakly: an outbox does not keep it alive.
        crashed: told what a listener raised, if that was no `Exception` and nobody else is there to be told.
    """

    _context: weakref.ref[WorkerContext]
    crashed: Callable[[BaseException], object]
    home: Home | None = field(default=None, init=False)
    """The loop on which listeners run; None before there is one."""
    listeners: tuple[Listener, ...] = field(default=(), init=False)
    """In delivery order; replaced as a whole, so a delivery in progress keeps the tuple it began with."""
    _heard: dict[type[events.Event], bool] = field(factory=dict[type[events.Event], bool], init=False)
    """Whether one of the listeners wants a type of event, as far as that was asked; replaced when they change."""
    _queue: deque[Iterator[events.Event]] = field(factory=deque["Iterator[events.Event]"], init=False)
    _turn: list[None] = field(factory=lambda: [None], init=False)
    _changing: threading.RLock = field(factory=threading.RLock, init=False)

    def add(self, listener: Listener, *, in_front: bool) -> None:
        """Connect a listener."""
        with self._changing:
            self._change((listener, *self.listeners) if in_front else (*self.listeners, listener))

    def remove(self, listener: Listener) -> None:
        """Disconnect a listener, if it is connected."""
        with self._changing:
            self._change(tuple(other for other in self.listeners if other is not listener))
        if listener.mailbox is not None:
            listener.mailbox.close()

    def hang_up(self) -> int:
        """Disconnect the async listeners, whom nobody serves any more; how many events they had not taken."""
        with self._changing:
            gone = [listener for listener in self.listeners if listener.mailbox is not None]
            self._change(tuple(listener for listener in self.listeners if listener.mailbox is None))
        return sum(len(listener.mailbox or ()) for listener in gone)

    def reset(self, *, silent: bool) -> None:
        """Forget what other threads were doing here, who are not in a forked child; `silent`: every listener too."""
        self._changing = threading.RLock()
        self._turn = [None]
        if silent:
            self._change(())
            self._queue = deque()

    def audience(self, event_type: type[events.Event]) -> bool:
        """Tell whether anybody wants events of this type."""
        if worker_event.receivers:
            return True
        heard = self._heard  # taken before the listeners are: an answer that is out of date goes with it
        wanted = heard.get(event_type)
        if wanted is None:
            wanted = heard[event_type] = any(listener.hears(event_type) for listener in self.listeners)
        return wanted or (event_type in TRANSITION_SIGNALS and bool(TRANSITION_SIGNALS[event_type].receivers))

    def send(self, event: events.Event) -> None:
        """Deliver one event.

        Threads: the worker's event loop only; elsewhere `put` it and `flush`.
        """
        self.put([event])
        self.deliver()

    def put(self, made: Iterable[events.Event]) -> None:
        """Queue events; an iterator builds them when their turn has come."""
        self._queue.append(iter(made))

    def flush(self) -> None:
        """Deliver what is queued: at once if this is the home loop or there is none, else soon, over there."""
        home = self.home
        if home is None or home.is_here() or not home.post(self._deliver_posted):
            self.deliver()

    def deliver(self) -> None:
        """Deliver everything that is queued, unless a delivery is going on: then that one delivers it.

        What a listener raises that is no `Exception` is raised here, after everybody has heard everything.
        """
        queue, turn = self._queue, self._turn
        crash: BaseException | None = None
        try:
            while queue:
                try:
                    turn.pop()  # atomic: of many callers one gets the turn
                except IndexError:
                    break
                try:
                    while queue:
                        for event in queue[0]:
                            crash = self._deliver(event) or crash
                        queue.popleft()
                finally:
                    turn.append(None)
            if crash is not None:
                raise crash
        finally:
            del crash

    def _change(self, listeners: tuple[Listener, ...]) -> None:
        self.listeners = listeners
        self._heard = {}

    def _deliver_posted(self) -> None:
        try:
            self.deliver()
        except BaseException as exc:  # noqa: BLE001 - a callback of the loop has nobody to raise to
            self.crashed(exc)

    def _deliver(self, event: events.Event) -> BaseException | None:
        context = self._context()
        if context is None:
            return None
        crash: BaseException | None = None
        for listener, tell in self._audience(context, event):
            try:
                tell()
            except Exception as exc:  # noqa: BLE001 - isolated and reported
                self.report(listener, event, exc)
            except BaseException as exc:  # noqa: BLE001 - raised when all have heard
                _log.critical("listener %r broke off on %s", listener, type(event).__name__, exc_info=exc)
                crash = exc
        return crash

    def _audience(self, context: WorkerContext, event: events.Event) -> Iterator[tuple[object, Callable[[], None]]]:
        """Find everybody who is to be told, each with what tells them."""
        for listener in self.listeners:
            if not listener.connected or not listener.hears(type(event)):
                continue
            if listener.mailbox is None:
                yield listener.function, partial(_call, listener.function, context, event)
            else:
                yield listener.function, partial(listener.mailbox.put, event)
        for signal in _signals_of(type(event)):
            if signal.receivers and not signal.is_muted:
                for receiver in signal.receivers_for(context):
                    yield receiver, partial(_call, receiver, context, event=event)

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
        self.put([made])


def _signals_of(event_type: type[events.Event]) -> tuple[Signal, ...]:
    signal = TRANSITION_SIGNALS.get(event_type)
    return (worker_event,) if signal is None else (worker_event, signal)


def _call(hearer: Callable[..., object], *args: object, **named: object) -> None:
    result = hearer(*args, **named)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"{hearer!r} is no async function, but returned a coroutine, which was closed: give an async function to"
            " ctx.listen(); receivers of a worker signal cannot be async"
        )


def is_async(function: object) -> bool:
    """Tell whether calling `function` makes a coroutine; sees through partials and callable objects."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    )


async def serve(context: WorkerContext, outbox: Outbox, listener: Listener) -> None:
    """Hand an async listener its events, one after the other, until its mailbox is closed and empty."""
    mailbox = listener.mailbox
    assert mailbox is not None
    while (event := await mailbox.first()) is not None:
        try:
            await listener.function(context, event)
        except Exception as exc:  # noqa: BLE001 - isolated and reported
            outbox.report(listener.function, event, exc)
            outbox.deliver()
        except anyio.get_cancelled_exc_class() as exc:
            outbox.report(listener.function, event, stray(exc, f"listener {listener.function!r}"))
            outbox.deliver()
        except BaseException as exc:
            outbox.crashed(exc)
            raise
        mailbox.remove_first()
