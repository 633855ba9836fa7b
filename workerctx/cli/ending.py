"""The end of a process that ran a worker: nothing may hold it up any more."""

from __future__ import annotations

import signal
import threading
import time
from typing import Final

from workerctx.lifecycle.hard_exit import HardExit

_LIMIT: Final = 5.0
"""Seconds that threads which are not done may take."""


def ignore_signals() -> None:
    """Let no further signal change how the process ends; for the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def bound_exit() -> None:
    """Let neither a thread that hangs nor an impatient signal decide how the process ends; its last act but to exit.

    A handler can leave a thread behind, which the interpreter would wait for; after a few seconds the process is ended.
    """
    if threading.current_thread() is threading.main_thread():
        ignore_signals()
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    if left:
        now = time.monotonic()
        guard = HardExit(lambda: now, _LIMIT, lambda: f"Threads that were left behind: {', '.join(left)}")
        guard.__enter__()  # for good: it ends with the process
