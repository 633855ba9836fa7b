"""pgqueuer on PostgreSQL, with the faster of its drivers."""

from __future__ import annotations

import time

import asyncpg
import uvloop
from measured import Measured, Runs, script
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode


async def run(url: str, number: int, concurrency: int) -> Measured:
    runs = Runs(number)
    async with asyncpg.create_pool(url, min_size=4, max_size=4) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        worker = PgQueuer.from_asyncpg_pool(pool)

        @worker.entrypoint("noop")
        async def noop(job: Job) -> None:
            runs.note()

        began = time.perf_counter()
        for start in range(0, number, 1000):
            size = min(number - start, 1000)
            await queries.enqueue(["noop"] * size, [b"1"] * size, [0] * size)
        enqueued = time.perf_counter() - began
        began = time.perf_counter()
        await worker.run(batch_size=concurrency, mode=QueueExecutionMode.drain)
        seconds = runs.seconds(began)
        await Queries(AsyncpgPoolDriver(pool)).uninstall()
    return Measured(f"asyncpg pool of 4, batch_size={concurrency}, uvloop", enqueued, seconds)


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return uvloop.run(run(url, number, concurrency))


if __name__ == "__main__":
    script("pgqueuer", measure)
