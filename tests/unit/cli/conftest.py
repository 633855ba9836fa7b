"""Running commands in this process, on a SQLite file and on memory shared by name."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import pytest
from attrs import frozen

from workerctx.cli import app
from workerctx.queue import EnqueueRequest, Storage, WorkerInfo, connect, new_id

T = TypeVar("T")


@frozen
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal(io.StringIO):
    """Standard input of somebody who can be asked."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    """No setting of the machine reaches a command."""
    for name in ("URL", "APP", "JSON", "YES", "LIMIT", "QUEUE", "RETENTION"):
        monkeypatch.delenv(f"WORKERCTX_{name}", raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())


@pytest.fixture
def command(capsys) -> Callable[..., Ran]:
    """Run a command line as the program does."""

    def run(*words: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            app(words)
        captured = capsys.readouterr()
        return Ran(exit_.value.code, captured.out, captured.err)

    return run


@pytest.fixture(params=["sqlite", "memory"])
def url(request, tmp_path) -> str:
    """A store of this test's own."""
    return f"sqlite:///{tmp_path}/jobs.db" if request.param == "sqlite" else f"memory://{new_id()}"


@pytest.fixture
def on(url) -> Callable[[Callable[[Storage], Awaitable[T]]], T]:
    """Do something to the store beside the commands."""

    def run(work: Callable[[Storage], Awaitable[T]]) -> T:
        async def main() -> T:
            async with connect(url) as storage:
                return await work(storage)

        return anyio.run(main)

    on_first_use = run(lambda storage: storage.now())
    assert on_first_use
    return run


@pytest.fixture
def cli(command, url, on, monkeypatch) -> Callable[..., Ran]:
    """Run a command on the store, which the environment names."""
    monkeypatch.setenv("WORKERCTX_URL", url)
    return command


@pytest.fixture
def add(on) -> Callable[..., str]:
    """Add a job and return its id."""

    def add(kind: str = "resize", payload: Any = None, **options: Any) -> str:
        return on(lambda storage: storage.jobs.enqueue(EnqueueRequest(kind, payload, **options))).id

    return add


@pytest.fixture
def job(on) -> Callable[[str], Any]:
    """Read a job."""
    return lambda job_id: on(lambda storage: storage.jobs.get(job_id))


@pytest.fixture
def worker(on) -> Callable[..., str]:
    """Put a worker on the list as if it ran, and return its id."""

    def worker(id_: str = "w1", *, in_flight: int = 0, **fields: Any) -> str:
        async def register(storage: Storage) -> None:
            info = WorkerInfo(id=id_, pid=7, hostname="box", in_flight=in_flight, **fields)
            await storage.workers.register(info)

        on(register)
        return id_

    return worker


@pytest.fixture
def explain(cli) -> Callable[[str], list[dict[str, Any]]]:
    """Return the reasons that `jobs explain` gives for a job."""

    def explain(job_id: str) -> list[dict[str, Any]]:
        ran = cli("jobs", "explain", job_id, "--json")
        assert ran.status == 0
        assert ran.json["id"] == job_id
        return ran.json["reasons"]

    return explain


@pytest.fixture
def terminal(monkeypatch) -> Callable[[str], None]:
    """Let somebody sit at the terminal who answers this."""
    return lambda answer: monkeypatch.setattr("sys.stdin", Terminal(answer + "\n"))
