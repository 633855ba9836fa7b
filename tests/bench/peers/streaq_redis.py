"""streaQ on Redis."""

from __future__ import annotations

import time

import anyio
from measured import Measured, Runs, script
from streaq import Worker


async def run(url: str, number: int, concurrency: int) -> Measured:
    worker = Worker(redis_url=url, concurrency=concurrency, handle_signals=False)
    runs = Runs(number)

    @worker.task(ttl=0)
    async def noop(value: int) -> None:
        runs.note()

    began = time.perf_counter()
    async with worker:
        for start in range(0, number, 1000):
            await worker.enqueue_many([noop.enqueue(value) for value in range(start, min(number, start + 1000))])
    enqueued = time.perf_counter() - began
    worker.burst = True
    began = time.perf_counter()
    await worker.run_async()
    return Measured(f"concurrency={concurrency}, ttl=0, enqueue_many, uvloop", enqueued, runs.seconds(began))


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return anyio.run(run, url, number, concurrency, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    script("streaq", measure)
