"""``workerctx worker --reload``: changes are served at once, mistakes are shown and waited out."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

CODE = """
from workerctx import JobRegistry
jobs = JobRegistry("sqlite:///jobs.db")

@jobs.register
async def speak() -> None: ...

print("this is version {version}\\n", end="", flush=True)  # in one write, as several processes say it
"""


def write(path: Path, text: str) -> None:
    """Change a file as editors do: there is never half of it.

    Two versions must differ in length: Python takes a file of the same second and size for the one it has compiled.
    """
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@BACKENDS
def test_a_change_restarts_the_worker(start: Any, folder: Path, backend: str) -> None:
    """A changed file is served by a new process; Ctrl-C ends it all with 0."""
    write(folder / "talk.py", CODE.format(version=1))
    worker = start("worker", "talk:jobs", "--reload", "--backend", backend)
    worker.wait_for("this is version 1")
    write(folder / "talk.py", CODE.format(version=20))
    worker.wait_for("all processes are restarted: talk.py changed")
    worker.wait_for("this is version 20")
    worker.signal(signal.SIGINT)
    assert worker.ends() == 0, worker.output


def test_a_restart_is_graceful(start: Any, enqueue: Any, job: Any, folder: Path) -> None:
    """W3: the jobs that run when a file changes get their grace."""
    (running,) = enqueue("patient")
    worker = start("worker", "app:jobs", "--reload")
    worker.wait_for("waiting")
    write(folder / "other.py", "")
    worker.wait_for("told shutdown")
    worker.child(1)
    assert job(running).result == "in peace"
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output


def test_a_broken_import_waits_for_the_next_change(start: Any, folder: Path) -> None:
    """A mistake is shown once and waited out; its correction is served."""
    write(folder / "talk.py", CODE.format(version=1))
    worker = start("worker", "talk:jobs", "--reload")
    worker.wait_for("this is version 1")
    write(folder / "talk.py", "1 / 0\n")
    worker.wait_for("ZeroDivisionError")
    worker.wait_for("worker 1 died with status 1; it is started again when a file changes")
    write(folder / "talk.py", CODE.format(version=20))
    worker.wait_for("this is version 20")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    assert worker.output.count("is process") == 3


def test_a_worker_that_is_broken_from_the_start_waits_too(start: Any, folder: Path) -> None:
    """A registry that is not there yet is waited for."""
    worker = start("worker", "talk:jobs", "--reload")
    worker.wait_for("there is no module 'talk'")
    worker.wait_for("it is started again when a file changes")
    write(folder / "talk.py", CODE.format(version=1))
    worker.wait_for("this is version 1")


def test_only_python_files_in_the_chosen_folders_count(start: Any, folder: Path) -> None:
    """Data that changes, and code elsewhere, restart nothing; several folders may be watched, by several processes."""
    for name in ("library", "plugins"):
        (folder / name).mkdir()
    write(folder / "talk.py", CODE.format(version=1))
    options = ("--reload", "--reload-dir", "library", "--reload-dir", "plugins", "--processes", "2")
    worker = start("worker", "talk:jobs", *options)
    worker.wait_for("this is version 1", 2)
    write(folder / "talk.py", CODE.format(version=20))
    (folder / "library" / "data.txt").write_text("data")
    write(folder / "plugins" / "one.py", "")
    worker.wait_for("all processes are restarted: one.py changed")
    worker.wait_for("this is version 20", 2)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    assert worker.output.count("all processes are restarted") == 1
