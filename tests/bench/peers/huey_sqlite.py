"""huey on SQLite, without results; durable, or without fsync if the URL ends in `?fsync=off`."""

from __future__ import annotations

import time

from huey import SqliteHuey
from measured import Measured, Runs, script


def measure(url: str, number: int, concurrency: int) -> Measured:
    """Run the jobs; more threads than one only wait for each other."""
    path, _, option = url.removeprefix("sqlite:///").partition("?")
    huey = SqliteHuey(filename=path, fsync=option != "fsync=off", results=False, journal_mode="wal")
    runs = Runs(number, lambda: consumer.stop_flag.set())

    @huey.task()
    def noop(value: int) -> None:
        runs.note()

    began = time.perf_counter()
    for index in range(number):
        noop(index)
    enqueued = time.perf_counter() - began
    consumer = huey.create_consumer(workers=1, periodic=False, check_worker_health=False, initial_delay=0.001)
    began = time.perf_counter()
    consumer.run()
    return Measured(f"{option or 'fsync=True'}, results=False, 1 thread", enqueued, runs.seconds(began))


if __name__ == "__main__":
    script("huey", measure)
