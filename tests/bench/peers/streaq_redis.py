"""streaQ on Redis."""

from __future__ import annotations

import time

import anyio
from measured import Measured, Runs, script
from streaq import Worker


async def run(url: str, number: int, concurrency: int) -> Measured:
    worker = Worker(redis_url=url, concurrency=concurrency, handle_signals=False)
    finished = anyio.Event()
    runs = Runs(number, finished.set)

    @worker.task(ttl=0)
    async def noop(value: int) -> None:
        runs.note()

    began = time.perf_counter()
    async with worker:
        for start in range(0, number, 1000):
            await worker.enqueue_many([noop.enqueue(value) for value in range(start, min(number, start + 1000))])
    enqueued = time.perf_counter() - began
    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run_async)
        await finished.wait()
        group.cancel_scope.cancel()
    return Measured(f"concurrency={concurrency}, ttl=0, enqueue_many, uvloop", enqueued, runs.seconds(began))


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return anyio.run(run, url, number, concurrency, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    script("streaq", measure)
