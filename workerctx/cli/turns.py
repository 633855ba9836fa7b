"""How the threads of a worker process take turns at the interpreter."""

from __future__ import annotations

import sys
from typing import Final

TURN: Final = 0.0005
"""Seconds that a thread keeps the interpreter while others wait for it."""

_PYTHONS_OWN: Final = 0.005


def take_short_turns() -> None:
    """Let the thread that talks to the store go on soon after the store has answered.

    Python lets it wait for 5 ms each time while jobs run, and a round with a database has several answers. An
    application that has chosen an interval keeps it. It holds for the whole process, so only commands do this.
    """
    if abs(sys.getswitchinterval() - _PYTHONS_OWN) < TURN:
        sys.setswitchinterval(TURN)
