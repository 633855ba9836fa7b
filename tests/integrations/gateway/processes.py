"""Gateways and workers as processes of their own: started, heard line by line, and never left behind."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60
"""Seconds after which a test gives up on a process; none of them takes as long."""


class Process:
    """A Python program, and what it says."""

    def __init__(self, folder: Path, *arguments: object, **environ: str) -> None:
        path = os.pathsep.join(filter(None, [str(folder), *sys.path]))
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.said.append(line.rstrip())
                self._lines.put(line.rstrip())
        self._lines.put(None)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until it says something that matches, from where the last wait ended."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                line = None
            assert line is not None, "\n".join([f"waited in vain for {pattern!r}, it said:", *self.said])
            if found := re.search(pattern, line):
                return found

    def count(self, line: str) -> int:
        """Return how often it has said exactly this."""
        return self.said.count(line)

    def ends(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status
