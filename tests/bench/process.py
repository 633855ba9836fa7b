"""What a process costs a job: started for it, used again, and a thread beside them."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import anyio

from tests.bench.measure import machine, table
from workerctx.queue import QueuedJob, connect
from workerctx.service import JobCtx, JobRegistry, Processes, Site

if TYPE_CHECKING:
    from workerctx.service import AnyHandler

jobs = JobRegistry()


@jobs.register(executor="process")
def in_process(number: int) -> int:
    """Do nothing, in a process."""
    return number


@jobs.register
def in_thread(number: int) -> int:
    """Do nothing, in a thread."""
    return number


async def seconds_of(handler: AnyHandler, site: Site) -> float:
    """Return how long a run takes, from the job at hand to its output."""
    job = QueuedJob(id="job-1", kind=handler.kind, payload_json=b'{"number": 1}', attempt=1, max_attempts=1)
    began = time.perf_counter()
    assert await handler.run(JobCtx(job, site)) == 1
    return time.perf_counter() - began


async def measure(number: int) -> list[float]:
    """Return the median seconds of runs in new processes, in a used one, and in a thread."""
    async with connect("memory://") as storage:
        new: list[float] = []
        for _ in range(number):
            async with Processes() as processes:
                new.append(await seconds_of(in_process, Site(storage, processes=processes)))
        async with Processes() as processes:
            site = Site(storage, processes=processes)
            await seconds_of(in_process, site)
            used = [await seconds_of(in_process, site) for _ in range(number * 20)]
            thread = [await seconds_of(in_thread, site) for _ in range(number * 20)]
    return [statistics.median(each) for each in (new, used, thread)]


def main(arguments: list[str]) -> None:
    """Print the costs on both backends."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench process", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20, help="runs in a new process each")
    number = parser.parse_args(arguments).jobs
    print(machine())
    rows: list[tuple[str, ...]] = [("", "new process", "used process", "thread")]
    for backend in ("asyncio", "trio"):
        costs = anyio.run(measure, number, backend=backend)
        rows.append((backend, *(f"{each * 1000:.2f} ms" for each in costs)))
    table("a job that does nothing", rows)
