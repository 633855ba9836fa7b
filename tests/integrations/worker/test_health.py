"""``workerctx worker --health-port``: probes that are answered whatever the worker does."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.worker.probes import Probes

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_probes_tell_how_the_worker_fares(start: Any, enqueue: Any, eventually: Any, backend: str) -> None:
    """L35: a running worker is alive, ready and started; one that drains is alive and not ready."""
    enqueue("endless")
    worker = start("worker", "app:jobs", "--health-port", "0", "--grace", "none", "--backend", backend)
    probes = Probes(worker)
    worker.wait_for("waiting")
    for path in ("livez", "readyz", "startupz"):
        status, document = probes(path)
        assert (status, document["ok"]) == (200, True), document
    worker.signal(signal.SIGTERM)
    worker.wait_for("told shutdown")
    status, document = probes("readyz")
    assert status == 503
    assert [each["reason"] for each in document["workers"].values()] == ["stopping: signal SIGTERM"]
    assert probes("livez")[0] == 200
    assert probes("startupz")[0] == 200
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output


@BACKENDS
def test_a_blocked_event_loop_is_answered_for(start: Any, enqueue: Any, eventually: Any, backend: str) -> None:
    """L35, W5: while the event loop is blocked probes are answered, and after a while the worker is not alive."""
    enqueue("blocking")
    worker = start("worker", "app:jobs", "--health-port", "0", "--stuck-after", "1.5", "--backend", backend)
    probes = Probes(worker)
    worker.wait_for("waiting")
    assert probes("readyz")[0] == 200
    _, document = eventually(lambda: (found := probes("livez"))[0] == 503 and found)
    ((_, verdict),) = document["workers"].items()
    assert verdict["ok"] is False
    assert "the event loop has been blocked for" in verdict["reason"]


def test_other_paths_and_methods(start: Any) -> None:
    """What is no probe is 404 and says what there is; HEAD has no body; other methods are refused."""
    probes = Probes(start("worker", "app:jobs", "--health-port", "0"))
    assert probes("") == (404, {"error": "ask for one of /livez, /readyz, /startupz"})
    assert probes("livez?verbose", "HEAD") == (200, {})
    with pytest.raises(json.JSONDecodeError):
        probes("livez", "POST")


def test_a_silent_client_delays_nobody(start: Any) -> None:
    """A connection that asks nothing holds up neither the probes nor the end of the process."""
    worker = start("worker", "app:jobs", "--health-port", "0")
    probes = Probes(worker)
    host, port = probes.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))):
        assert probes("livez")[0] == 200
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0, worker.output


def test_a_port_that_is_taken(start: Any) -> None:
    """A port that somebody else has is a sentence and status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = start("worker", "app:jobs", WORKERCTX_HEALTH_PORT=str(port))
        assert worker.ends() == 2, worker.output
    assert f"probes cannot be answered on 127.0.0.1 port {port}" in worker.output
    assert "Traceback" not in worker.output


@BACKENDS
def test_a_supervisor_answers_for_all(start: Any, eventually: Any, backend: str) -> None:
    """L35: a supervisor is ready if all processes are, and says which is not; one that is frozen is not alive."""
    options = ("--processes", "2", "--health-port", "0", "--restart-delay", "3600", "--backend", backend)
    worker = start("worker", "app:jobs", *options)
    probes = Probes(worker)
    first, second = worker.child(1), worker.child(2)
    eventually(lambda: probes("readyz")[0] == 200)
    assert probes("startupz")[0] == 200
    os.kill(second, signal.SIGSTOP)
    eventually(lambda: probes.of("livez", "worker 2") == (503, "the process does not answer"))
    assert probes.of("readyz", "worker 1") == (503, "running")
    os.kill(second, signal.SIGCONT)
    eventually(lambda: probes("livez")[0] == 200)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: probes.of("readyz", "worker 1") == (503, "died of SIGKILL"))
    assert probes.of("readyz", "worker 2") == (503, "running")
    assert probes.of("livez", "worker 1") == (200, "died of SIGKILL")


def test_a_supervisor_tells_of_blocked_loops(start: Any, enqueue: Any, eventually: Any) -> None:
    """L35, W5: the event loop of one process is blocked, and /livez of the supervisor says whose."""
    options = ("--processes", "2", "--health-port", "0", "--stuck-after", "1.5", "--grace", "0")
    worker = start("worker", "app:jobs", *options, WORKERCTX_HARD_LIMIT="0.1")
    probes = Probes(worker)
    eventually(lambda: probes("readyz")[0] == 200)
    enqueue("blocking")
    _, document = eventually(lambda: (found := probes("livez"))[0] == 503 and found)
    assert sorted(each["ok"] for each in document["workers"].values()) == [False, True]


def test_processes_that_start_are_alive_and_not_ready(start: Any, folder: Path) -> None:
    """L35: while the application is imported a process is alive, and neither started nor ready."""
    (folder / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(3600)\n")
    worker = start("worker", "slow:jobs", "--processes", "1", "--health-port", "0")
    probes = Probes(worker)
    worker.wait_for("importing")
    assert probes.of("livez", "worker 1") == (200, "starting")
    assert probes.of("readyz", "worker 1") == (503, "starting")
    assert probes.of("startupz", "worker 1") == (503, "starting")
