"""Outcomes on disk, so that they survive the process that computed them: JSON, one line each, appended.

A line is written whole or not at all as far as readers can tell: what follows the last line break is the torn end of a
write and is cut off. Lines reach the operating system before the outcome is sent, so they survive the death of the
process; with ``fsync`` they also reach the disk before, and survive the death of the machine.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from attrs import define, field, frozen

from workerctx.errors import InvalidConfig
from workerctx.queue import CompleteLease, FailLease, JobError, ReleaseLease, SnoozeLease, ThrottleLease
from workerctx.remote.faults import UNREADABLE

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - not on Windows, where there is no flock
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from workerctx.queue import Finish

_log = logging.getLogger("workerctx")

_LARGEST: Final = 4 * 1024 * 1024
"""Bytes of what is over and done with, after which the file is written anew."""


class _Taken(InvalidConfig):
    """Another worker has this journal."""


@frozen
class Owed:
    """An outcome that must still be told.

    Attributes:
        finish: What to tell.
        job_id: Of which job; empty if that is not known.
        namespace: Where the job is; empty if that is not known.
    """

    finish: Finish
    job_id: str = ""
    namespace: str = ""

    @property
    def lease_id(self) -> str:
        """Of which run."""
        return self.finish.lease_id


class _Entry(msgspec.Struct, omit_defaults=True):
    """One line: an outcome, or leases whose outcome was acknowledged."""

    lease: str | None = None
    job: str = ""
    namespace: str = ""
    outcome: str | None = None
    outputs: msgspec.Raw = msgspec.Raw(b"null")
    error: JobError | None = None
    retryable: bool = True
    delay: float | None = None
    scope: str | None = None
    done: tuple[str, ...] = ()

    @classmethod
    def of(cls, owed: Owed) -> _Entry:
        entry, finish = cls(owed.lease_id, owed.job_id, owed.namespace), owed.finish
        match finish:
            case CompleteLease():
                entry.outcome, entry.outputs = "complete", msgspec.Raw(finish.outputs_json)
            case FailLease():
                entry.outcome, entry.error = "fail", finish.error
                entry.retryable, entry.delay = finish.retryable, finish.delay
            case ReleaseLease():
                entry.outcome = "release"
            case SnoozeLease():
                entry.outcome, entry.delay = "snooze", finish.delay
            case ThrottleLease():
                entry.outcome, entry.delay, entry.scope = "throttle", finish.retry_after, finish.scope
        return entry

    def owed(self) -> Owed | None:
        """Return the outcome, if it is one."""
        finish = self._finish()
        return None if finish is None else Owed(finish, self.job, self.namespace)

    def _finish(self) -> Finish | None:
        lease_id, delay = self.lease or "", self.delay or 0.0
        finish: Finish | None = None
        match self.outcome:
            case "complete":
                finish = CompleteLease(lease_id, bytes(self.outputs))
            case "fail":
                error = self.error or JobError("Error", "unknown")
                finish = FailLease(lease_id, error, self.retryable, self.delay)
            case "release":
                finish = ReleaseLease(lease_id)
            case "snooze":
                finish = SnoozeLease(lease_id, delay)
            case "throttle":
                finish = ThrottleLease(lease_id, delay, self.scope)
            case _:
                pass
        return finish


_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[_Entry]] = msgspec.json.Decoder(_Entry)


@define(eq=False)
class Journal:
    """An open journal; it has one owner at a time.

    Attributes:
        path: The file; beside it is a lock file of the same name with ``.lock``.
        fsync: Whether each write waits for the disk.
        size: Bytes in the file.

    Threads: one at a time.
    """

    path: Path
    fsync: bool = False
    size: int = field(default=0, init=False)
    _kept: int = field(default=0, init=False)
    """Bytes of the file when it was written anew."""
    _file: int = field(default=-1, init=False)
    _lock: int = field(default=-1, init=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, fsync: bool = False) -> tuple[Self, Sequence[Owed]]:
        """Open a journal, or make one, and return it with the outcomes that were not acknowledged, oldest first.

        Args:
            path: The file; or a folder, in which the first journal that nobody has is taken.
            fsync: Whether each write waits for the disk.

        Raises:
            InvalidConfig: The file cannot be opened, or another worker has it.
        """
        if not Path(path).is_dir():
            return cls._open(Path(path), fsync=fsync)
        for number in count():
            with suppress(_Taken):
                return cls._open(Path(path, f"{number}.journal"), fsync=fsync)
        raise AssertionError

    @classmethod
    def _open(cls, path: Path, *, fsync: bool) -> tuple[Self, Sequence[Owed]]:
        journal = cls(path, fsync)
        try:
            journal._acquire()
            left = journal._load()
            journal.rewrite(left)
        except OSError as exc:
            journal.close()
            raise InvalidConfig(f"the journal {str(path)!r} cannot be used: {exc}") from exc
        except BaseException:
            journal.close()
            raise
        return journal, left

    def record(self, owed: Iterable[Owed]) -> None:
        """Append outcomes.

        Raises:
            OSError: They could not be written; the file is as it was.
        """
        self._append([_Entry.of(each) for each in owed])

    def forget(self, lease_ids: Sequence[str], left: Sequence[Owed]) -> None:
        """Append that these leases need no telling any more; now and then, write the file anew with what is left.

        Raises:
            OSError: It could not be written, so they will be told again.
        """
        if not left:
            os.ftruncate(self._file, 0)
            self.size = self._kept = 0
        elif self.size > 2 * self._kept + _LARGEST:
            self.rewrite(left)
        else:
            self._append([_Entry(done=tuple(lease_ids))])

    def rewrite(self, left: Sequence[Owed]) -> None:
        """Replace the file by one that holds these outcomes only.

        Raises:
            OSError: It could not be written; the file is as it was.
        """
        fresh = self.path.with_name(self.path.name + ".new")
        file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            size = _write(file, b"".join(_line(_Entry.of(owed)) for owed in left))
            os.fsync(file)
            fresh.replace(self.path)
        except BaseException:
            os.close(file)
            with suppress(OSError):  # it would hold what is left of a disk that is full
                fresh.unlink()
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self.size, self._kept = file, size, size

    def close(self) -> None:
        """Close the files and let another worker have them."""
        for file in (self._file, self._lock):
            if file >= 0:
                os.close(file)
        self._file = self._lock = -1

    def _acquire(self) -> None:
        if fcntl is None:  # pragma: no cover - not on Windows
            raise InvalidConfig("a journal needs a system with flock: leave it out here")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _Taken(
                f"the journal {str(self.path)!r} belongs to another worker that is running: give each its own, or all"
                " of them a folder"
            ) from None

    def _load(self) -> Sequence[Owed]:
        raw = self.path.read_bytes() if self.path.exists() else b""
        lines = raw.split(b"\n")
        if lines.pop():
            _log.warning("the journal %s ends in a torn line, which is left out", self.path)
        left: dict[str, Owed] = {}
        for number, line in enumerate(lines, 1):
            try:
                entry = _decoder.decode(line)
            except UNREADABLE as exc:
                _log.error("line %d of the journal %s cannot be read and is left out: %s", number, self.path, exc)
                continue
            owed = entry.owed()
            if owed is not None:
                left[owed.lease_id] = owed
            for lease_id in entry.done:
                left.pop(lease_id, None)
        return list(left.values())

    def _append(self, entries: Sequence[_Entry]) -> None:
        try:
            written = _write(self._file, b"".join(map(_line, entries)))
            if self.fsync:
                os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # what is half written must not run into the next line
                os.ftruncate(self._file, self.size)
            raise
        self.size += written


def _line(entry: _Entry) -> bytes:
    # A result stands there as its handler wrote it; in JSON, a line break is only ever white space.
    return _encoder.encode(entry).replace(b"\n", b" ") + b"\n"


def _write(file: int, data: bytes) -> int:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    return len(data)
