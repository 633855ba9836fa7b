"""The command line beside a real worker process: words from another process, and why a job is not running."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from workerctx.cli import app

APP = """
import anyio
from workerctx import JobRegistry

jobs = JobRegistry("sqlite:///jobs.db")

@jobs.register
async def greet(name: str) -> str:
    return f"hello {name}"

@jobs.register
async def hold() -> None:
    await anyio.sleep_forever()
"""
PROGRAM = (sys.executable, "-m", "workerctx")
PATIENCE = 30.0


@define
class Place:
    """A folder with an application, its store, and one worker of it."""

    folder: Path
    environment: dict[str, str]
    worker: subprocess.Popen[bytes]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a process of its own."""
        return subprocess.run(
            [*PROGRAM, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        )

    def ask(self, *words: str) -> Any:
        """The JSON document of a command that succeeds, run in this process because it is asked so often."""
        status, printed = self._run(*words)
        assert status == 0
        return json.loads(printed)

    def is_served(self) -> bool:
        """Whether the worker has made the store and says in it that it is there."""
        status, printed = self._run("workers", "list")
        return status == 0 and bool(json.loads(printed)["workers"])

    def until(self, holds: Callable[[], Any]) -> None:
        """Ask again until it holds, for a bounded time and while the worker lives."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < give_up, (self.folder / "worker.log").read_text()
            assert self.worker.poll() is None, (self.folder / "worker.log").read_text()
            time.sleep(0.02)

    def workers(self) -> list[dict[str, Any]]:
        return self.ask("workers", "list")["workers"]

    def reasons(self, job_id: str) -> list[str]:
        return [reason["code"] for reason in self.ask("jobs", "explain", job_id)["reasons"]]

    def state(self, job_id: str) -> str:
        return self.ask("jobs", "show", job_id)["state"]

    def enqueue(self, *words: str) -> str:
        added = self.call("enqueue", *words)
        assert added.returncode == 0, added.stderr
        return added.stdout.strip()

    def _run(self, *words: str) -> tuple[object, str]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
            app([*words, "--json", "--storage", f"sqlite:///{self.folder}/jobs.db"])
        return ended.value.code, printed.getvalue()


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    """A worker that serves the queue `default` with one slot, heard of ten times a second."""
    (tmp_path / "store_app.py").write_text(APP, encoding="utf-8")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("WORKERCTX_")}
    environment = {**bare, "WORKERCTX_APP": "store_app:jobs", "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [*PROGRAM, "worker", "store_app:jobs", "-c", "1"],
            cwd=tmp_path,
            env={**environment, "WORKERCTX_HEARTBEAT": "0.1", "WORKERCTX_GRACE": "5"},
            stdout=log,
            stderr=log,
        )
        try:
            here = Place(tmp_path, environment, worker)
            here.until(here.is_served)
            yield here
        finally:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
            worker.wait(PATIENCE)


def test_a_worker_is_paused_resumed_and_stopped_from_another_process(place):
    """A paused worker claims nothing, and explain says so; resumed it does the job; stopped it ends with status 0."""
    (worker,) = place.workers()
    assert (worker["pid"], worker["live"]) == (place.worker.pid, True)

    assert place.call("workers", "pause", worker["id"]).returncode == 0
    place.until(lambda: place.workers()[0]["state"] == "paused")
    job_id = place.enqueue("greet", '{"name": "you"}')
    assert place.reasons(job_id) == ["workers_not_claiming"]

    assert place.call("workers", "resume", worker["id"]).returncode == 0
    place.until(lambda: place.state(job_id) == "succeeded")
    assert place.ask("jobs", "show", job_id)["result"] == "hello you"

    assert place.call("workers", "stop", "--all").returncode == 0
    assert place.worker.wait(PATIENCE) == 0
    assert place.workers() == []
    assert place.reasons(place.enqueue("greet", '{"name": "me"}')) == ["no_worker"]


def test_jobs_that_a_live_worker_cannot_take(place):
    """Q6: an unknown kind, a missing label and a queue that is not served are told apart, beside a live worker."""
    store = ("--storage", "sqlite:///jobs.db")
    assert place.reasons(place.enqueue("unheard_of", *store)) == ["unknown_kind"]
    assert place.reasons(place.enqueue("hold", "--label", "gpu")) == ["missing_labels"]
    assert place.reasons(place.enqueue("hold", "--queue", "elsewhere")) == ["queue_unserved"]
    refused = place.call("enqueue", "greet", '{"nome": "typo"}')
    assert (refused.returncode, refused.stdout) == (2, "")


@pytest.fixture
def shell(tmp_path) -> Callable[..., tuple[int, str]]:
    """Run a line of the shell in a folder with a store and one job in it; returns the status and what was printed."""
    where = {**os.environ, "WORKERCTX_URL": "sqlite:///jobs.db"}

    def run(line: str, **settings: str) -> tuple[int, str]:
        program = f"{shlex.quote(sys.executable)} -m workerctx"
        ran = subprocess.run(
            ["sh", "-c", line.replace("workerctx", program)],
            cwd=tmp_path,
            env=where | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        return ran.returncode, ran.stdout

    assert run("workerctx enqueue greet --queue žluť --unique-key k >id")[0] == 0
    return run


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("workerctx enqueue greet; workerctx jobs cancel --kind greet <&-", 2, "nobody can be asked"),
        ("workerctx enqueue greet - <&-", 2, "standard input is closed"),
        ("workerctx enqueue greet --unique-key k --json 2>&- >out; python -m json.tool <out", 0, '"deduped": true'),
        ("PYTHONIOENCODING=ascii workerctx queues list", 0, r"\u017elu\u0165"),
        ("PYTHONIOENCODING=latin-1 workerctx queues list --json", 0, r"\u017elu\u0165"),
        ("workerctx jobs list --storage 'postgresql://u:secret[s@127.0.0.1:1/db'", 2, "cannot be taken apart"),
        ("workerctx jobs list --storage 'redis://u:secret℀@127.0.0.1:1/0'", 2, "cannot be taken apart"),
        ("workerctx queues pause default --for 999999999999w", 1, "until must be"),
    ],
)
def test_a_command_in_odd_surroundings(shell, line, status, said):
    """Q13: closed streams, narrow encodings and impossible URLs are met with sentences, and no password is shown."""
    line = line.replace("python -m json", f"{shlex.quote(sys.executable)} -m json")
    found, printed = shell(line)
    assert (found, said in printed) == (status, True), printed
    assert "Traceback" not in printed
    assert "secret" not in printed


def test_ctrl_c_at_a_question_is_a_no(shell, tmp_path):
    """Q13: at a terminal, Ctrl-C at a question ends the command at once, and nothing was done."""
    shell("workerctx enqueue greet --queue žluť")
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        [*PROGRAM, "jobs", "cancel", "--kind", "greet", "--storage", "sqlite:///jobs.db"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        said = b""
        while b"[y/N]" not in said:
            said += terminal.read(100)
        terminal.write(b"\x03")
        assert asking.wait(PATIENCE) == 130
    assert '"queued": 2' in shell("workerctx queues list --json")[1]


def test_a_busy_worker_and_a_job_that_is_cancelled_on_it(place):
    """The job that runs names its worker, the one behind it the busy slot; a cancel reaches the running handler."""
    held = place.enqueue("hold")
    place.until(lambda: place.state(held) == "running")
    explained = place.ask("jobs", "explain", held)["reasons"]
    assert [reason["code"] for reason in explained] == ["running"]
    assert f"process {place.worker.pid}" in explained[0]["text"]

    waiting = place.enqueue("greet", '{"name": "you"}')
    place.until(lambda: place.reasons(waiting) == ["slots_busy"])
    assert place.call("jobs", "cancel", held).stdout == f"told to stop {held}\n"
    place.until(lambda: place.state(held) == "cancelled")
    place.until(lambda: place.state(waiting) == "succeeded")


def test_a_queue_is_held_back_for_a_running_worker(place):
    """Q7: a worker claims nothing from a queue that another process paused, until it is resumed."""
    assert place.call("queues", "pause", "default", "--for", "1h").returncode == 0
    job_id = place.enqueue("greet", '{"name": "you"}')
    assert place.reasons(job_id) == ["queue_paused"]
    assert place.call("queues", "resume", "default").returncode == 0
    place.until(lambda: place.state(job_id) == "succeeded")
