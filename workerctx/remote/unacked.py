"""Outcomes that a gateway has not acknowledged: recorded before they are sent, told again until they are."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from attrs import define, field

from workerctx.queue import CompleteLease, FailLease
from workerctx.remote.journal import Journal, Owed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from workerctx.queue import Finish

_log = logging.getLogger("workerctx")

_MOST: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 200
"""Bytes that an outcome takes beside its data, about."""


@define(eq=False)
class UnackedResults:
    """The outcomes of one worker that must still be told, in the order in which they were recorded.

    They are in memory, and on disk if there is a journal.

    Attributes:
        most: How many bytes of outcomes may wait before the worker takes no more jobs.
        namespace: Where they belong; None until that is known.

    Threads: any.
    """

    most: int = _MOST
    _journal: Journal | None = None
    namespace: str | None = field(default=None, init=False)
    _entries: dict[str, Owed] = field(factory=dict[str, "Owed"], init=False)
    _bytes: int = field(default=0, init=False)
    _failed: bool = field(default=False, init=False)
    """Whether the journal could not be written last time."""
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, fsync: bool = False) -> Self:
        """Return the outcomes that a journal holds, and keep them there.

        Args:
            path: The journal's file; or a folder, in which the first journal that nobody has is taken.
            fsync: Whether each outcome waits for the disk, so that it survives the death of the machine and not only of
                the process.

        Raises:
            InvalidConfig: The file cannot be opened, or another worker has it.
        """
        journal, left = Journal.open(path, fsync=fsync)
        unacked = cls(_MOST, journal)
        for owed in left:
            unacked._put(owed)
            unacked.namespace = owed.namespace or unacked.namespace
        return unacked

    @property
    def waits_for_disk(self) -> bool:
        """Whether `record` may take long."""
        return self._journal is not None and self._journal.fsync

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more jobs should be taken."""
        return self._bytes >= self.most

    def record(self, finishes: Iterable[Finish], job_of: Callable[[str], str] = lambda _: "") -> None:
        """Keep outcomes until they are acknowledged; a second one of a lease replaces the first.

        A journal that cannot be written is logged, and the outcomes are in memory only until it can be again.

        Args:
            finishes: The outcomes.
            job_of: Returns the id of a lease's job; empty if it is not known.
        """
        with self._lock:
            namespace = self.namespace or ""
            kept = [Owed(finish, job_of(finish.lease_id), namespace) for finish in finishes]
            for owed in kept:
                self._put(owed)
            self._write(lambda journal: journal.record(kept))

    def acknowledge(self, lease_ids: Iterable[str]) -> Sequence[Finish]:
        """Forget the outcomes of leases, and return them; unknown leases are ignored."""
        with self._lock:
            forgotten = [owed for lease_id in lease_ids if (owed := self._pop(lease_id)) is not None]
            if forgotten:
                done = [owed.lease_id for owed in forgotten]
                self._write(lambda journal: journal.forget(done, list(self._entries.values())))
            return [owed.finish for owed in forgotten]

    def get(self, lease_id: str) -> Finish | None:
        """Return the outcome of a lease, if it is to be told."""
        owed = self._entries.get(lease_id)
        return None if owed is None else owed.finish

    def job_of(self, lease_id: str) -> str:
        """Return whose outcome is to be told; empty if that is not known."""
        owed = self._entries.get(lease_id)
        return "" if owed is None else owed.job_id

    def snapshot(self) -> Sequence[Finish]:
        """Return every outcome that is to be told, oldest first."""
        with self._lock:
            return [owed.finish for owed in self._entries.values()]

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Close the journal; what is in it will be told by the worker that opens it next."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._journal = None

    def _put(self, owed: Owed) -> None:
        self._pop(owed.lease_id)
        self._entries[owed.lease_id] = owed
        self._bytes += _size(owed.finish)

    def _pop(self, lease_id: str) -> Owed | None:
        owed = self._entries.pop(lease_id, None)
        if owed is not None:
            self._bytes -= _size(owed.finish)
        return owed

    def _write(self, write: Callable[[Journal], None]) -> None:
        if self._journal is None:
            return
        try:
            write(self._journal)
            if self._failed:  # what was not written meanwhile
                self._journal.rewrite(list(self._entries.values()))
        except OSError as exc:
            if not self._failed:
                _log.error("the journal %s cannot be written, outcomes are in memory only: %s", self._journal.path, exc)
            self._failed = True
        else:
            self._failed = False


def _size(finish: Finish) -> int:
    match finish:
        case CompleteLease():
            return _OVERHEAD + len(finish.outputs_json)
        case FailLease():
            return _OVERHEAD + len(finish.error.message) + len(finish.error.traceback or "")
        case _:
            return _OVERHEAD
