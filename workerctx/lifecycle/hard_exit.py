"""The last bound on a process: when a stop has run out of time, say where everybody is and leave."""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

EXIT_CODE = 70
"""The exit status of a process that had to be ended (``EX_SOFTWARE`` of sysexits.h)."""


@define(eq=False)
class HardExit:
    """Ends the process when a deadline plus `limit` seconds have passed; a context manager.

    Works from a thread of its own, so neither a blocked event loop nor a task that ignores cancellation can hold it up.

    Args:
        deadline: the deadline in `time.monotonic()` seconds, or None while there is none.
        limit: seconds after the deadline.
        describe: what else to print, for example which tasks are still running.
    """

    _deadline: Callable[[], float | None]
    _limit: float
    _describe: Callable[[], str]
    # SimpleQueue.put is safe in a signal handler, which Condition and Event are not.
    _news: queue.SimpleQueue[bool] = field(factory=queue.SimpleQueue[bool], init=False)
    _thread: threading.Thread = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="workerctx hard exit", daemon=True)

    def look(self) -> None:
        """Take note of a deadline that was set or has moved.

        Threads: any thread, and a signal handler.
        """
        self._news.put(True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._news.put(False)
        self._thread.join()

    def _watch(self) -> None:
        while True:
            deadline = self._deadline()
            left = None if deadline is None else max(0.0, deadline + self._limit - time.monotonic())
            try:
                if not self._news.get(timeout=left):
                    return
            except queue.Empty:
                break
        try:
            print(  # noqa: T201 - logging may be what hangs
                f"workerctx: the deadline has passed {self._limit:g} seconds ago and the process has not ended;"
                f" exit status {EXIT_CODE}. {self._describe()}",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        finally:  # whether or not anybody can be told
            os._exit(EXIT_CODE)
