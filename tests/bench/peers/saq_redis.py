"""SAQ on Redis."""

from __future__ import annotations

import asyncio
import time

import uvloop
from measured import Measured, Runs, script
from saq import Queue, Worker


async def run(url: str, number: int, concurrency: int) -> Measured:
    queue = Queue.from_url(url)
    await queue.connect()
    runs = Runs(number, lambda: worker.event.set())

    async def noop(ctx: object, *, value: int) -> None:
        runs.note()

    began = time.perf_counter()
    for start in range(0, number, 1000):
        await asyncio.gather(*(queue.enqueue("noop", value=value) for value in range(start, min(number, start + 1000))))
    enqueued = time.perf_counter() - began
    worker = Worker(queue, functions=[("noop", noop)], concurrency=concurrency)
    began = time.perf_counter()
    await worker.start()
    seconds = runs.seconds(began)
    await queue.disconnect()
    return Measured(f"concurrency={concurrency}, uvloop", enqueued, seconds)


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return uvloop.run(run(url, number, concurrency))


if __name__ == "__main__":
    script("saq", measure)
