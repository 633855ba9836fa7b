"""What signals do to ``workerctx worker``, whatever it is doing: one table, each row in processes of its own.

The rows of a group run side by side. Each says how the process ends and within what time, what it says, and what is
left in the store.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from workerctx.queue import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

AT_ONCE = 15.0
"""Seconds that a busy machine may need for what takes no time; less than the 30 for which SQLite waits for a lock."""
ENDLESS = 3600.0
HARD_LIMIT = 0.5
HARD_EXIT = 70

TERM = (signal.SIGTERM,)
TWICE = (signal.SIGTERM, signal.SIGINT)

QUEUED = (JobState.QUEUED, 0)
SUCCEEDED = (JobState.SUCCEEDED, 1)
LEASED = (JobState.RUNNING, 1)
"""Its lease runs out, and the job goes to another worker."""


@attrs.frozen
class Row:
    """What happens to a worker, and what must come of it.

    Attributes:
        doing: What the worker is doing, for people.
        kind: The job that it runs meanwhile.
        signals: What it is sent, in this order; with none, the worker runs what there is and ends by itself.
        grace: Seconds.
        ends: Its exit status, and within how many seconds of the last signal.
        left: The state of its job afterwards, and how many attempts that took.
        says: What it prints, stacks among it.
        hung: Whether the store stops answering while the job runs; for the rest of the process if there are signals.
        cancelled: Whether somebody cancels the job.
    """

    doing: str
    kind: str
    signals: tuple[signal.Signals, ...]
    grace: float
    ends: tuple[int, float]
    left: tuple[JobState, int]
    says: tuple[str, ...] = ()
    hung: bool = attrs.field(default=False, kw_only=True)
    cancelled: bool = attrs.field(default=False, kw_only=True)

    def __str__(self) -> str:
        return f"{self.doing}, {self.kind}, {[number.name for number in self.signals]}, grace {self.grace:g}"


STOPPED = (0, AT_ONCE)
ENDED = (HARD_EXIT, 0.2 + HARD_LIMIT + AT_ONCE)
"""After the grace and the hard limit."""
ENDED_EARLY = (HARD_EXIT, HARD_LIMIT + AT_ONCE)
"""After the hard limit, as a second signal ended the grace."""
STACKS = ("the process has not ended", "Thread")
BLOCKER = (*STACKS, "in a_long_calculation")

MATRIX = (
    Row("idle", "quick", (), ENDLESS, STOPPED, SUCCEEDED),
    Row("idle", "quick", TERM, ENDLESS, STOPPED, SUCCEEDED, ("stopped: signal SIGTERM",)),
    Row("idle", "quick", TWICE, ENDLESS, STOPPED, SUCCEEDED),
    Row("busy", "napping", (), ENDLESS, STOPPED, SUCCEEDED, ("awake",)),
    Row("busy", "patient", TERM, ENDLESS, STOPPED, SUCCEEDED, ("told shutdown", "stopped: signal SIGTERM")),
    Row("busy", "patient", (signal.SIGINT,), ENDLESS, STOPPED, SUCCEEDED, ("stopped: signal SIGINT",)),
    Row("busy beyond the grace", "endless", TERM, 0.2, STOPPED, QUEUED, ("told shutdown",)),
    Row("busy", "endless", TWICE, ENDLESS, STOPPED, QUEUED, ("told shutdown", "stopped: signal SIGTERM")),
    Row("blocked loop", "blocking_for_a_while", (), ENDLESS, STOPPED, SUCCEEDED, ("blocked", "in a_long_calculation")),
    Row("blocked loop", "blocking", TERM, 0.2, ENDED, LEASED, BLOCKER),
    Row("blocked loop", "blocking", TWICE, ENDLESS, ENDED_EARLY, LEASED, BLOCKER),
    Row("loop blocked in C", "blocking_in_c", TERM, 0.2, ENDED, LEASED, (*STACKS, "in blocking_in_c")),
    Row("loop blocked in C", "blocking_in_c", TWICE, ENDLESS, ENDED_EARLY, LEASED, (*STACKS, "in blocking_in_c")),
    Row("hung store", "napping", (), ENDLESS, STOPPED, SUCCEEDED, ("awake",), hung=True),
    Row("hung store", "endless", TERM, 0.2, ENDED, LEASED, ("told shutdown", *STACKS), hung=True),
    Row("hung store", "endless", TWICE, ENDLESS, ENDED_EARLY, LEASED, ("told shutdown", *STACKS), hung=True),
    Row("ignoring cancellation", "stubborn", (), ENDLESS, STOPPED, SUCCEEDED, ("told user",), cancelled=True),
    Row("ignoring cancellation", "deaf", TERM, 0.2, ENDED, LEASED, STACKS),
    Row("ignoring cancellation", "deaf", TWICE, ENDLESS, ENDED_EARLY, LEASED, STACKS),
    Row("ignoring cancellation", "stuck_in_a_thread", TERM, 0.2, ENDED, LEASED, BLOCKER),
    Row("ignoring cancellation", "stuck_in_a_thread", TWICE, ENDLESS, ENDED_EARLY, LEASED, BLOCKER),
)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the file's lock, so that who writes to it waits, like for a writer that was frozen."""
    with closing(sqlite3.connect(folder / "jobs.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


@attrs.frozen
class Scene:
    """Where a row is played: a folder with an app and a store of its own."""

    row: Row
    folder: Path
    backend: str
    start: Callable[..., Any]
    store: Callable[..., Any]
    enqueue: Callable[..., list[str]]

    def play(self) -> list[str]:
        """Return what went otherwise than the row says."""
        row = self.row
        payload = {"number": 1} if row.kind == "quick" else {}
        (job_id,) = self.enqueue(row.kind, payload, where=self.folder)
        settings = {"WORKERCTX_HARD_LIMIT": f"{HARD_LIMIT}", "WORKERCTX_LEASE_TTL": "1"}
        settings["WORKERCTX_BLOCK_WARNING"] = "0.2" if not row.signals else "60"
        options = ["--grace", f"{row.grace}", "--backend", self.backend, "-c", "1"] + ["--burst"] * (not row.signals)
        worker = self.start("worker", "app:jobs", *options, where=self.folder, **settings)
        worker.wait_for("ran 1" if row.kind == "quick" else "waiting")
        if row.cancelled:
            self.store(lambda storage: storage.jobs.cancel(job_id), where=self.folder)
        later = None if row.hung else self._enqueue_another()
        with ExitStack() as hanging:
            if row.hung:
                hanging.enter_context(locked(self.folder))
            for number in row.signals:
                worker.signal(number)
                if "told shutdown" in row.says and number is row.signals[0]:
                    worker.wait_for("told shutdown")
            if not row.signals and row.hung:
                worker.wait_for("awake")
                hanging.close()
            began = time.monotonic()
            try:
                status = worker.ends()
            except subprocess.TimeoutExpired:
                return [f"it did not end:\n{worker.output}"]
            seconds = time.monotonic() - began
        return list(self._verdicts(worker, status, seconds, job_id, later))

    def _enqueue_another(self) -> str | None:
        """Add a job that the worker must not begin, once it was told to stop."""
        if not self.row.signals or self.row.kind == "quick":
            return None
        return self.enqueue("quick", {"number": 2}, where=self.folder)[0]

    def _verdicts(self, worker: Any, status: int, seconds: float, job_id: str, later: str | None) -> Iterator[str]:
        expected, bound = self.row.ends
        if status != expected:
            yield f"exit status {status}, not {expected}:\n{worker.output}"
        if seconds > bound:
            yield f"it took {seconds:.1f} seconds, more than {bound:g}"
        for words in self.row.says:
            if words not in worker.output:
                yield f"it did not say {words!r}:\n{worker.output}"
        job = self.store(lambda storage: storage.jobs.get(job_id), where=self.folder)
        if (job.state, job.attempt) != self.row.left:
            yield f"the job is {job.state} with attempt {job.attempt}, not {self.row.left}"
        if later is not None:
            other = self.store(lambda storage: storage.jobs.get(later), where=self.folder)
            if (other.state, other.attempt) != QUEUED:
                yield f"the job behind it is {other.state} with attempt {other.attempt}, not {QUEUED}"
        if status == 0 and (names := self.store(lambda storage: storage.workers.list(), where=self.folder)):
            yield f"it is still on the list of workers: {names}"


@pytest.mark.parametrize(
    ("backend", "rows"),
    # Signals are what event loops differ in; that bursts end on trio is tested with the command.
    [("asyncio", MATRIX), ("trio", [row for row in MATRIX if row.signals])],
    ids=["asyncio", "trio"],
)
def test_shutdown(
    start: Any, store: Any, enqueue: Any, folder: Path, tmp_path_factory: Any, backend: str, rows: Sequence[Row]
) -> None:
    """W3, L26, W5: whatever a worker does, 0, 1 or 2 signals end it in bounded time, and no job is lost or burnt."""

    def play(row: Row) -> list[str]:
        place = tmp_path_factory.mktemp(row.kind)
        shutil.copy(folder / "app.py", place)
        return [f"{row}: {wrong}" for wrong in Scene(row, place, backend, start, store, enqueue).play()]

    with ThreadPoolExecutor(7) as side_by_side:
        wrong = [verdict for verdicts in side_by_side.map(play, rows) for verdict in verdicts]
    assert not wrong, "\n".join(wrong)
