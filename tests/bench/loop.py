"""What one worker process does: jobs per second, latency, efficiency, idle cost, start, memory; on durable SQLite.

``python -m tests.bench loop`` prints a table for the docs, with huey in the same run, durable as well and in its
fastest setting that is. Take the figures on a machine that does nothing else.
"""

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

from tests.bench.measure import machine, markdown
from tests.bench.peers import HUEY, HUEY_WITHOUT_FSYNC, measure
from workerctx import JobCtx, JobRegistry, WorkerConfig, WorkerLoop
from workerctx.cli.turns import take_short_turns
from workerctx.lifecycle import Success
from workerctx.queue import JobState
from workerctx.service.layers import Trace
from workerctx.testing import wait_until

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


def fresh_store(folder: str, name: str, option: str = "") -> None:
    """Have the registry use a new file."""
    os.environ["WORKERCTX_URL"] = f"sqlite:///{folder}/{name}.db{option}"


async def throughput(number: int, concurrency: int) -> float:
    """Return the jobs per second of one worker, from its start to its end, with a listener, as the command runs it."""
    take_short_turns()
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


async def first_job() -> None:
    """Wait until a worker process that was just started has run a job."""
    async with jobs:
        await (await clock.enqueue()).result(timeout=60)


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

    def __init__(self, backend: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workerctx", "worker", "tests.bench.loop:jobs", "--backend", backend, *options],
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


THROUGHPUT = "no-op jobs/s, concurrency 100, with JobCtx, timeout, a layer and a listener"
WITHOUT_SYNC = "the same with `synchronous=off`"
EFFICIENCY = "5,000 x `sleep(0.05)`, concurrency 100, of the ideal time"
START = "start of a process to its first job"
P50 = "pick-up by an idle worker in another process, p50"
P99 = "pick-up by an idle worker in another process, p99"
IDLE = "idle worker, share of a core"
MEMORY = "peak resident memory of the process"

TARGETS = {
    THROUGHPUT: ("at least 25,000 on asyncio, 20,000 on trio", "{:,.0f}"),
    WITHOUT_SYNC: ("", "{:,.0f}"),
    EFFICIENCY: ("at least 97 %", "{:.1%}"),
    START: ("under 0.6 s", "{:.2f} s"),
    P50: ("under 2 ms", "{:.2f} ms"),
    P99: ("under 8 ms", "{:.2f} ms"),
    IDLE: ("under 0.5 %", "{:.2%}"),
    MEMORY: ("under 70 MB", "{:.0f} MB"),
}
"""What is measured on each event loop: what is wanted, and how it is written."""


def busy_worker(backend: str, number: int) -> float:
    """Return the peak memory of a worker process that runs so many jobs."""

    async def fill() -> None:
        async with jobs:
            await jobs.enqueue_bulk([noop.request(index) for index in range(number)])

    async def until_done() -> None:
        async def done() -> bool:
            return (await jobs.storage.jobs.counts())[JobState.SUCCEEDED] == number

        async with jobs:
            await wait_until(done, timeout=120)

    anyio.run(fill, backend=backend)
    with Worker(backend, "--concurrency", "100") as worker:
        anyio.run(until_done, backend=backend)
        return worker.peak_rss()


def of_backend(backend: str, options: argparse.Namespace, folder: str) -> Generator[tuple[str, float]]:
    """Measure one event loop."""
    for name, option in ((THROUGHPUT, ""), (WITHOUT_SYNC, "?synchronous=off")):
        speeds: list[float] = []
        for turn in range(options.repeat):
            fresh_store(folder, f"{backend}-{turn}{bool(option)}", option)
            speeds.append(anyio.run(throughput, options.number, 100, backend=backend))
        yield name, statistics.median(speeds)
    fresh_store(folder, f"{backend}-nap")
    yield EFFICIENCY, anyio.run(efficiency, 5000, 0.05, 100, backend=backend)
    fresh_store(folder, f"{backend}-busy")
    yield MEMORY, busy_worker(backend, options.number)
    starts: list[float] = []
    for turn in range(options.repeat):
        fresh_store(folder, f"{backend}-start{turn}")
        seconds, worker = anyio.run(start_to_first_job, backend, backend=backend)
        starts.append(seconds)
        with worker:
            if turn < options.repeat - 1:
                continue
            yield START, statistics.median(starts)
            found = anyio.run(latencies, options.latencies, backend=backend)
            yield P50, found[len(found) // 2] * 1e3
            yield P99, found[int(len(found) * 0.99)] * 1e3
            used = worker.cpu()
            time.sleep(options.idle)
            yield IDLE, (worker.cpu() - used) / options.idle


def main(argv: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench loop", description=__doc__)
    parser.add_argument("--number", type=int, default=10_000, help="jobs a round")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--latencies", type=int, default=300, help="jobs whose pick-up is timed")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of watching an idle worker")
    parser.add_argument("--without-peers", action="store_true", help="do not measure huey, which is installed for it")
    options = parser.parse_args(argv)
    print(machine(), flush=True)
    found: dict[str, dict[str, float]] = {}
    huey: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for backend in ("asyncio", "trio"):
            found[backend] = dict(of_backend(backend, options, folder))
        for turn in range(0 if options.without_peers else options.repeat):
            for peer in (HUEY, HUEY_WITHOUT_FSYNC):
                figures = measure(peer, f"sqlite:///{folder}/huey{turn}{bool(peer.option)}.db", options.number, 100)
                huey.setdefault(f"huey {figures.version}, {figures.setting}", []).append(figures.run)
    rows = [("what", "wanted", "asyncio", "trio")]
    for name, (target, form) in TARGETS.items():
        rows.append((name, target, *(form.format(figures[name]) for figures in found.values())))
        if name in {THROUGHPUT, WITHOUT_SYNC} and huey:
            setting, speeds = list(huey.items())[name == WITHOUT_SYNC]
            ratios = (figures[name] / statistics.median(speeds) for figures in found.values())
            wanted = "at least 7 x" if name == THROUGHPUT else ""
            rows.append(
                (f"... of {setting}: {statistics.median(speeds):,.0f}", wanted, *(f"{x:.1f} x" for x in ratios))
            )
    markdown("one worker process", rows)
