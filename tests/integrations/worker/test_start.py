"""`workerctx worker` that is started while its server is down, as a supervisor does at night."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.integrations.redis.server import RedisServer
from tests.integrations.worker.probes import Probes
from workerctx.queue import EnqueueRequest, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = """
import sys
from workerctx import JobRegistry

jobs = JobRegistry()

@jobs.register(name="quick")
async def quick(number: int) -> None:
    sys.stdout.write(f"ran {number}\\n")
    sys.stdout.flush()
"""


@pytest.fixture(params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A server that can be killed and started again."""
    if request.param == "postgres":
        yield request.getfixturevalue("own_postgres")
    else:
        with RedisServer({"appendonly": "yes"}) as redis:
            yield redis


def url_of(server: Any) -> str:
    return server.url() if isinstance(server, RedisServer) else server.url


async def add(url: str) -> None:
    async with connect(url) as storage:
        await storage.jobs.enqueue(EnqueueRequest("quick", {"number": 1}))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_server_that_is_down(tmp_path: Path, start: Any, eventually: Any, server: Any, backend: str) -> None:
    """W4: it waits, alive and not ready, says why in its log and its probes, and serves once the server is there."""
    (tmp_path / "late.py").write_text(APP)
    server.kill()
    try:
        options = ("late:jobs", "--backend", backend, "--health-port", "0")
        worker = start("worker", *options, where=tmp_path, WORKERCTX_URL=url_of(server))
        probes = Probes(worker)
        worker.wait_for("waits for its store")
        for path, expected in (("livez", 200), ("readyz", 503), ("startupz", 503)):
            status, document = probes(path)
            assert status == expected, document
        assert "waiting for the store: " in str(probes("readyz")[1]["workers"])
    finally:
        server.start()
    worker.wait_for("has reached its store")
    anyio.run(add, url_of(server))
    worker.wait_for("ran 1")
    eventually(lambda: probes("readyz")[0] == 200)
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output


@pytest.mark.parametrize("command", ["worker", "gateway"])
def test_a_stop_while_it_waits(tmp_path: Path, start: Any, command: str) -> None:
    """W3: SIGTERM ends a process that has not found its server yet, and that is a clean end."""
    (tmp_path / "late.py").write_text(APP)
    (tmp_path / "tokens").write_text("edge default a-token-that-nobody-guesses\n")
    url = "redis://127.0.0.1:1"
    options = {"worker": ("late:jobs",), "gateway": ("--storage", url, "--port", "0", "--token-file", "tokens")}
    process = start(command, *options[command], where=tmp_path, WORKERCTX_URL=url)
    process.wait_for("waits for its store")
    process.signal(signal.SIGTERM)
    assert process.ends() == 0, process.output


def test_a_server_that_refuses_the_user(tmp_path: Path, start: Any, own_postgres: Any) -> None:
    """Q13: what no wait mends ends the worker at once, with the server's reason: a wrong password, an unknown role."""
    (tmp_path / "late.py").write_text(APP)
    with RedisServer({"requirepass": "right"}) as redis:
        urls = {redis.url().replace("//", "//:wrong@"): "does not accept the user or password"}
        urls[own_postgres.url.replace("postgres@", "stranger@")] = 'role "stranger" does not exist'
        for url, reason in urls.items():
            worker = start("worker", "late:jobs", where=tmp_path, WORKERCTX_URL=url)
            assert worker.ends() == 1, worker.output
            assert reason in worker.output


def test_what_no_server_understands(tmp_path: Path, start: Any, own_postgres: Any) -> None:
    """Q13: an option that makes no sense to the driver or the server is not waited for."""
    (tmp_path / "late.py").write_text(APP)
    with RedisServer() as redis:
        urls = {f"{redis.url().partition('?')[0].rstrip('/')}/99": "DB index is out of range"}
        urls[f"{own_postgres.url}&sslmode=nope"] = "invalid sslmode value"
        urls[f"{own_postgres.url}&connect_timeout=abc"] = "bad value for"
        for url, reason in urls.items():
            worker = start("worker", "late:jobs", where=tmp_path, WORKERCTX_URL=url)
            assert worker.ends() == 1, worker.output
            assert reason in worker.output, worker.output


def test_a_drain_is_told(start: Any, enqueue: Any) -> None:
    """W3: whoever watches the output of a worker that stops sees that it drains, and what it waits for."""
    enqueue("patient")
    worker = start("worker", "app:jobs", "--log-level", "ERROR")
    worker.wait_for("waiting")
    worker.signal(signal.SIGTERM)
    assert worker.ends() == 0, worker.output
    assert "drains, signal SIGTERM: 1 job under way, grace 30 s" in worker.output


@pytest.mark.parametrize("extra", [(), ("--processes", "2")])
def test_a_journal_that_cannot_be_used(start: Any, tmp_path: Path, extra: tuple[str, ...]) -> None:
    """Q13: a wrong environment is one sentence and status 2, in several processes too."""
    (tmp_path / "file").touch()
    journal = str(tmp_path / "file" / "journal")
    worker = start("worker", "app:jobs", "--remote", "ws://127.0.0.1:9", *extra, WORKERCTX_JOURNAL=journal)
    assert worker.ends() == 2, worker.output
    assert "cannot be used" in worker.output
    assert "Traceback" not in worker.output
