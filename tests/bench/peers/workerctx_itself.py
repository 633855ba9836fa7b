"""This project on any store, as its first tutorial sets it; durable unless the URL says otherwise."""

from __future__ import annotations

import asyncio
import time

from measured import Measured, Runs, script

from workerctx import JobRegistry, WorkerConfig, WorkerLoop


async def run(url: str, number: int, concurrency: int) -> Measured:
    jobs = JobRegistry(url)
    runs = Runs(number)

    @jobs.register
    async def noop(value: int) -> None:
        runs.note()

    async with jobs:
        began = time.perf_counter()
        await jobs.enqueue_bulk([noop.request(value) for value in range(number)])
        enqueued = time.perf_counter() - began
        began = time.perf_counter()
        await WorkerLoop(jobs, WorkerConfig(concurrency=concurrency)).run(burst=True)
    setting = f"concurrency={concurrency}, enqueue_bulk{', synchronous=off' if url.endswith('=off') else ''}"
    return Measured(setting, enqueued, runs.seconds(began))


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return asyncio.run(run(url, number, concurrency))


if __name__ == "__main__":
    script("workerctx", measure)
