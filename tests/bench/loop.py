"""What a worker loop does: jobs per second, latency, efficiency, idle cost, start, memory; on durable SQLite."""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio

from tests.bench.measure import machine, table
from workerctx import JobCtx, JobRegistry, WorkerConfig, WorkerLoop
from workerctx.lifecycle import Success
from workerctx.service.layers import Trace

if TYPE_CHECKING:
    from collections.abc import Generator

jobs = JobRegistry(layers=[Trace()])
"""Its store is named by ``WORKERCTX_URL``, here and in the worker processes that this bench starts."""


@jobs.register(timeout=30)
async def noop(ctx: JobCtx, number: int) -> None:
    """Do nothing, with a context, a timeout and a layer."""


@jobs.register(timeout=30)
async def nap(seconds: float) -> None:
    """Wait."""
    await anyio.sleep(seconds)


@jobs.register(timeout=30)
async def clock() -> int:
    """Tell when the job began; the monotonic clock is the same in all processes."""
    return time.monotonic_ns()


def fresh_store(folder: str, name: str) -> None:
    """Have the registry use a new file."""
    os.environ["WORKERCTX_URL"] = f"sqlite:///{folder}/{name}.db"


async def throughput(number: int, concurrency: int) -> float:
    """Return the jobs per second of one worker, from its start to its end, with a listener."""
    async with jobs:
        await jobs.enqueue_bulk([noop.request(index) for index in range(number)])
        loop = WorkerLoop(jobs, WorkerConfig(concurrency=concurrency))
        seen = 0

        def listener(_: object, __: object) -> None:
            nonlocal seen
            seen += 1

        loop.context.listen(listener, Success)
        began = time.perf_counter()
        await loop.run(burst=True)
        seconds = time.perf_counter() - began
        assert seen == number, f"{seen} of {number} jobs ran"
        return number / seconds


async def efficiency(number: int, seconds: float, concurrency: int) -> float:
    """Return the ideal time of sleeping jobs over the time that one worker took."""
    async with jobs:
        await jobs.enqueue_bulk([nap.request(seconds) for _ in range(number)])
        began = time.perf_counter()
        await WorkerLoop(jobs, WorkerConfig(concurrency=concurrency)).run(burst=True)
        return number * seconds / concurrency / (time.perf_counter() - began)


async def latencies(number: int) -> list[float]:
    """Return the seconds from the end of `enqueue` to the start of the run, in another process."""
    found: list[float] = []
    async with jobs:
        for index in range(number):
            await anyio.sleep(0.01 + 0.03 * (index % 7) / 7)
            handle = await clock.enqueue()
            enqueued = time.monotonic_ns()
            found.append(max(0, await handle.result(timeout=10) - enqueued) / 1e9)
    return sorted(found)


class Worker:
    """A worker process of this module's registry."""

    def __init__(self, backend: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workerctx", "worker", "tests.bench.loop:jobs", "--backend", backend],
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss(self) -> float:
        """Return its peak resident memory, in megabytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmHWM")


async def start_to_first_job(backend: str) -> tuple[float, Worker]:
    """Return the seconds from the start of a worker process to its first job, and the worker."""
    async with jobs:
        handle = await clock.enqueue()
        began = time.monotonic_ns()
        worker = Worker(backend)
        return (await handle.result(timeout=30) - began) / 1e9, worker


def of_backend(backend: str, options: argparse.Namespace, folder: str) -> Generator[tuple[str, str]]:
    """Measure one event loop."""
    speeds: list[float] = []
    for turn in range(options.repeat):
        fresh_store(folder, f"{backend}-{turn}")
        speeds.append(anyio.run(throughput, options.number, 100, backend=backend))
    yield "no-op jobs/s, concurrency 100", f"{statistics.median(speeds):,.0f} (best {max(speeds):,.0f})"
    fresh_store(folder, f"{backend}-nap")
    efficient = anyio.run(efficiency, 5000, 0.05, 100, backend=backend)
    yield "efficiency, 5,000 x sleep(0.05), concurrency 100", f"{efficient:.1%}"
    fresh_store(folder, f"{backend}-process")
    seconds, worker = anyio.run(start_to_first_job, backend, backend=backend)
    with worker:
        yield "start of a process to its first job", f"{seconds:.2f} s"
        found = anyio.run(latencies, options.latencies, backend=backend)
        yield "idle pick-up across processes, p50", f"{found[len(found) // 2] * 1e3:.2f} ms"
        yield "idle pick-up across processes, p99", f"{found[int(len(found) * 0.99)] * 1e3:.2f} ms"
        used = worker.cpu()
        time.sleep(options.idle)
        yield "idle worker, share of a core", f"{(worker.cpu() - used) / options.idle:.2%}"
        yield "peak resident memory of the worker", f"{worker.peak_rss():.0f} MB"


def main(argv: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench loop", description=__doc__)
    parser.add_argument("--number", type=int, default=10_000, help="jobs a round")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--latencies", type=int, default=200, help="jobs whose pick-up is timed")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of watching an idle worker")
    options = parser.parse_args(argv)
    print(machine())
    for backend in ("asyncio", "trio"):
        with tempfile.TemporaryDirectory() as folder:
            table(backend, [("what", "figure"), *of_backend(backend, options, folder)])
