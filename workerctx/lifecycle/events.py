"""What a worker tells its listeners: small immutable records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from workerctx.lifecycle.state import Outcome


@frozen(eq=False, kw_only=True)
class Event:
    """Something that happened to a worker.

    Attributes:
        sequence: the number of the worker's latest transition when it happened.
        at: `time.monotonic()` when it happened, in seconds.
    """

    sequence: int = 0
    at: float = field(factory=time.monotonic)

    def as_error(self) -> BaseException | None:
        """Return the exception that the event reports, if it reports one."""
        return None


@frozen(eq=False, kw_only=True)
class Start(Event):
    """The worker began to run."""


@frozen(eq=False, kw_only=True)
class Pause(Event):
    """The worker holds back work that has not begun."""

    reason: str | None = None


@frozen(eq=False, kw_only=True)
class Resume(Event):
    """The worker lets work begin again."""


@frozen(eq=False, kw_only=True)
class Stop(Event):
    """The worker was asked to stop; accepted work goes on until the deadline."""

    reason: str | None = None
    error: BaseException | None = None

    def as_error(self) -> BaseException | None:
        """Return what broke the worker, if it did not stop by request."""
        return self.error


@frozen(eq=False, kw_only=True)
class Exit(Event):
    """The worker has drained; its life is over."""

    outcome: Outcome
    reason: str | None = None
    error: BaseException | None = None

    def as_error(self) -> BaseException | None:
        """Return what broke the worker, if its outcome is FAILED."""
        return self.error


@frozen(eq=False, kw_only=True)
class Idle(Event):
    """A loop found nothing to do; once per idle period."""


@frozen(eq=False, kw_only=True)
class HeartBeat(Event):
    """A loop is alive.

    Attributes:
        in_flight: how many jobs it is running.
    """

    in_flight: int = 0


@frozen(eq=False, kw_only=True)
class Success(Event):
    """A tracked or spawned task returned.

    Attributes:
        name: the name of the task or coroutine.
        seconds: how long it ran; NaN if nobody listened when it began.
    """

    name: str
    seconds: float


@frozen(eq=False, kw_only=True)
class Error(Event):
    """A tracked or spawned task raised.

    Attributes:
        name: the name of the task or coroutine.
        seconds: how long it ran; NaN if nobody listened when it began.
        error: what it raised.
    """

    name: str
    seconds: float
    error: BaseException

    def as_error(self) -> BaseException | None:
        """Return what the task raised."""
        return self.error


@frozen(eq=False, kw_only=True)
class Custom(Event):
    """A value that was given to `WorkerContext.emit`."""

    value: object


@frozen(eq=False, kw_only=True)
class ListenerError(Event):
    """A listener raised; the other listeners were not affected.

    Attributes:
        listener: the listener that raised.
        event: the event it was given.
        error: what it raised.
    """

    listener: object
    event: Event
    error: BaseException

    def as_error(self) -> BaseException | None:
        """Return what the listener raised."""
        return self.error
