"""Signals that reach a context before they reach the server."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from workerctx.lifecycle import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

    from workerctx.lifecycle import WorkerContext

_log = logging.getLogger("workerctx")

_CHAINED: Final = (signal.SIGTERM, signal.SIGINT)


_live: Final[list[Chain]] = []
"""Those of the process whose contexts have not ended, used in its main thread only."""
_owed: Final[dict[signal.Signals, Any]] = {}
"""Signals that would have ended the process, and what did so; due when no chain is left."""


@define(eq=False)
class Chain:
    """What the process did about its signals before, and what is owed to it."""

    _context: WorkerContext
    _before: dict[signal.Signals, Any] = field(factory=dict[signal.Signals, Any], init=False)

    @contextmanager
    def in_front(self) -> Generator[None]:
        """Stop the context when a signal comes, then let whoever handled it before have it."""
        if threading.current_thread() is not threading.main_thread():
            # A test client runs applications in a thread, where no signal arrives, and must be able to.
            _log.warning(
                "worker %r will not hear of signals, because its lifespan runs outside the main thread",
                self._context.name,
            )
            yield
            return
        handlers = {number: signal.getsignal(number) for number in _CHAINED}
        # Ignored stays ignored; None is a handler that was not installed from Python and could not be called.
        self._before = {number: before for number, before in handlers.items() if before not in {signal.SIG_IGN, None}}
        _live.append(self)
        try:
            with stop_on_signals(self._context, *self._before, then=self._pass_on) if self._before else nullcontext():
                yield
        finally:
            self.settle()

    def settle(self) -> None:
        """Let the process end as it would have, if this context was the last to drain."""
        if self in _live:
            _live.remove(self)
            _pay()

    def _pass_on(self, number: signal.Signals, frame: FrameType | None) -> None:
        if self._context.is_finished:  # as one is that was stopped before it started
            self.settle()
        before = self._before[number]
        if before in {signal.SIG_DFL, signal.default_int_handler}:
            # It would end the process here and now.
            _owed[number] = before
            _pay()
        elif callable(before):
            before(number, frame)


def _pay() -> None:
    while _owed and not _live:
        number, before = _owed.popitem()
        signal.signal(number, before)
        signal.raise_signal(number)
