"""Virtual time on trio: its own mock clock, which here does not jump over threads at work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

from trio.abc import Instrument
from trio.testing import MockClock, active_thread_count

if TYPE_CHECKING:
    from trio.lowlevel import Task


def trio_options() -> dict[str, Any]:
    """Return the options for one run of trio in virtual time."""
    clock = MockClock(autojump_threshold=0)
    return {"clock": clock, "instruments": [_ThreadWatch(clock)]}


@final
class _ThreadWatch(Instrument):
    """Lets a clock jump while no thread is at work, and run at the speed of real time meanwhile."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock
        self._at_work = False

    def after_task_step(self, task: Task) -> None:  # noqa: ARG002 - trio passes it
        at_work = active_thread_count() > 0
        if at_work is not self._at_work:
            self._at_work = at_work
            self._clock.rate = 1.0 if at_work else 0.0
            self._clock.autojump_threshold = math.inf if at_work else 0.0
