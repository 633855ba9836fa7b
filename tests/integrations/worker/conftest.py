"""Worker processes for tests: started in a folder with an app, read line by line, never left behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.integrations.processes import PATIENCE, PythonProcess
from workerctx.queue import Constant, EnqueueRequest, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AT_ONCE = Constant(base=0, jitter=False)

APP = """
import hashlib, signal, sys, time
import anyio
from workerctx import JobCtx, JobRegistry
from workerctx.queue import Constant

jobs = JobRegistry("sqlite:///jobs.db")
not_jobs = object()

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

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

@jobs.register
async def interrupting() -> None:
    raise KeyboardInterrupt

@jobs.register(max_attempts=1)
async def deaf() -> None:
    say("waiting")
    with anyio.CancelScope(shield=True):
        await anyio.sleep_forever()

@jobs.register(max_attempts=1)
async def napping() -> str:
    say("waiting")
    await anyio.sleep(0.5)
    say("awake")
    return "refreshed"

@jobs.register(max_attempts=1)
async def stubborn(ctx: JobCtx) -> str:
    say("waiting")
    with anyio.CancelScope(shield=True):
        say("told", await ctx.cancel.wait())
    return "all the same"

@jobs.register(max_attempts=1)
async def blocking() -> None:
    say("waiting")
    a_long_calculation()

@jobs.register(max_attempts=1)
async def blocking_for_a_while() -> str:
    say("waiting")
    a_long_calculation(1.5)
    return "late"

@jobs.register(max_attempts=1)
async def blocking_in_c() -> None:
    say("waiting")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def a_long_calculation(seconds=float("inf")):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
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


class Worker(PythonProcess):
    """A worker process."""

    def __init__(self, folder: Path, *arguments: str, module: str = "workerctx", **settings: Any) -> None:
        super().__init__(folder, "-m", module, *arguments, **{"WORKERCTX_HEARTBEAT": "0.2", **settings})

    def child(self, number: int) -> int:
        """Wait until a supervisor says which process it has started in a place and return its process id."""
        return int(self.wait_for(f"worker {number} is process").rpartition(" ")[2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers, and see to it that none is left behind."""
    workers: list[Worker] = []

    def start(*arguments: str, where: Path = folder, **settings: Any) -> Worker:
        worker = Worker(where, *arguments, **settings)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.discard()


@pytest.fixture
def store(folder: Path) -> Callable[..., Any]:
    """Do something with the store of a folder, from a plain test."""

    def on_store(function: Callable[..., Any], *args: Any, where: Path = folder) -> Any:
        async def run() -> Any:
            async with connect(f"sqlite:///{where}/jobs.db") as storage:
                return await function(storage, *args)

        return anyio.run(run)

    return on_store


@pytest.fixture
def enqueue(store: Callable[..., Any], folder: Path) -> Callable[..., list[str]]:
    """Enqueue jobs of a kind and return their ids."""

    def enqueue(kind: str, *payloads: Any, where: Path = folder) -> list[str]:
        async def add(storage: Any) -> list[str]:
            requests = [EnqueueRequest(kind, payload, max_attempts=3, retry=AT_ONCE) for payload in payloads or ({},)]
            return [outcome.id for outcome in await storage.jobs.enqueue_bulk(requests)]

        ids: list[str] = store(add, where=where)
        return ids

    return enqueue


@pytest.fixture
def job(store: Callable[..., Any]) -> Callable[[str], Any]:
    """Return a job by its id."""
    return lambda job_id: store(lambda storage: storage.jobs.get(job_id))


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Try something until it holds, with a bound, and return what it said."""

    def eventually(holds: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := holds()):
            assert time.monotonic() < deadline, "it never came to hold"
            time.sleep(0.02)
        return found

    return eventually


@pytest.fixture
def serving(store: Callable[..., Any], eventually: Callable[..., Any]) -> Callable[[int], dict[str, int]]:
    """Wait until so many workers are registered and return their process ids by their worker ids."""

    def serving(count: int) -> dict[str, int]:
        def registered() -> dict[str, int]:
            found = {worker.id: worker.pid for worker in store(lambda storage: storage.workers.list())}
            return found if len(found) == count else {}

        pids: dict[str, int] = eventually(registered)
        return pids

    return serving
