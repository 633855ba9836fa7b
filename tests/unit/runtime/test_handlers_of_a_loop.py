"""Which handlers a loop runs: those of its registry, and those added to it before it runs."""

import logging

import pytest

from workerctx import JobRegistry, WorkerConfig, WorkerLoop
from workerctx.errors import InvalidTransition, Snooze, WorkerError
from workerctx.queue import EnqueueRequest


async def test_handlers_are_added_to_a_loop_before_it_runs(jobs):
    """W1: `register` of a loop is the registry's, until the loop runs."""
    loop = WorkerLoop.from_registry(jobs, WorkerConfig(concurrency=1))

    @loop.register(max_attempts=1)
    async def double(number: int) -> int:
        return 2 * number

    handle = await double.enqueue(21)
    await loop.drain()
    assert await handle.result(timeout=5) == 42
    with pytest.raises(InvalidTransition, match="a loop runs once"):
        loop.register(test_a_loop_without_handlers_says_so)


async def test_a_loop_without_handlers_says_so():
    """W1: a loop that could run nothing is refused when it should run, and the store is not opened."""
    loop = WorkerLoop(JobRegistry("sqlite:///no/such/folder/jobs.db"))
    with pytest.raises(WorkerError, match="has nothing to run: register a handler"):
        await loop.run()


async def test_a_worker_logs_what_fails(jobs, burst, at_once, caplog):
    """A run that failed is a warning with its traceback, the last one an error; one that snoozed is neither."""

    @jobs.register(name="fragile", max_attempts=2, retry=at_once)
    async def fragile(part: str) -> None:
        raise ValueError(f"the {part} broke")

    @jobs.register(max_attempts=1)
    async def hesitant() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise Snooze(0.0)

    runs: list[int] = []
    handle = await fragile.enqueue("leg")
    await hesitant.enqueue()
    with caplog.at_level(logging.INFO, "workerctx"):
        await burst()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.levelname, record.job_id, record.attempt) for record in told] == [
        ("WARNING", handle.id, 1),
        ("ERROR", handle.id, 2),
    ]
    assert (
        told[0].message
        == f"fragile {handle.id} (run 1): failed and is tried again, 1 more at most: ValueError: the leg broke"
    )
    assert (
        told[1].message == f"fragile {handle.id} (run 2): failed for good, the job is dead: ValueError: the leg broke"
    )
    assert all(record.exc_info[1].args == ("the leg broke",) for record in told)


@pytest.mark.parametrize("kind", ["sync", "layered", "unreadable"])
async def test_tracebacks_begin_with_the_users_code(jobs, burst, kind):
    """What is stored of a failure leaves out how the worker came to the handler, unless nothing else is there."""

    async def passing(request, call_next):
        return await call_next(request)

    @jobs.register(name="sync", max_attempts=1)
    def sync() -> None:
        raise ValueError("broken")

    @jobs.register(name="layered", max_attempts=1, layers=[passing])
    async def layered() -> None:
        raise ValueError("broken")

    @jobs.register(name="unreadable", max_attempts=1)
    async def unreadable(number: int) -> None: ...

    job_id = (await jobs.storage.jobs.enqueue(EnqueueRequest(kind, payload={}))).id
    await burst()
    traceback = (await jobs.storage.jobs.get(job_id)).error.traceback
    first = next(line for line in traceback.splitlines() if line.startswith("  File "))
    assert ("test_handlers_of_a_loop.py" in first) is (kind != "unreadable")
