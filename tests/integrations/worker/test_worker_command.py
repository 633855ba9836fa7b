"""``workerctx worker`` as a process: bursts, exit statuses, take-over; what signals do is in the shutdown matrix."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from workerctx.queue import JobState

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 30.0

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_burst_runs_what_there_is_and_ends_with_0(start: Any, enqueue: Any, job: Any, backend: str) -> None:
    """W3: `--burst` runs everything and exits 0; the banner says what is served from where."""
    ids = enqueue("quick", *({"number": number} for number in range(30)))
    queues = ("-q", "high=3", "-q", "default")
    worker = start("worker", "app:jobs", "--burst", "--backend", backend, "-c", "5", "--name", "mailer", *queues)
    assert worker.ends() == 0, worker.output
    assert "worker mailer" in worker.output
    assert "high=3, default=1" in worker.output
    assert [job(one).result for one in ids] == list(range(30))
    assert "sqlite:///jobs.db" in worker.output
    assert "quick" in worker.output
    assert f"5 on {backend}" in worker.output


@pytest.mark.parametrize(("chosen", "found"), [(None, 0.0005), (0.02, 0.02)])
def test_threads_take_short_turns(start: Any, enqueue: Any, job: Any, folder: Path, chosen: Any, found: float) -> None:
    """The store's thread is not kept waiting by jobs, unless the application has chosen its own interval."""
    app = (folder / "app.py").read_text()
    setting = "" if chosen is None else f"sys.setswitchinterval({chosen})"
    interval = "@jobs.register\nasync def interval() -> float:\n    return sys.getswitchinterval()\n"
    (folder / "app.py").write_text(f"{app}\n{setting}\n\n{interval}")
    (one,) = enqueue("interval")
    worker = start("worker", "app:jobs", "--burst")
    assert worker.ends() == 0, worker.output
    assert job(one).result == pytest.approx(found)


def test_a_handler_that_calls_sys_exit_ends_nothing(start: Any, enqueue: Any, job: Any) -> None:
    """W2: sys.exit in a handler fails its job; the worker's own status is 0."""
    (left,) = enqueue("leave")
    worker = start("worker", "app:jobs", "--burst")
    assert worker.ends() == 0, worker.output
    assert "sys.exit(9)" in job(left).error.message


@BACKENDS
def test_a_handler_that_raises_keyboard_interrupt_stops_the_worker(
    start: Any, enqueue: Any, job: Any, backend: str
) -> None:
    """W2, W3: the job is given back, and the process ends by itself, with the status of a clean stop."""
    (left,) = enqueue("interrupting")
    worker = start("worker", "app:jobs", "--backend", backend, "--grace", "0", WORKERCTX_HARD_LIMIT="3")
    assert worker.ends() == 0, worker.output
    assert "stopped: KeyboardInterrupt" in worker.output
    assert (job(left).state, job(left).attempt) == (JobState.QUEUED, 0)


@BACKENDS
def test_a_killed_worker_loses_nothing(start: Any, enqueue: Any, job: Any, eventually: Any, backend: str) -> None:
    """Q2, Q3: after SIGKILL another worker takes over when the lease is over; the attempt counts."""
    (running,) = enqueue("vanishing")
    ids = enqueue("quick", *({"number": number} for number in range(50)))
    settings = {"WORKERCTX_LEASE_TTL": "1", "WORKERCTX_REAP_INTERVAL": "0.1"}
    first = start("worker", "app:jobs", "--backend", backend, "-c", "2", **settings)
    first.wait_for("attempt 1")
    first.signal(signal.SIGKILL)
    first.ends()
    second = start("worker", "app:jobs", "--backend", backend, **settings)
    eventually(lambda: all(job(one).state.is_final for one in (running, *ids)))
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
    from workerctx.cli.output import without_password

    assert without_password("postgresql://me:secret@db:5432/jobs?x=1") == "postgresql://me:***@db:5432/jobs?x=1"
    assert without_password("sqlite:///[odd].db") == "sqlite:///[odd].db"
    assert without_password("redis+sentinel://a/main?sentinel_password=x&db=1") == (
        "redis+sentinel://a/main?sentinel_password=***&db=1"
    )


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
    assert "the worker failed: jobs.db is not an SQLite database" in worker.output
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("options", [(), ("--processes", "1")], ids=["alone", "supervised"])
def test_the_hard_limit_holds_when_nobody_reads_the_output(start: Any, enqueue: Any, options: tuple[str, ...]) -> None:
    """L26: a process that cannot say where it is stuck, as its standard error was closed, is ended all the same."""
    enqueue("blocking")
    reader, writer = os.pipe()
    os.close(reader)
    worker = start("worker", "app:jobs", *options, "--grace", "0", stderr=writer, WORKERCTX_HARD_LIMIT="0.2")
    os.close(writer)
    worker.wait_for("waiting")
    number = signal.SIGKILL if options else signal.SIGTERM
    worker.signal(number)
    assert worker.ends() == (-number if options else 70), worker.output
