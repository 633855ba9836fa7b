"""The side of a worker that steers it, from any thread."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from workerctx.lifecycle.events import Custom, Event
from workerctx.lifecycle.signals import TRANSITION_SIGNALS, Listener, Mailbox, is_async, worker_event
from workerctx.lifecycle.view import WorkerView

if TYPE_CHECKING:
    from workerctx.lifecycle.signals import ListenerFunction


class OwnGrace(Enum):
    """The type of `OWN_GRACE`."""

    OWN_GRACE = "own grace"

    def __repr__(self) -> str:
        return self.name


OWN_GRACE: Final = OwnGrace.OWN_GRACE
"""Where a grace is given: the one that the worker was made with."""


class WorkerControl(WorkerView):
    """The sync methods of a `WorkerContext` but those that hand it work.

    Threads: all of them may be called from any thread, from another event loop, from a signal handler, and after the
        worker's loop has ended. Listeners run on the worker's own loop: that of `start` or ``async with``.
    """

    # Transitions

    def start(self) -> None:
        """Begin to run, unhosted; ``async with`` does it by itself.

        Raises:
            InvalidTransition: it is not pending, or it has async listeners, which need a host.
        """
        listeners = self._shell.outbox.listeners
        if self._shell.host is None and any(listener.mailbox is not None for listener in listeners):
            raise self._shell.machine.refuse("start", "it has async listeners, so enter it: async with ctx")
        self._shell.start()

    def pause(self, reason: str | None = None) -> None:
        """Hold back accepted work that has not begun; what runs goes on.

        Raises:
            InvalidTransition: it is not running.
        """
        self._shell.pause(reason)

    def resume(self) -> None:
        """Let work begin again.

        Raises:
            InvalidTransition: it is not paused.
        """
        self._shell.resume()

    def stop(self, reason: str | None = None, *, grace: float | timedelta | OwnGrace | None = OWN_GRACE) -> bool:
        """Take no more work and let the accepted work end, until the deadline.

        Never blocks and never fails; on a stopped worker it can only shorten the deadline.

        Args:
            reason: for people and logs; the first one is kept.
            grace: seconds, or a timedelta, until the deadline instead of the worker's own; 0 cancels at once, None
                waits for ever.

        Returns:
            Whether this call stopped the worker.
        """
        return self._shell.stop_within(reason, self._shell.grace if grace is OWN_GRACE else seconds_of(grace))

    def fail(self, error: BaseException) -> bool:
        """Stop because the worker's infrastructure failed: what it owns is cancelled, waiters raise `WorkerFailed`.

        Returns:
            Whether this is the failure that counts; a later one is logged.
        """
        return self._shell.fail(error)

    def stop_when_idle(self) -> None:
        """Stop as soon as no task is in; until then new work is accepted."""
        self._shell.stop_when_idle()

    # Listeners

    def wrap_listener(self, function: ListenerFunction) -> Listener:
        """Put a listener ``f(ctx, event)`` in front of all others; it hears every event and cannot suppress one."""
        return self._listen(function, (), in_front=True)

    def listen(self, function: ListenerFunction, *event_types: type[Event]) -> Listener:
        """Append a listener ``f(ctx, event)``, plain or async, for these types of events, or for all.

        A plain listener runs inline when the call that causes the event is made on the worker's loop. An async one
        has a queue of its own and is served until the worker has finished.

        Returns:
            A handle that disconnects it; a strong reference is kept until then.

        Raises:
            InvalidTransition: an async listener on a worker that runs unhosted or has finished.
        """
        return self._listen(function, event_types, in_front=False)

    def emit(self, value: object) -> None:
        """Tell the listeners: an `Event` as it is, anything else as ``Custom(value)``."""
        outbox = self._shell.outbox
        if not (outbox.listeners or worker_event.receivers or type(value) in TRANSITION_SIGNALS):
            return
        if outbox.audience(type(value) if isinstance(value, Event) else Custom):
            sequence = self._shell.ledger.sequence
            outbox.put([value if isinstance(value, Event) else Custom(sequence=sequence, value=value)])
            outbox.flush()

    # Readiness

    def mark_unready(self, reason: str, *, about: str = "") -> None:
        """Make `is_ready` false although the worker runs, until `mark_ready` is called for the same part.

        Args:
            reason: what probes will say, instead of what was last said about this part.
            about: the part of the worker that is in trouble; each has a reason of its own. A `WorkerLoop` speaks of
                its "store".
        """
        self._troubles[about] = reason

    def mark_ready(self, *, about: str = "") -> None:
        """Undo `mark_unready` for one part; the worker is ready once no part is in trouble."""
        self._troubles.pop(about, None)

    # Inside

    def _listen(self, function: ListenerFunction, event_types: tuple[type[Event], ...], *, in_front: bool) -> Listener:
        shell = self._shell
        asynchronous = is_async(function)
        now = shell.machine.snapshot
        if asynchronous and (now.finished or (shell.host is None and now.started)):
            remedy = "it has ended" if now.finished else "it has no task group, so enter it: async with ctx"
            raise shell.machine.refuse("add an async listener to", remedy)
        listener = Listener(function, event_types, shell.outbox, Mailbox() if asynchronous else None)
        shell.outbox.add(listener, in_front=in_front)
        # The listener is connected before we look: a host that comes now finds it, one that is there is told.
        if shell.host is not None:
            shell.host.listen(listener)
        return listener


def seconds_of(grace: float | timedelta | None) -> float | None:
    """Return a grace in seconds.

    Raises:
        ValueError: it is negative, or no number.
    """
    seconds = grace.total_seconds() if isinstance(grace, timedelta) else grace
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"grace must be 0 or more seconds, or None for no limit, not {grace!r}")
    return seconds
