"""W4: a worker that starts while its store cannot be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import SchemaError, StoreUnavailable
from workerctx.lifecycle import Outcome
from workerctx.queue import EnqueueRequest, connect
from workerctx.runtime import StoreFailed, StoreRecovered, WorkerConfig, WorkerLoop
from workerctx.service import JobRegistry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is not there yet, as that of a volume that is not mounted."""
    return tmp_path / "volume"


@pytest.fixture
def mount(folder: Path) -> Callable[..., None]:
    """Let the folder be there, with a file in it if one is wanted."""

    def mount(content: str | None = None) -> None:
        folder.mkdir()
        if content is not None:
            (folder / "jobs.db").write_text(content)

    return mount


@pytest.fixture
def ran() -> list[int]:
    return []


@pytest.fixture
def make(folder: Path, ran: list[int]) -> Callable[..., WorkerLoop]:
    """Make a loop over a store in the folder."""

    def make(**settings: Any) -> WorkerLoop:
        jobs = JobRegistry(f"sqlite:///{folder}/jobs.db?synchronous=normal")

        @jobs.register(name="note")
        async def note(number: int) -> None:
            ran.append(number)

        return WorkerLoop(jobs, WorkerConfig(**settings))

    return make


def failures_of(loop: WorkerLoop) -> list[StoreFailed]:
    found: list[StoreFailed] = []
    loop.context.listen(lambda _, event: found.append(event), StoreFailed)
    return found


async def test_it_waits_and_says_so(
    make: Callable[..., WorkerLoop], mount: Any, ran: list[int], eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """W4: it is not ready and tells why, the log has one line for it, and it serves once the store is there."""
    loop = make()
    failed, recovered = failures_of(loop), list[int]()
    loop.context.listen(lambda _, event: recovered.append(event.failures), StoreRecovered)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(loop.run)
        await eventually(lambda: len(failed) >= 2)
        assert (loop.context.is_ready, loop.context.is_alive) == (False, True)
        assert "waiting for the store: cannot open" in loop.context.ready_reason
        mount()
        await eventually(lambda: loop.context.is_ready)
        async with connect(loop.jobs.url) as storage:
            await storage.jobs.enqueue(EnqueueRequest("note", {"number": 1}))
        await eventually(lambda: ran)
        loop.shutdown("seen enough")
    assert recovered == [len(failed)]
    said = [record.getMessage() for record in caplog.records]
    assert sum("waits for its store" in line for line in said) == 1
    assert sum("has reached its store" in line for line in said) == 1


async def test_it_can_be_stopped_meanwhile(make: Callable[..., WorkerLoop], eventually: Any) -> None:
    """W3: a stop ends the wait at once and is no failure."""
    loop = make()
    failed = failures_of(loop)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop.run)
            await eventually(lambda: failed)
            loop.shutdown("never mind")
    assert loop.context.outcome is Outcome.NEVER_STARTED


@pytest.mark.parametrize(("settings", "burst"), [({"store_patience": 0}, False), ({}, True)])
async def test_it_need_not_wait(make: Callable[..., WorkerLoop], settings: dict[str, Any], burst: bool) -> None:
    """W4: without patience, and in a burst, which is a script's last word, it fails at once."""
    with pytest.raises(StoreUnavailable, match="cannot open"):
        await make(**settings).run(burst=burst)


async def test_what_waiting_does_not_mend(make: Callable[..., WorkerLoop], mount: Any) -> None:
    """Q13: a file that is no store is refused at once."""
    mount("a letter to my bank " * 100)
    with anyio.fail_after(30), pytest.raises(SchemaError):
        await make().run()
