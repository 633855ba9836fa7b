"""``workerctx worker --processes N``: processes that are restarted, stopped together, and never left behind."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from workerctx.queue import JobState

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
TWO = ("worker", "app:jobs", "--processes", "2")


@BACKENDS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_all_side_by_side(
    start: Any, enqueue: Any, job: Any, store: Any, number: signal.Signals, backend: str
) -> None:
    """W3, L33: the first signal drains every process; the status is 0 and nobody stays registered."""
    ids = enqueue("patient", {}, {})
    worker = start(*TWO, "-c", "1", "--backend", backend)
    worker.wait_for("waiting", 2)
    worker.signal(number)
    assert worker.ends() == 0, worker.output
    assert [job(each).result for each in ids] == ["in peace", "in peace"]
    assert f"all processes are stopped: signal {number.name}" in worker.output
    assert "worker 1 has ended" in worker.output
    assert "worker 2 has ended" in worker.output
    assert not store(lambda storage: storage.workers.list())


def test_a_second_signal_ends_the_grace_of_all(start: Any, enqueue: Any, job: Any) -> None:
    """W3, L33: a second signal gives all jobs back at once, without a burnt attempt; the status is 0."""
    ids = enqueue("endless", {}, {})
    worker = start(*TWO, "-c", "1", "--grace", "none")
    worker.wait_for("waiting", 2)
    worker.signal(signal.SIGTERM)
    worker.wait_for("told shutdown", 2)
    worker.signal(signal.SIGINT)
    assert worker.ends() == 0, worker.output
    assert [(job(each).state, job(each).attempt) for each in ids] == [(JobState.QUEUED, 0)] * 2


@pytest.mark.parametrize("grace", ["inf", "1e12"])
def test_a_grace_longer_than_any_clock(start: Any, enqueue: Any, job: Any, grace: str) -> None:
    """W3, L33: a supervisor waits as long as it was told to, however long that is."""
    (running,) = enqueue("patient")
    worker = start(*TWO, "--grace", grace)
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    assert job(running).result == "in peace"


def test_a_stop_that_comes_twice_is_one_stop(start: Any, enqueue: Any, job: Any) -> None:
    """L33: a service manager that signals every process of the group does not end the grace by that."""
    (running,) = enqueue("patient")
    worker = start("worker", "app:jobs", "--processes", "1")
    pid = worker.child(1)
    worker.wait_for("waiting")
    os.kill(pid, signal.SIGTERM)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    assert job(running).result == "in peace"


@BACKENDS
def test_what_dies_is_restarted(start: Any, enqueue: Any, job: Any, backend: str) -> None:
    """Q2: a process that was killed is replaced, and what it ran is run again."""
    settings = {"WORKERCTX_LEASE_TTL": "1", "WORKERCTX_REAP_INTERVAL": "0.1", "WORKERCTX_RESTART_DELAY": "0.01"}
    worker = start("worker", "app:jobs", "--processes", "1", "--backend", backend, **settings)
    (running,) = enqueue("vanishing")
    first = worker.child(1)
    worker.wait_for("attempt 1")
    os.kill(first, signal.SIGKILL)
    worker.wait_for("worker 1 died of SIGKILL; it is started again in 0.01 seconds")
    assert worker.child(1) != first
    worker.wait_for("attempt 2")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    assert job(running).state is JobState.SUCCEEDED


def test_one_death_leaves_the_others_alone(start: Any, enqueue: Any, job: Any, serving: Any) -> None:
    """A process that dies disturbs nobody: the other one goes on with its job."""
    worker = start(*TWO, "-c", "1", "--restart-delay", "3600")
    pids = serving(2)
    (running,) = enqueue("patient")
    worker.wait_for("waiting")
    (idle,) = [pid for worker_id, pid in pids.items() if worker_id != job(running).worker_id]
    os.kill(idle, signal.SIGKILL)
    worker.wait_for("died of SIGKILL; it is started again in 3600 seconds")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 1, worker.output
    assert job(running).result == "in peace"


def test_too_many_deaths_stop_everything(start: Any, folder: Path) -> None:
    """L2: restarts are bounded: what always dies is given up, with status 1."""
    (folder / "dying.py").write_text("import os\nprint('tries', flush=True)\nos._exit(3)\n")
    worker = start("worker", "dying:jobs", "--processes", "2", "--restart-delay", "0")
    assert worker.ends() == 1, worker.output
    assert "all processes are stopped: too many processes died" in worker.output
    assert 7 <= worker.output.count("tries") <= 9
    assert "Traceback" not in worker.output


def test_a_mistake_is_not_tried_again(start: Any) -> None:
    """A registry that is not there is no death: the command ends with status 2 at once."""
    worker = start("worker", "nowhere:jobs", "--processes", "1")
    assert worker.ends() == 2, worker.output
    assert "there is no module 'nowhere'" in worker.output
    assert worker.output.count("is process") == 1


@BACKENDS
def test_burst_ends_when_all_have_ended(start: Any, enqueue: Any, job: Any, backend: str) -> None:
    """W3: with `--burst` the processes run what there is, and the supervisor ends with the last of them, with 0."""
    ids = enqueue("quick", *({"number": number} for number in range(40)))
    worker = start(*TWO, "--burst", "--backend", backend)
    assert worker.ends() == 0, worker.output
    assert [job(each).result for each in ids] == list(range(40))
    assert "stopped: all workers have ended" in worker.output


def test_a_place_that_was_ended_on_purpose_stays_empty(start: Any, serving: Any) -> None:
    """A process that somebody stops is not restarted; when all have ended, so does the supervisor, with 0."""
    worker = start(*TWO)
    first, second = serving(2).values()
    os.kill(first, signal.SIGTERM)
    worker.wait_for("has ended")
    os.kill(second, signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    assert worker.output.count("is process") == 2


@BACKENDS
def test_a_killed_supervisor_leaves_no_orphans(start: Any, enqueue: Any, job: Any, store: Any, backend: str) -> None:
    """W3: processes whose supervisor was killed notice, drain and end by themselves."""
    ids = enqueue("patient", {}, {})
    worker = start(*TWO, "-c", "1", "--backend", backend)
    worker.wait_for("waiting", 2)
    worker.signal(signal.SIGKILL)
    assert worker.ends() == -signal.SIGKILL
    assert worker.output.count("stopped: the supervisor is gone") == 2
    assert [job(each).result for each in ids] == ["in peace", "in peace"]
    assert not store(lambda storage: storage.workers.list())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_processes_that_have_not_begun_end_too(start: Any, folder: Path, number: signal.Signals) -> None:
    """W3: a process that is still importing the application is ended, by a stop and by a supervisor that is gone."""
    (folder / "slow.py").write_text("import time\nprint('importing\\n', end='', flush=True)\ntime.sleep(3600)\n")
    worker = start("worker", "slow:jobs", "--processes", "2", "--grace", "3600")
    worker.wait_for("importing", 2)
    worker.signal(number)
    assert worker.ends() == (0 if number is signal.SIGTERM else -number), worker.output


@pytest.mark.parametrize("kind", ["deaf", "blocking"])
def test_a_process_that_does_not_end_ends_itself(start: Any, enqueue: Any, kind: str) -> None:
    """L26: at grace and hard limit a process says where it is stuck and ends with 70, and so does the supervisor."""
    enqueue(kind)
    worker = start(*TWO, "--grace", "0.2", WORKERCTX_HARD_LIMIT="0.3")
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 70, worker.output
    assert "the process has not ended" in worker.output
    assert "died with status 70" in worker.output


def test_a_frozen_process_is_killed(start: Any, enqueue: Any) -> None:
    """L26: a process that cannot even end itself is killed after the hard limit; the status is 70."""
    enqueue("quick", {"number": 1})
    worker = start("worker", "app:jobs", "--processes", "1", "--grace", "0.1", WORKERCTX_HARD_LIMIT="0.1")
    pid = worker.child(1)
    worker.wait_for("ran 1")
    os.kill(pid, signal.SIGSTOP)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 70, worker.output
    assert "worker 1 has not ended in time and is killed" in worker.output


def test_json_logs_are_one_object_a_line(start: Any, enqueue: Any) -> None:
    """With `--log-format json` everything that is said is JSON, and says which process said it."""
    enqueue("quick", {"number": 1})
    worker = start(*TWO, "--burst", "--log-format", "json")
    assert worker.ends() == 0, worker.output
    said = [json.loads(line) for line in worker.lines if line != "ran 1"]
    assert all({"time", "level", "logger", "message"} <= each.keys() for each in said)
    assert {each.get("worker") for each in said} == {None, "worker 1", "worker 2"}
    (supervisor,) = [each for each in said if "processes" in each]
    assert (supervisor["serves"], supervisor["processes"]) == ("app:jobs", "2")
    assert "sqlite:///jobs.db" in [each.get("store") for each in said]


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [("nowhere:jobs", 2, "there is no module 'nowhere'"), ("broken:jobs", 1, "division by zero")],
)
def test_what_goes_wrong_is_an_object_too(start: Any, folder: Path, target: str, status: int, message: str) -> None:
    """With JSON logs a mistake is one object as well, and a traceback is part of it."""
    (folder / "broken.py").write_text("1 / 0\n")
    worker = start("worker", target, "--log-format", "json")
    assert worker.ends() == status, worker.output
    (said,) = map(json.loads, worker.lines)
    assert said["level"] == "critical"
    assert message in said["message"]
    assert ("exception" in said) == (status == 1)


def test_a_log_level_leaves_out_what_is_less_urgent(start: Any, enqueue: Any) -> None:
    """With `--log-level error` neither a start nor a stop is logged."""
    worker = start(*TWO, "--burst", WORKERCTX_LOG_LEVEL="error", WORKERCTX_LOG_FORMAT="json")
    assert worker.ends() == 0, worker.output
    assert worker.output == ""


@pytest.mark.parametrize(
    ("arguments", "settings", "part"),
    [
        (["--processes", "0"], {}, "--processes must be at least 1, not 0"),
        ([], {"WORKERCTX_PROCESSES": "0"}, "--processes must be at least 1, not 0"),
        (["--processes", "many"], {}, "many"),
        (["--processes", "2", "--restart-delay", "-1"], {}, "--restart-delay must be a number of seconds"),
        (["--processes", "2", "--restart-delay", "nan"], {}, "--restart-delay must be a number of seconds"),
        (["--processes", "2", "--restart-delay", "inf"], {}, "--restart-delay must be a number of seconds"),
        (["--stuck-after", "nan"], {}, "--stuck-after must be more than 0 seconds"),
        (["--stuck-after", "0"], {}, "--stuck-after must be more than 0 seconds"),
        (["--burst", "--reload"], {}, "--burst and --reload do not go together"),
        (["--reload", "--reload-dir", "nowhere"], {}, "there is no folder"),
        (["--processes", "2", "--health-port", "99999"], {}, "probes cannot be answered on 127.0.0.1 port 99999"),
        ([], {"WORKERCTX_SUPERVISED": "yes"}, "WORKERCTX_SUPERVISED is for the processes of a supervisor"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_are_sentences(start: Any, arguments: list[str], settings: dict[str, str], part: str) -> None:
    """Options that make no sense are one sentence and status 2."""
    worker = start("worker", "app:jobs", *arguments, **settings)
    assert worker.ends() == 2, worker.output
    assert part in " ".join(worker.output.split())
    assert "Traceback" not in worker.output
