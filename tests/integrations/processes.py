"""Python processes for tests: read line by line, never left behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60.0


class PythonProcess:
    """A process whose output is read line by line.

    What several processes print is flushed, not unbuffered: then a line is one write, and lines do not mix.
    """

    def __init__(self, folder: Path, *arguments: str, stderr: int = subprocess.STDOUT, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="backslashreplace",
        )
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            self._queue.put(line.rstrip())
        self._queue.put(None)

    def wait_for(self, part: str, times: int = 1) -> str:
        """Wait until so many more lines had this in them and return the last of them."""
        deadline = time.monotonic() + PATIENCE
        line: str | None = ""
        while times > 0:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no {part!r} in:\n{self.output}"
            times -= line.count(part)
        return line

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """Wait for the end of the process, and of all that it started, and return its status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), f"a process is left that writes to the same output:\n{self.output}"
        return status

    def discard(self) -> None:
        """Kill it if it is there still."""
        self.process.kill()
        self.ends()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)
