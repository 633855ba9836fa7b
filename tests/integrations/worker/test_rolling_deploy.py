"""A rolling deploy: workers of an old and a new version of an application share a queue."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from workerctx.queue import JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMON = """
import anyio
from workerctx import JobRegistry

jobs = JobRegistry("sqlite:///jobs.db")
"""

OLD = """
@jobs.register
async def report(number: int) -> str:
    return "old"

@jobs.register
async def retired(number: int) -> str:
    return "old"

@jobs.register
async def long(number: int) -> str:
    print("long begins\\n", end="", flush=True)
    await anyio.sleep_forever()
"""

NEW = """
@jobs.register(name="summary", aliases=["report"])
async def summary(number: int) -> str:
    return "new"

@jobs.register
async def added(number: int) -> str:
    return "new"

@jobs.register
async def long(number: int) -> str:
    return "new"
"""

NUMBERS = [{"number": number} for number in range(20)]


@pytest.fixture
def results(store: Callable[..., Any]) -> Callable[[list[str]], set[Any]]:
    """Return the results of jobs that have succeeded in their only run; None if one of them has not."""

    async def collect(storage: Any, ids: list[str]) -> set[Any]:
        found = [await storage.jobs.get(job_id) for job_id in ids]
        return {
            job.result if job.state is JobState.SUCCEEDED and (job.attempt, job.deliveries) == (1, 1) else None
            for job in found
        }

    return lambda ids: store(collect, ids)


def test_two_versions_share_a_queue(
    start: Any, enqueue: Any, job: Any, folder: Path, results: Any, eventually: Any, serving: Any
) -> None:
    """Q6, W3: a kind that one version does not know waits for the other; what the deploy interrupts is not burnt."""
    (folder / "old.py").write_text(COMMON + OLD)
    (folder / "new.py").write_text(COMMON + NEW)
    options = ("-c", "3", "--grace", "0.2")

    # The web servers are deployed first and enqueue kinds of the new version, which no worker knows yet.
    renamed, added = enqueue("summary", *NUMBERS), enqueue("added", *NUMBERS)
    known, retired = enqueue("report", *NUMBERS), enqueue("retired", *NUMBERS)
    first = [start("worker", "old:jobs", *options) for _ in range(2)]
    eventually(lambda: results(known + retired) == {"old"})
    assert {(job(one).state, job(one).deliveries) for one in renamed + added} == {(JobState.QUEUED, 0)}

    # One old worker after the other is told to stop in the middle of its jobs, while new ones are there.
    running = enqueue("long", *NUMBERS[:6])  # both are full
    for worker in first:
        worker.wait_for("long begins", 3)
    second = start("worker", "new:jobs", *options)
    serving(3)
    for worker in first:
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0, worker.output
    late, too_late = enqueue("report", *NUMBERS), enqueue("retired", *NUMBERS)
    eventually(lambda: results(renamed + added + running + late) == {"new"})
    assert {(job(one).state, job(one).deliveries) for one in too_late} == {(JobState.QUEUED, 0)}

    # The deploy is rolled back: what only the old version knows was kept for it.
    third = start("worker", "old:jobs", *options, "--burst")
    assert third.ends() == 0, third.output
    assert results(too_late) == {"old"}
    second.signal(signal.SIGTERM)
    assert second.ends() == 0, second.output
