"""Worker processes that share nothing: what a machine has for two of them, and for four, whatever their store."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from typing import IO

import anyio

from workerctx import JobCtx, JobRegistry, WorkerConfig, WorkerLoop

jobs = JobRegistry("memory://")


@jobs.register(timeout=30)
async def noop(ctx: JobCtx, number: int) -> None:
    """Do nothing, with a context and a timeout."""


def together(number: int, processes: int, backend: str) -> float:
    """Return the jobs per second of processes that each run their part of them from their own memory."""
    arguments = [sys.executable, "-m", "tests.bench.unshared", str(number // processes), backend]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(processes)
        ]
        stack.callback(lambda: [worker.kill() for worker in workers])
        for worker in workers:
            _expect(worker.stdout, "ready")
        began = time.perf_counter()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            _expect(worker.stdout, "done")
        return number / (time.perf_counter() - began)


def _expect(output: IO[str] | None, word: str) -> None:
    assert output is not None
    said = output.readline().strip()
    assert said == word, f"a worker process said {said!r} and not {word!r}"


async def work(number: int) -> None:
    """Run so many jobs as soon as a line comes."""
    async with jobs:
        await jobs.enqueue_bulk([noop.request(index) for index in range(number)])
        loop = WorkerLoop(jobs, WorkerConfig(concurrency=100))
        print("ready", flush=True)
        sys.stdin.readline()
        await loop.run(burst=True)
        print("done", flush=True)


if __name__ == "__main__":
    anyio.run(work, int(sys.argv[1]), backend=sys.argv[2])
