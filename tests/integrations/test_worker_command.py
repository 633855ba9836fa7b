"""``workerctx worker`` as a process: signals, exit statuses, hard exit, take-over."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.queue import Constant, EnqueueRequest, JobState, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 30.0
AT_ONCE = Constant(base=0, jitter=False)

APP = """
import signal, sys, time
import anyio
from workerctx import JobCtx, JobRegistry
from workerctx.queue import Constant

jobs = JobRegistry("sqlite:///jobs.db")
not_jobs = object()

def say(*words):
    print(*words, flush=True)

@jobs.register
async def quick(number: int) -> int:
    say("ran", number)
    return number

@jobs.register(max_attempts=1)
async def patient(ctx: JobCtx) -> str:
    say("waiting")
    say("told", await ctx.cancel.wait())
    return "in peace"

@jobs.register(max_attempts=1)
async def endless(ctx: JobCtx) -> None:
    say("waiting")
    say("told", await ctx.cancel.wait())
    await anyio.sleep_forever()

@jobs.register(max_attempts=3, retry=Constant(base=0, jitter=False))
async def vanishing(ctx: JobCtx) -> int:
    say("attempt", ctx.attempt)
    if ctx.attempt == 1:
        await anyio.sleep_forever()
    return ctx.attempt

@jobs.register(max_attempts=1)
async def deaf() -> None:
    say("waiting")
    with anyio.CancelScope(shield=True):
        await anyio.sleep_forever()

@jobs.register(max_attempts=1)
async def blocking() -> None:
    say("waiting")
    a_long_calculation()

def a_long_calculation():
    while True:
        time.sleep(0.05)

@jobs.register(max_attempts=1)
def stuck_in_a_thread() -> None:
    say("waiting")
    a_long_calculation()

@jobs.register(max_attempts=1)
async def abandoning() -> None:
    say("waiting")
    await anyio.to_thread.run_sync(a_long_calculation, abandon_on_cancel=True)

@jobs.register(max_attempts=1)
async def leave() -> None:
    sys.exit(9)
"""


class Worker:
    """A worker process; its output is read line by line."""

    def __init__(self, folder: Path, *arguments: str, module: str = "workerctx", **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "WORKERCTX_HEARTBEAT": "0.2", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
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

    def wait_for(self, part: str, times: int = 1) -> None:
        """Wait until so many more lines had this in them."""
        deadline = time.monotonic() + PATIENCE
        while times:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no {part!r} in:\n{self.output}"
            times -= part in line

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """Wait for the end of the process and return its status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers, and see to it that none is left behind."""
    workers: list[Worker] = []

    def start(*arguments: str, **settings: str) -> Worker:
        worker = Worker(folder, *arguments, **settings)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.process.kill()
        worker.ends()
        assert worker.process.stdout is not None
        worker.process.stdout.close()


@pytest.fixture
def store(folder: Path) -> Callable[..., Any]:
    """Do something with the store, from a plain test."""

    def on_store(function: Callable[..., Any], *args: Any) -> Any:
        async def run() -> Any:
            async with connect(f"sqlite:///{folder}/jobs.db") as storage:
                return await function(storage, *args)

        return anyio.run(run)

    return on_store


@pytest.fixture
def enqueue(store: Callable[..., Any]) -> Callable[..., list[str]]:
    """Enqueue jobs of a kind and return their ids."""

    def enqueue(kind: str, *payloads: Any) -> list[str]:
        async def add(storage: Any) -> list[str]:
            requests = [EnqueueRequest(kind, payload, max_attempts=3, retry=AT_ONCE) for payload in payloads or ({},)]
            return [outcome.id for outcome in await storage.jobs.enqueue_bulk(requests)]

        ids: list[str] = store(add)
        return ids

    return enqueue


@pytest.fixture
def job(store: Callable[..., Any]) -> Callable[[str], Any]:
    """Return a job by its id."""
    return lambda job_id: store(lambda storage: storage.jobs.get(job_id))


BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_burst_runs_what_there_is_and_ends_with_0(start: Any, enqueue: Any, job: Any, backend: str) -> None:
    """W3: `--burst` runs everything and exits 0; the banner says what is served from where."""
    ids = enqueue("quick", *({"number": number} for number in range(30)))
    worker = start("worker", "app:jobs", "--burst", "--backend", backend, "-c", "5")
    assert worker.ends() == 0, worker.output
    assert [job(one).result for one in ids] == list(range(30))
    assert "sqlite:///jobs.db" in worker.output
    assert "quick" in worker.output
    assert f"5 on {backend}" in worker.output


@BACKENDS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains(start: Any, enqueue: Any, job: Any, store: Any, number: signal.Signals, backend: str) -> None:
    """W3: the first signal tells the handlers, waits for them, stores their results, deregisters, and exits 0."""
    (running,) = enqueue("patient")
    worker = start("worker", "app:jobs", "--backend", backend, "-c", "1")
    worker.wait_for("waiting")
    (later,) = enqueue("quick", {"number": 1})
    worker.signal(number)
    worker.wait_for("told shutdown")
    assert worker.ends() == 0, worker.output
    assert job(running).result == "in peace"
    assert job(later).state is JobState.QUEUED
    assert f"stopped: signal {number.name}" in worker.output
    assert not store(lambda storage: storage.workers.list())


@BACKENDS
def test_a_signal_while_idle_ends_at_once(start: Any, enqueue: Any, backend: str) -> None:
    """W3: an idle worker ends at once, whatever its grace."""
    enqueue("quick", {"number": 1})
    worker = start("worker", "app:jobs", "--grace", "3600", "--backend", backend)
    worker.wait_for("ran 1")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output


@BACKENDS
def test_a_second_signal_ends_the_grace(start: Any, enqueue: Any, job: Any, backend: str) -> None:
    """W3: a second signal cancels the jobs, which are given back without a burnt attempt; the status is 0."""
    (running,) = enqueue("endless")
    worker = start("worker", "app:jobs", "--grace", "3600", "--backend", backend)
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    worker.wait_for("told shutdown")
    worker.signal(signal.SIGINT)
    assert worker.ends() == 0, worker.output
    found = job(running)
    assert (found.state, found.attempt) == (JobState.QUEUED, 0)


def test_the_deadline_gives_jobs_back(start: Any, enqueue: Any, job: Any) -> None:
    """W3: without a second signal the grace bounds the drain."""
    (running,) = enqueue("endless")
    worker = start("worker", "app:jobs", "--grace", "0.2")
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    found = job(running)
    assert (found.state, found.attempt) == (JobState.QUEUED, 0)


@BACKENDS
@pytest.mark.parametrize("kind", ["deaf", "blocking", "stuck_in_a_thread"])
def test_what_does_not_end_is_ended(start: Any, enqueue: Any, job: Any, kind: str, backend: str) -> None:
    """L26: code that ignores cancellation, a blocked event loop or a stuck thread meets the hard exit."""
    (running,) = enqueue(kind)
    worker = start("worker", "app:jobs", "--grace", "0.2", "--backend", backend, WORKERCTX_HARD_LIMIT="0.5")
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 70, worker.output
    assert "the process has not ended" in worker.output
    if kind != "deaf":
        assert "a_long_calculation" in worker.output
    assert job(running).state is JobState.RUNNING


def test_a_hung_store_meets_the_hard_limit(start: Any, enqueue: Any, folder: Path) -> None:
    """W3: a store that never answers again does not keep a stopped process alive."""
    (folder / "hanging.py").write_text(
        textwrap.dedent("""
            import time
            from app import jobs, say
            from workerctx.queue.sqlite.engine import Writer

            perform = Writer.perform

            def hang(self, calls):
                if hanging:
                    time.sleep(3600)
                return perform(self, calls)

            Writer.perform = hang
            hanging = False

            @jobs.register
            async def pull_the_plug() -> None:
                global hanging
                hanging = True
                say("waiting")
        """)
    )
    enqueue("pull_the_plug")
    worker = start("worker", "hanging:jobs", "--grace", "0.2", WORKERCTX_HARD_LIMIT="0.5")
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    assert worker.ends() in {0, 70}, worker.output
    assert "could not tell the store" in worker.output or "the process has not ended" in worker.output


def test_a_handler_that_calls_sys_exit_ends_nothing(start: Any, enqueue: Any, job: Any) -> None:
    """W2: sys.exit in a handler fails its job; the worker's own status is 0."""
    (left,) = enqueue("leave")
    worker = start("worker", "app:jobs", "--burst")
    assert worker.ends() == 0, worker.output
    assert "sys.exit(9)" in job(left).error.message


@BACKENDS
def test_a_killed_worker_loses_nothing(start: Any, enqueue: Any, job: Any, backend: str) -> None:
    """Q2, Q3: after SIGKILL another worker takes over when the lease is over; the attempt counts."""
    (running,) = enqueue("vanishing")
    ids = enqueue("quick", *({"number": number} for number in range(50)))
    settings = {"WORKERCTX_LEASE_TTL": "1", "WORKERCTX_REAP_INTERVAL": "0.1"}
    first = start("worker", "app:jobs", "--backend", backend, "-c", "2", **settings)
    first.wait_for("attempt 1")
    first.signal(signal.SIGKILL)
    first.ends()
    second = start("worker", "app:jobs", "--backend", backend, **settings)
    deadline = time.monotonic() + PATIENCE
    while not all(job(one).state.is_final for one in (running, *ids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    second.signal(signal.SIGTERM)
    assert second.ends() == 0, second.output
    found = job(running)
    assert (found.state, found.result, found.deliveries) == (JobState.SUCCEEDED, 2, 2)
    assert {job(one).state for one in ids} == {JobState.SUCCEEDED}
    assert "lease expired" in [entry.error.kind for entry in found.error_history]


def test_signals_after_the_end_do_not_change_the_status(start: Any, enqueue: Any) -> None:
    """W3: somebody who hammers Ctrl-C gets the status of a clean stop all the same."""
    enqueue("endless")
    worker = start("worker", "app:jobs", "--grace", "3600")
    worker.wait_for("waiting")
    deadline = time.monotonic() + PATIENCE
    while worker.process.poll() is None and time.monotonic() < deadline:
        worker.signal(signal.SIGINT)
        time.sleep(0.002)
    assert worker.ends() == 0, worker.output


def test_a_thread_that_was_left_behind_does_not_hold_up_the_end(start: Any, enqueue: Any) -> None:
    """L26: a thread that a handler abandoned is not waited for, for ever; asyncio's threads would hold up the exit."""
    enqueue("abandoning")
    worker = start("worker", "app:jobs", "--grace", "0.1", WORKERCTX_HARD_LIMIT="1")
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 70, worker.output
    assert "were left behind" in worker.output
    assert "a_long_calculation" in worker.output


def test_the_banner_shows_no_password_and_no_markup(folder: Path, capsys: Any) -> None:
    """What is printed is printed as it is, but for passwords."""
    from workerctx.cli.worker import _without_password

    assert _without_password("postgresql://me:secret@db:5432/jobs?x=1") == "postgresql://me:***@db:5432/jobs?x=1"
    assert _without_password("sqlite:///[odd].db") == "sqlite:///[odd].db"


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "part"),
    [
        (["worker", "nowhere:jobs"], {}, 2, "there is no module 'nowhere'"),
        (["worker", "app:nothing"], {}, 2, "module 'app' has no 'nothing'"),
        (["worker", "app:not_jobs"], {}, 2, "is a object, not a JobRegistry"),
        (["worker", "app"], {}, 2, "write MODULE:OBJECT"),
        (["worker", "app:jobs", "-c", "0"], {}, 2, "concurrency must be at least 1"),
        (["worker", "app:jobs", "--grace", "-1"], {}, 2, "grace must not be negative"),
        (["worker", "app:jobs"], {"WORKERCTX_LEASE_TTL": "soon"}, 2, "'soon' is not a value for lease_ttl"),
        (["worker", "app:jobs", "--concurrency", "many"], {}, 2, "many"),
        (["worker", "app:jobs", "--no-such-option"], {}, 2, "no-such-option"),
        (["worker"], {}, 2, "TARGET"),
        (["no-such-command"], {}, 2, "no-such-command"),
        (["worker", "empty:jobs"], {}, 2, "nothing to run"),
        (["worker", "urlless:jobs"], {}, 2, "this registry has no store"),
        (["worker", "badurl:jobs"], {}, 2, "no backend for nosuch:// URLs"),
        (["worker", "broken:jobs"], {}, 1, "ZeroDivisionError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_sentences(
    start: Any, folder: Path, arguments: list[str], settings: dict[str, str], status: int, part: str
) -> None:
    """A wrong command line or environment is one sentence and status 2; what breaks in the app is shown, status 1."""
    handler = "\n@jobs.register\nasync def f() -> None: pass\n"
    (folder / "empty.py").write_text("from workerctx import JobRegistry\njobs = JobRegistry('memory://')\n")
    (folder / "urlless.py").write_text("from workerctx import JobRegistry\njobs = JobRegistry()\n" + handler)
    (folder / "badurl.py").write_text("from workerctx import JobRegistry\njobs = JobRegistry('nosuch://x')\n" + handler)
    (folder / "broken.py").write_text("1 / 0\n")
    worker = start(*arguments, **settings)
    assert worker.ends() == status, worker.output
    flat = " ".join(worker.output.replace("│", " ").split())
    assert part in flat
    if arguments != ["worker", "broken:jobs"]:
        assert "Traceback" not in worker.output


def test_a_worker_whose_store_cannot_be_opened_fails_with_1(start: Any, folder: Path) -> None:
    """L29: infrastructure that fails is status 1 and says why."""
    (folder / "jobs.db").write_bytes(b"this is not a database, and long enough to be sure of it" * 100)
    worker = start("worker", "app:jobs")
    assert worker.ends() == 1, worker.output
    assert "not a database" in worker.output
