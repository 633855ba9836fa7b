"""What becomes of the jobs of a chaos: they are brought to their end, and every run is held against a cause."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import anyio
import attrs

from workerctx import WorkerConfig, WorkerLoop
from workerctx.queue import JobState

if TYPE_CHECKING:
    from pathlib import Path

    from workerctx import JobRegistry
    from workerctx.queue import QueuedJob


async def finish(jobs: JobRegistry) -> list[QueuedJob]:
    """Bring every job to its end with one more worker, and return all of them."""
    found: list[QueuedJob] = []
    async with jobs:
        with anyio.move_on_after(120):
            while any(count for state, count in (await jobs.storage.jobs.counts()).items() if not state.is_final):
                await jobs.storage.advance(1000)
                await jobs.storage.jobs.reap_expired_leases()
                await WorkerLoop(jobs, WorkerConfig(concurrency=50)).run(burst=True)
        cursor = None
        while True:
            page = await jobs.storage.jobs.list(limit=1000, cursor=cursor)
            found += page.jobs
            cursor = page.next_cursor
            if cursor is None:
                return found


@attrs.frozen
class Account:
    """What processes have said, held against what the store knows."""

    lines: dict[str, list[list[str]]]
    jobs: list[QueuedJob]
    killed: set[str]

    @property
    def figures(self) -> dict[str, int]:
        """What happened, in numbers."""
        lines = self.lines
        runs = len(lines["ran"])
        return {
            "jobs": len(self.jobs),
            "told": len(lines["enqueued"]),
            "producers' errors": len(lines["told"]),
            "runs": runs,
            "reruns": runs - len({words[1] for words in lines["ran"]}),
            "given back": len(lines["released"]),
            "lost in a run": len(lines["lost"]),
            "refused after it": len(lines["refused"]),
        }

    def wrong(self) -> list[str]:
        """Return what cannot be explained."""
        wrong: list[str] = []
        lines = self.lines
        known = {job.id for job in self.jobs}
        wrong += [f"lost: {words[1]}" for words in lines["enqueued"] if words[1] not in known]
        leases = Counter(words[2] for words in lines["ran"])
        wrong += [f"run twice under one lease: {lease}" for lease, count in leases.items() if count > 1]
        runs: dict[str, dict[str, set[str]]] = defaultdict(dict)
        for _, job_id, lease, *where in lines["ran"]:
            runs[job_id][lease] = set(where)
        lost = {words[1] for words in lines["lost"] + lines["refused"] + lines["released"]}
        for job in self.jobs:
            expired = sum(entry.error.kind == "lease expired" for entry in job.error_history)
            if job.state is not JobState.SUCCEEDED:
                wrong.append(f"not succeeded: {job.id} is {job.state}")
            elif job.result not in runs[job.id]:
                wrong.append(f"a result of no run: {job.id}")
            elif job.attempt != 1 + expired:
                wrong.append(f"{job.id} has attempt {job.attempt} and {expired} expired leases")
            else:
                wrong += [
                    f"a run that nothing explains: {job.id} under {lease} in {where}, not under {job.result}"
                    for lease, where in runs[job.id].items()
                    if lease != job.result and lease not in lost and not where & self.killed
                ]
        return wrong


def read(folder: Path) -> dict[str, list[list[str]]]:
    """Return the lines that processes have written, by their first word."""
    lines: dict[str, list[list[str]]] = defaultdict(list)
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            words = line.split("\t")
            lines[words[0]].append(words)
    return lines
