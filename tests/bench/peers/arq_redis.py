"""arq on Redis."""

from __future__ import annotations

import asyncio
import time

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func
from measured import Measured, Runs, script


async def run(url: str, number: int, concurrency: int) -> Measured:
    settings = RedisSettings.from_dsn(url)
    runs = Runs(number)

    async def noop(ctx: object, value: int) -> None:
        runs.note()

    pool = await create_pool(settings)
    began = time.perf_counter()
    for start in range(0, number, 100):
        await asyncio.gather(*(pool.enqueue_job("noop", value) for value in range(start, min(number, start + 100))))
    enqueued = time.perf_counter() - began
    worker = Worker(
        functions=[func(noop, name="noop")],
        redis_settings=settings,
        burst=True,
        max_jobs=concurrency,
        keep_result=0,
        poll_delay=0.005,
        handle_signals=False,
        log_results=False,
    )
    began = time.perf_counter()
    await worker.async_run()
    seconds = runs.seconds(began)
    await worker.close()
    await pool.aclose()
    return Measured(f"max_jobs={concurrency}, poll_delay=0.005, keep_result=0, uvloop", enqueued, seconds)


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return uvloop.run(run(url, number, concurrency))


if __name__ == "__main__":
    script("arq", measure)
