"""Which handlers a loop runs: those of its registry, and those added to it before it runs."""

import pytest

from workerctx import JobRegistry, WorkerConfig, WorkerLoop
from workerctx.errors import InvalidTransition, WorkerError


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
