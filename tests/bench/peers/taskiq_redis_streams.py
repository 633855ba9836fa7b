"""taskiq on Redis, with the broker that acknowledges."""

from __future__ import annotations

import asyncio
import time

import uvloop
from measured import Measured, Runs, report, script
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker


async def run(url: str, number: int, concurrency: int) -> Measured:
    # The stream is read from its beginning, for jobs that were there before the worker.
    broker = RedisStreamBroker(url, consumer_id="0")
    finished = asyncio.Event()
    runs = Runs(number, finished.set)

    @broker.task(task_name="noop")
    async def noop(value: int) -> None:
        runs.note()

    await broker.startup()
    began = time.perf_counter()
    for start in range(0, number, 100):
        await asyncio.gather(*(noop.kiq(value) for value in range(start, min(number, start + 100))))
    enqueued = time.perf_counter() - began
    began = time.perf_counter()
    receiver = asyncio.create_task(
        run_receiver_task(broker, max_async_tasks=concurrency, max_prefetch=concurrency, run_startup=False)
    )
    waiter = asyncio.create_task(finished.wait())
    await asyncio.wait({receiver, waiter}, return_when=asyncio.FIRST_COMPLETED)
    setting = f"RedisStreamBroker, max_async_tasks={concurrency}, uvloop"
    # A receiver that is cancelled may begin again and never end, so the process ends with the report.
    report("taskiq", number, found := Measured(setting, enqueued, runs.seconds(began)))
    return found


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return uvloop.run(run(url, number, concurrency))


if __name__ == "__main__":
    script("taskiq", measure)
