"""procrastinate on PostgreSQL."""

from __future__ import annotations

import asyncio
import time

from measured import Measured, Runs, script
from procrastinate import App, PsycopgConnector


async def run(url: str, number: int, concurrency: int) -> Measured:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=20))
    runs = Runs(number)

    @app.task(name="noop")
    async def noop(value: int) -> None:
        runs.note()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        began = time.perf_counter()
        for start in range(0, number, 1000):
            await noop.batch_defer_async(*({"value": value} for value in range(start, min(number, start + 1000))))
        enqueued = time.perf_counter() - began
        # Without statistics each fetch reads the whole table; a server that is up for a minute has them.
        await app.connector.execute_query_async("ANALYZE")
        began = time.perf_counter()
        await app.run_worker_async(
            wait=False, concurrency=concurrency, install_signal_handlers=False, delete_jobs="always"
        )
        seconds = runs.seconds(began)
    return Measured(f"concurrency={concurrency}, batch_defer, delete_jobs=always", enqueued, seconds)


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs."""
    return asyncio.run(run(url, number, concurrency))


if __name__ == "__main__":
    script("procrastinate", measure)
