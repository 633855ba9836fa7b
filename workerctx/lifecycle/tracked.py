"""Counting a coroutine while it runs, at nearly no cost.

A `Tracked` is an awaitable that is on its worker's count from `track()` on and leaves it exactly once: on return,
exception, cancellation, `close()` or garbage collection. It has no task, no cancel scope and no checkpoint of its own.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Awaitable, Coroutine, Generator
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from workerctx.lifecycle.events import Error, Success
from workerctx.lifecycle.signals import worker_event
from workerctx.lifecycle.state import WorkerState

if TYPE_CHECKING:
    from types import CodeType

    from workerctx.lifecycle.ledger import Ledger

T_co = TypeVar("T_co", covariant=True)

_OPEN = WorkerState.RUNNING
# Since when a tracked awaitable runs, in one slot with whether it does.
_NEW = 0.0
_UNTIMED = float("nan")  # it is true, and a duration counted from it is unknown
_OVER = -1.0


class Tracked(Awaitable[T_co], Generic[T_co]):
    """An awaitable whose run a worker counts; made by `WorkerContext.track`.

    Awaiting it awaits what it wraps: result, exception, traceback and context variables pass through untouched. It can
    be awaited once. While the worker is pending or paused, awaiting it waits at the gate before the work begins.

    A task that returns is a `Success` event and one that raises an `Error` event; one that is cancelled is neither.

    Cancellation: passes through; the count falls when the wrapped awaitable has unwound.
    Threads: for the worker's event loop only.
    """

    __slots__ = ("_inner", "_ledger", "_since")

    def __init__(self, ledger: Ledger, inner: Awaitable[T_co]) -> None:
        self._ledger = ledger
        self._inner = inner
        self._since = _NEW

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Run the wrapped awaitable.

        Raises:
            RuntimeError: it was awaited or closed before.
            NotAccepting: the worker was stopped before it started; the wrapped coroutine is closed.
        """
        if self._since:
            raise RuntimeError(f"{self!r} was awaited or closed already: track a new coroutine for each run")
        # No local name that can be spared: each costs every suspended task eight bytes.
        self._since = _UNTIMED
        try:
            if self._ledger.machine.tip.following or self._ledger.machine.tip.state is not _OPEN:
                yield from self._pass_gate()
            if self._ledger.outbox.listeners or worker_event.receivers:
                self._since = monotonic()
            result = yield from self._inner.__await__()
        except GeneratorExit:
            self._since = _OVER
            self._ledger.drop()  # not `left`: the garbage collector may be doing this in another thread
            raise
        except BaseException:
            self._failed()
            raise
        self._ledger.left += 1
        if self._ledger.attentive:
            self._ledger.leave()
        if self._ledger.outbox.listeners or worker_event.receivers:
            self._succeeded()
        self._since = _OVER
        return result

    def close(self) -> None:
        """Give the work up before it began: it leaves the count and the wrapped coroutine is closed.

        Harmless when repeated or when the work has begun.
        """
        if not self._since:
            self._since = _OVER
            close_coroutine(self._inner)
            self._ledger.drop()

    def __del__(self) -> None:
        if not self._since:
            message = f"{self!r} was never awaited; its coroutine was closed and has left the count"
            self.close()
            warnings.warn(message, ResourceWarning, stacklevel=1, source=self._inner)

    def __repr__(self) -> str:
        return f"<Tracked {self.label} by {self._ledger.machine.name!r}>"

    @property
    def label(self) -> str:
        """The name under which the work is reported."""
        return label_of(self._inner)

    @property
    def ledger(self) -> Ledger:
        """The count that it is on."""
        return self._ledger

    @property
    def is_in(self) -> bool:
        """Whether it is on the count."""
        return self._since != _OVER

    def _pass_gate(self) -> Generator[Any, Any, None]:
        try:
            yield from self._ledger.pass_gate(self.label).__await__()
        except BaseException:
            close_coroutine(self._inner)
            raise

    def _failed(self) -> None:
        error = sys.exc_info()[1]
        seconds = monotonic() - self._since
        self._since = _OVER
        ledger = self._ledger
        ledger.left += 1
        if ledger.attentive:
            ledger.leave()
        if error is None or not ledger.outbox.audience(Error) or isinstance(error, anyio.get_cancelled_exc_class()):
            return
        ledger.outbox.send(Error(sequence=ledger.sequence, name=self.label, seconds=seconds, error=error))

    def _succeeded(self) -> None:
        ledger = self._ledger
        if ledger.outbox.audience(Success):
            seconds = monotonic() - self._since
            ledger.outbox.send(Success(sequence=ledger.sequence, name=self.label, seconds=seconds))


RUN_OF_TRACKED: CodeType = Tracked[object].__await__.__code__
"""Marks the frames in which a tracked awaitable runs."""


def label_of(work: object) -> str:
    """Name a coroutine, function or other awaitable for a person."""
    name: object = getattr(work, "__qualname__", None)
    return name if isinstance(name, str) else type(work).__qualname__


def close_coroutine(work: object) -> None:
    """Close a coroutine that will not run, so that it is not reported as forgotten; leave anything else alone."""
    if isinstance(work, Coroutine):
        work.close()
