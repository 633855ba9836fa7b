"""Run workers for long on jobs of many kinds, and see that nothing grows.

``python tests/chaos/soak.py --seconds N [--store memory|sqlite|postgres|redis]`` runs one process on
asyncio and one on trio, side by side. In each, one `WorkerLoop` serves all the time and another one is started and
stopped again and again, while jobs succeed, fail, are retried, put off, throttled, cancelled, time out, run in threads
and in processes, wait for each other and come from a schedule. Finished jobs are pruned.

After a fourth of the time it looks, up to twenty times a second, at resident memory, threads, open files, tasks, child
processes and the size of the store. It exits with 0 if none of them has a trend, and if every job has ended once, in
the way that its kind ends.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import attrs
from stores import store_for_chaos

from workerctx import WorkerConfig, WorkerLoop
from workerctx.queue import Lagged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workerctx.queue import JobState, Storage

BACKLOG = 400
WARM_UP = 0.25
CONFIG = WorkerConfig(concurrency=20, heartbeat=0.5, reap_interval=0.5, grace=20)
ALLOWED = {"memory (MB)": 3.0, "threads": 3.0, "files": 6.0, "tasks": 4.0, "children": 2.0, "store (MB)": 4.0}
"""By how much a figure may be larger in the last third than in the first; memory also by 3 %."""


def resident() -> float:
    """Return the resident memory of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@attrs.define
class Samples:
    """What was seen, and whether it grows."""

    folder: Path
    rows: list[dict[str, float]] = attrs.field(factory=list)

    def take(self) -> None:
        """Look at everything."""
        files = list(self.folder.glob("jobs.db*"))
        self.rows.append(
            {
                "memory (MB)": resident(),
                "threads": len(list(Path("/proc/self/task").iterdir())),
                "files": len(list(Path("/proc/self/fd").iterdir())),
                "tasks": len(anyio.get_running_tasks()),
                "children": sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children")),
                "store (MB)": sum(path.stat().st_size for path in files) / 2**20,
            }
        )

    def trends(self) -> dict[str, tuple[float, float]]:
        """Return the 10th percentiles of the first and of the last third of each figure: what leaks lifts the floor."""
        third = max(2, len(self.rows) // 3)
        first, last = self.rows[:third], self.rows[-third:]
        return {name: (_quiet(row[name] for row in first), _quiet(row[name] for row in last)) for name in ALLOWED}

    def wrong(self) -> list[str]:
        """Return what grows."""
        return [
            f"{name} grew from {first:.1f} to {last:.1f}"
            for name, (first, last) in self.trends().items()
            if last - first > ALLOWED[name] + (first * 0.03 if name.startswith("memory") else 0.0)
        ]


def _quiet(values: Iterable[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[0]


async def serve_on_and_off(jobs: Any, until: float) -> None:
    """Start a worker and stop it, again and again."""
    while anyio.current_time() < until:
        async with WorkerLoop(jobs, CONFIG):
            await anyio.sleep(0.5)


async def feed(storage: Storage, until: float) -> Counter[str]:
    """Enqueue, prune, and return how many jobs of each kind there were."""
    from kinds import enqueue_some

    added: Counter[str] = Counter()
    while anyio.current_time() < until:
        waiting = sum(count for state, count in (await storage.jobs.counts()).items() if not state.is_final)
        if waiting < BACKLOG:
            added.update(await enqueue_some(storage))
        await storage.jobs.prune(1.0)
        await anyio.sleep(0.05)
    return added


async def observe(samples: Samples, seconds: float) -> None:
    """Look again and again, once everything is warm."""
    await anyio.sleep(seconds * WARM_UP)
    for number in itertools.count():
        if number % 10 == 0:
            gc.collect()
        samples.take()
        await anyio.sleep(max(0.05, seconds / 2000))


async def count_endings(storage: Storage, ended: Counter[tuple[str, JobState]], *, task_status: Any) -> None:
    """Count the jobs that end, by kind and state, as events tell."""
    from kinds import ending

    async with storage.jobs.subscribe(capacity=100_000) as events:
        task_status.started()
        async for event in events:
            assert not isinstance(event, Lagged), event
            if (found := ending(event)) is not None:
                ended[found] += 1


async def soak(seconds: float, folder: Path) -> dict[str, Any]:
    """Do it on this event loop, and return what was seen."""
    from kinds import EXPECTED, LIMIT, jobs

    logging.disable()
    samples = Samples(folder)
    ended: Counter[tuple[str, JobState]] = Counter()
    async with jobs, anyio.create_task_group() as watching:
        storage = jobs.storage
        await watching.start(lambda *, task_status: count_endings(storage, ended, task_status=task_status))
        await storage.rate_limits.configure(LIMIT.scope, capacity=LIMIT.capacity, per=LIMIT.per)
        until = anyio.current_time() + seconds
        began = time.process_time()
        async with WorkerLoop(jobs, CONFIG), anyio.create_task_group() as group:
            group.start_soon(serve_on_and_off, jobs, until)
            group.start_soon(observe, samples, seconds)
            added = await feed(storage, until)
            group.cancel_scope.cancel()
        busy = (time.process_time() - began) / seconds
        with anyio.move_on_after(60):
            while any(count for state, count in (await storage.jobs.counts()).items() if not state.is_final):
                await WorkerLoop(jobs, CONFIG).run(burst=True)
        await anyio.sleep(0.2)  # for the last events
        watching.cancel_scope.cancel()
    wrong = samples.wrong()
    wrong += [
        f"{added[handler.kind]} jobs {handler.kind}, of which {ended[handler.kind, state]} are {state}"
        for handler, state in EXPECTED.items()
        if ended[handler.kind, state] != added[handler.kind]
    ]
    return {
        "jobs": sum(ended.values()),
        "cpu": busy,
        "samples": len(samples.rows),
        "figures": samples.trends(),
        "wrong": wrong,
    }


def start(url: str, backend: str, seconds: float, folder: Path) -> subprocess.Popen[str]:
    """Start the process of one event loop."""
    return subprocess.Popen(
        [sys.executable, __file__, "--seconds", str(seconds), "--backend", backend, "--folder", str(folder)],
        env=os.environ | {"WORKERCTX_URL": url},
        stdout=subprocess.PIPE,
        text=True,
    )


def report(backend: str, process: subprocess.Popen[str]) -> bool:
    """Print what a process has seen, and return whether all is well."""
    output, _ = process.communicate()
    if process.returncode:
        print(f"{backend}: ended with {process.returncode}")
        return False
    seen = json.loads(output)
    print(f"{backend}: {seen['jobs']} jobs, {seen['cpu']:.0%} of a core, {seen['samples']} samples")
    for name, (first, last) in seen["figures"].items():
        print(f"  {name:<12} {first:>8.1f} {last:>8.1f}")
    for line in seen["wrong"]:
        print(f"  WRONG: {line}")
    return not seen["wrong"]


def main() -> int:
    """Soak one event loop, or both in processes of their own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--store", choices=["memory", "sqlite", "postgres", "redis"], default="sqlite")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        print(json.dumps(anyio.run(soak, options.seconds, options.folder, backend=options.backend)))
        return 0
    print(f"{options.store}, {options.seconds:g} seconds; 10th percentiles of the first and the last third")
    with tempfile.TemporaryDirectory(prefix="workerctx-soak-") as name, ExitStack() as stores:
        processes: dict[str, subprocess.Popen[str]] = {}
        for backend in ("asyncio", "trio"):
            folder = Path(name, backend)
            folder.mkdir()
            store = stores.enter_context(store_for_chaos(options.store, folder))
            processes[backend] = start(store.url, backend, options.seconds, folder)
        well = [report(backend, process) for backend, process in processes.items()]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
