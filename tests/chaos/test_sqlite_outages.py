"""W4 on SQLite, with worker processes: the file is locked, the disk is full, the file is replaced."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.queue import EnqueueRequest, JobState, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 40.0
SOON = 10.0
"""Seconds within which a worker must claim again once its store is back."""


def eventually(holds: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Try something until it holds, with a bound, and return what it said."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)
    return found


class Scene:
    """A worker process on a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mounted").mkdir()
        self.path = folder / "mounted" / "jobs.db"
        environ = {
            "WORKERCTX_URL": f"sqlite:///{self.path}",
            "CHAOS_FOLDER": str(folder),
            "WORKERCTX_LEASE_TTL": "2",
            "WORKERCTX_HEARTBEAT": "0.2",
            "WORKERCTX_REAP_INTERVAL": "0.2",
        }
        self.log = folder / "worker.txt"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workerctx", "worker", "app:jobs", "--health-port", "0"],
                cwd=Path(__file__).parent,
                env=os.environ | environ,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: "  health " in self.log.read_text() or self.process.poll() is not None)
        (line,) = [line for line in self.log.read_text().splitlines() if line.startswith("  health ")]
        self._url = line.split()[1].rpartition("/")[0]

    def readiness(self) -> tuple[bool, str]:
        """Return whether the worker is ready, and why not."""
        try:
            with urllib.request.urlopen(f"{self._url}/readyz", timeout=10) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
        ((_, verdict),) = json.loads(text)["workers"].items()
        return verdict["ok"], verdict["reason"]

    def on_store(self, function: Callable[..., Any]) -> Any:
        """Do something with the store."""

        async def run() -> Any:
            async with connect(f"sqlite:///{self.path}") as storage:
                return await function(storage)

        return anyio.run(run)

    def enqueue(self) -> str:
        """Add a job and return its id."""
        request = EnqueueRequest("chaos", {"number": 0}, max_attempts=5)
        return self.on_store(lambda storage: storage.jobs.enqueue(request)).id

    def has_run(self, job_id: str) -> bool:
        """Tell whether a job has succeeded."""
        return self.on_store(lambda storage: storage.jobs.get(job_id)).state is JobState.SUCCEEDED

    def unready(self) -> str:
        """Wait until the worker says that it is not ready, and return why."""
        return eventually(lambda: not (found := self.readiness())[0] and found[1])

    def heals(self) -> None:
        """See to it that the worker takes jobs again soon, and is ready."""
        job_id = self.enqueue()
        eventually(partial(self.has_run, job_id), SOON)
        eventually(lambda: self.readiness()[0], SOON)

    def stop(self) -> None:
        """Stop the worker, which must be well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A worker that has run a job."""
    scene = Scene(tmp_path)
    try:
        scene.heals()
        yield scene
    finally:
        scene.process.kill()
        scene.process.wait()


def test_a_file_that_is_locked(scene: Scene) -> None:
    """W4: while somebody holds the lock the worker says so; it goes on as soon as the lock is free."""
    with closing(sqlite3.connect(scene.path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert "the store has not answered" in scene.unready()
    scene.heals()
    scene.stop()


@contextmanager
def full_disk(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let no file of the process grow: each write fails, as on a full disk."""
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full(scene: Scene) -> None:
    """W4: while nothing can be written the worker says so; what it ran meanwhile is told when there is room again."""
    with full_disk(scene.process):
        job_id = scene.enqueue()
        assert "the store fails" in scene.unready()
    eventually(partial(scene.has_run, job_id), SOON)
    scene.heals()
    scene.stop()


def test_a_folder_that_goes_away(scene: Scene) -> None:
    """W4: a folder that is not there for a while, like a volume that is mounted again, is missed and found again."""
    job_id = scene.enqueue()
    eventually(partial(scene.has_run, job_id))
    away = scene.path.parent.rename(scene.folder / "away")
    assert "cannot" in scene.unready()
    assert not scene.path.exists()
    away.rename(scene.path.parent)
    scene.heals()
    assert scene.has_run(job_id)
    scene.stop()


def test_a_file_that_is_replaced(scene: Scene) -> None:
    """W4: a worker notices that its file was replaced by another, such as a backup, and serves that."""
    backup = scene.folder / "backup.db"
    with closing(sqlite3.connect(scene.path)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    away = scene.folder / "away"
    away.mkdir()
    for path in scene.path.parent.glob("jobs.db*"):
        shutil.move(path, away)
    scene.unready()
    assert not scene.path.exists(), "the worker has made an empty file"
    shutil.move(backup, scene.path)
    scene.heals()
    scene.stop()
