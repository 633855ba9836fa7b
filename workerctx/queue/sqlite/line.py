"""The line of the processes that want to write to a file.

SQLite lets one write at a time, and of those who wait it lets in whoever asks in the right moment. A busy process that
comes back at once would go first for many times in a row. So whoever has to wait stands in line: each place is a
lock on one byte of a file, and only who has got to the first place asks SQLite. It is courtesy and no more: where
there is no such file, or somebody in front does not move, SQLite is asked all the same.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from workerctx.queue.sqlite.meeting import meeting_place, short_name

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - not on Windows, where nobody stands in line
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACES: Final = 8
"""So many stand in order; more of them try to get the last place."""

_PATIENCE: Final = 1.0
"""Seconds to wait for one place."""

_TAKEN: Final = (errno.EAGAIN, errno.EACCES)
_SHORTEST: Final = 0.0005
_LONGEST: Final = 0.01
_GROWTH: Final = 1.02


def tries(seconds: float) -> Iterator[None]:
    """Yield at once and then again and again for so many seconds, the more seldom the longer it takes."""
    end, pause = time.monotonic() + seconds, _SHORTEST
    yield
    while time.monotonic() < end:
        time.sleep(pause)
        pause = min(_LONGEST, pause * _GROWTH)
        yield


class WritersLine:
    """A way to stand in line.

    Threads: those of one process do not see each other there.
    """

    def __init__(self, database: Path) -> None:
        self._file: int | None = None
        folder = meeting_place()
        if folder is not None:
            with suppress(OSError):
                self._file = os.open(folder / f"{short_name(database, '')}.line", os.O_RDWR | os.O_CREAT, 0o600)

    def move_up(self) -> None:
        """Return once this is the first in line, or as good as first; call `leave` afterwards."""
        for place in reversed(range(PLACES)):
            for _ in tries(_PATIENCE):
                if self._take(place):
                    break
            else:
                return
            self._free(place + 1, 1)  # where it stood until now

    def leave(self) -> None:
        """Let the next one move up."""
        self._free(0, 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _take(self, place: int) -> bool:
        if self._file is None or fcntl is None:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError as exc:
            return exc.errno not in _TAKEN
        return True

    def _free(self, first: int, number: int) -> None:
        """Give up so many places; 0 for all from the first."""
        if self._file is not None and fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, number, first)
