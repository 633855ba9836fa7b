"""Speed of the stores: ratios of one run on one machine, never absolute promises.

``python -m tests.bench queue [--quick] [--backend asyncio|trio] [--large N]``
"""

from __future__ import annotations

import argparse
import gc
import json
import sqlite3
import statistics
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter, process_time

import anyio
import attrs

from workerctx.queue import ClaimRequest, CompleteLease, EnqueueRequest, Storage, connect, new_id
from workerctx.queue.sqlite.statements import SQLITE

PAYLOAD = {"text": "x" * 188}


@attrs.define
class Report:
    """Lines of a table, printed as they come."""

    def line(self, what: str, measured: float, unit: str, target: str = "") -> None:
        print(f"{what:<62} {measured:>12,.2f} {unit:<10} {target}", flush=True)


def main(argv: list[str]) -> None:
    """Measure what issue 3 promises."""
    parser = argparse.ArgumentParser(prog="tests.bench queue")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--large", type=int, default=1_000_000, help="rows that must not matter")
    options = parser.parse_args(argv)
    scale = 10 if options.quick else 1
    large = options.large // scale
    with tempfile.TemporaryDirectory(prefix="workerctx-bench-") as folder:
        anyio.run(_run, Path(folder), scale, large, backend=options.backend)


async def _run(folder: Path, scale: int, large: int) -> None:
    report = Report()
    await _bulk(report, folder, 100_000 // scale)
    await _batches(report, folder, 40_000 // scale)
    await _single(report, folder, 4_000 // scale)
    await _flat(report, folder, large)
    await _memory(report, 50_000 // scale)
    await _idle(report, folder)


def _url(folder: Path, name: str) -> str:
    return f"sqlite:///{folder / name}.db"


def _requests(count: int, kind: str = "noop", **options: object) -> list[EnqueueRequest]:
    return [EnqueueRequest(kind, PAYLOAD, **options) for _ in range(count)]


async def _bulk(report: Report, folder: Path, count: int) -> None:
    for name, url, target in (
        ("sqlite", _url(folder, "bulk"), ">= 100,000"),
        ("memory", "memory://", ">= 250,000"),
    ):
        rounds: list[float] = []
        async with connect(url) as storage:
            for _ in range(5):
                requests = _requests(count // 5)
                started = perf_counter()
                await storage.jobs.enqueue_bulk(requests)
                rounds.append(len(requests) / (perf_counter() - started))
        report.line(f"bulk enqueue, {name}", statistics.median(rounds), "jobs/s", target)


async def _batches(report: Report, folder: Path, count: int) -> None:
    async def ours(storage: Storage) -> float:
        started = perf_counter()
        done = 0
        while claimed := await storage.jobs.claim_many("bench", limit=100):
            outcomes = await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
            assert not any(outcomes)
            done += len(claimed)
        return done / (perf_counter() - started)

    async def together(storage: Storage) -> float:
        started = perf_counter()
        done = 0
        finishes: list[CompleteLease] = []
        while True:
            _, claimed = await storage.jobs.finish_and_claim(finishes, ClaimRequest(worker_id="bench", limit=100))
            if not claimed:
                break
            finishes = [CompleteLease(lease.id) for _, lease in claimed]
            done += len(claimed)
        return done / (perf_counter() - started)

    rates: dict[str, list[float]] = {"ours": [], "raw": [], "together": []}
    for turn in range(7):
        path = folder / f"batches{turn}.db"
        async with connect(f"sqlite:///{path}") as storage:
            for name, measure in (("ours", ours), ("together", together)):
                await storage.jobs.enqueue_bulk(_requests(count // 7))
                rates[name].append(await measure(storage))
            await storage.jobs.enqueue_bulk(_requests(count // 7))
        rates["raw"].append(_raw_loop(path))
    median = {name: statistics.median(values) for name, values in rates.items()}
    report.line("raw sqlite3 loop, claim 100 / complete 100, same statements", median["raw"], "jobs/s")
    report.line("claim_many(100) / finish_many(100)", median["ours"], "jobs/s")
    # Each round beside its own raw loop: the disk has moods that last longer than a round.
    ratios = [ours / raw for ours, raw in zip(rates["ours"], rates["raw"], strict=True)]
    report.line("  of the raw loop", statistics.median(ratios), "x", ">= 0.6")
    report.line("finish_and_claim(100, 100)", median["together"], "jobs/s")


def _raw_loop(path: Path) -> float:
    """Run the statements that claim and complete, one batch of 100 after the other, without anything around."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    connection.execute("PRAGMA synchronous = FULL")
    groups = json.dumps([row[0] for row in connection.execute("SELECT grp FROM workerctx_groups")])
    started = perf_counter()
    done = 0
    while True:
        claim_id = new_id()
        connection.execute("BEGIN IMMEDIATE")
        found = json.loads(connection.execute(SQLITE.candidates, (1, groups, 100, 100)).fetchone()[0])
        if not found:
            connection.execute("COMMIT")
            break
        numbers = json.dumps([seq for seq, _, _ in found])
        connection.execute(SQLITE.lease, (1, claim_id, "bench", 2, 1, 1, numbers))
        json.loads(connection.execute(SQLITE.job_rows, (1, numbers)).fetchone()[0])
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        finished = json.dumps([[seq, claim_id, "null"] for seq, _, _ in found])
        assert connection.execute(SQLITE.complete, (3, finished, 1)).rowcount == len(found)
        connection.execute("COMMIT")
        done += len(found)
    connection.close()
    return done / (perf_counter() - started)


async def _single(report: Report, folder: Path, count: int) -> None:
    """Compare 64 tasks that each enqueue, claim and complete, grouped and with one transaction for each call."""

    async def cycle(storage: Storage, cycles: int) -> None:
        for _ in range(cycles):
            await storage.jobs.enqueue(EnqueueRequest("noop", PAYLOAD))
            claimed = await storage.jobs.claim("bench")
            assert claimed is not None
            await storage.jobs.complete(claimed[1].id)

    async def rate(storage: Storage, tasks: int, cycles: int) -> float:
        started = perf_counter()
        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(cycle, storage, cycles)
        return 3 * tasks * cycles / (perf_counter() - started)

    grouped: list[float] = []
    separate: list[float] = []
    for turn in range(3):
        async with connect(_url(folder, f"grouped{turn}")) as storage:
            grouped.append(await rate(storage, 64, count // 64))
        alone = connect(_url(folder, f"separate{turn}"))
        alone._writer._max_batch = 1  # type: ignore[attr-defined]
        async with alone:
            separate.append(await rate(alone, 64, max(1, count // 640)))
    before, after = statistics.median(separate), statistics.median(grouped)
    report.line("single calls of 64 tasks, one transaction each", before, "calls/s")
    report.line("single calls of 64 tasks", after, "calls/s")
    report.line("  of one transaction each", after / before, "x", ">= 10")


async def _flat(report: Report, folder: Path, large: int) -> None:
    """Claim from tables with a million rows of every sort that a worker cannot use, and from an empty one."""

    async def fill(storage: Storage, count: int, requests: Callable[[int], list[EnqueueRequest]]) -> None:
        for start in range(0, count, 20_000):
            await storage.jobs.enqueue_bulk(requests(min(20_000, count - start)))

    async def finished(storage: Storage) -> None:
        await fill(storage, large, _requests)
        while claimed := await storage.jobs.claim_many("bench", limit=5_000):
            await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])

    cases: dict[str, Callable[[Storage], Awaitable[None]]] = {
        "an empty table": lambda storage: fill(storage, 0, _requests),
        f"{large:,} queued": lambda storage: fill(storage, large, _requests),
        f"{large:,} finished": finished,
        f"{large:,} of an unknown kind, at the head": lambda storage: fill(
            storage, large, lambda n: _requests(n, "unknown", priority=9)
        ),
        f"{large:,} of a foreign label, at the head": lambda storage: fill(
            storage, large, lambda n: _requests(n, priority=9, required_labels=("gpu",))
        ),
        f"{large:,} in the future": lambda storage: fill(storage, large, lambda n: _requests(n, delay=86_400.0)),
    }
    paths: dict[str, Path] = {}
    for number, (name, prepare) in enumerate(cases.items()):
        paths[name] = folder / f"flat{number}.db"
        async with connect(f"sqlite:///{paths[name]}") as storage:
            await prepare(storage)
    latencies: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(3):
        for name, path in paths.items():
            # Without waiting for the disk, whose moods would hide what the table costs.
            async with connect(f"sqlite:///{path}?synchronous=off") as storage:
                latencies[name] += await _claim_latencies(storage)
    medians = {name: statistics.median(values) * 1e6 for name, values in latencies.items()}
    base = medians["an empty table"]
    for name, median in medians.items():
        report.line(f"claim 1, {name}", median, "us", f"{median / base:.2f}x (<= 1.5)")


async def _claim_latencies(storage: Storage) -> list[float]:
    found: list[float] = []
    await storage.jobs.enqueue_bulk(_requests(300))
    for turn in range(300):
        started = perf_counter()
        claimed = await storage.jobs.claim("bench", kinds=("noop",))
        if turn >= 50:
            found.append(perf_counter() - started)
        assert claimed is not None
        await storage.jobs.complete(claimed[1].id)
    return found


async def _idle(report: Report, folder: Path) -> None:
    """Wait for jobs that do not come, and see what the process pays for it."""
    async with connect(_url(folder, "idle")) as storage, storage.jobs.wakeups() as wakeups:
        await wakeups.wait(0.2)
        before, started = process_time(), perf_counter()
        while perf_counter() - started < 5:
            await wakeups.wait(5)
        spent = (process_time() - before) / (perf_counter() - started)
    report.line("idle wait, sqlite", 100 * spent, "% of a core", "< 0.5")


async def _memory(report: Report, count: int) -> None:
    async with connect("memory://") as storage:
        await storage.jobs.enqueue_bulk(_requests(100))
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            await storage.jobs.enqueue_bulk(_requests(count // 10))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    report.line("memory per queued job, memory store", (after - before) / count, "bytes", "< 1,000")
