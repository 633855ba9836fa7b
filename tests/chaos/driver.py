"""Kill and freeze processes that share one SQLite file, and account for every job afterwards.

``python tests/chaos/driver.py --seconds N [--seed S]`` starts four workers and two producers, sends SIGKILL and
SIGSTOP/SIGCONT (for longer than a lease lasts) at random, and exits with 0 if: every job whose enqueueing returned
has ended exactly once, none succeeded twice by record, every repeated run follows an expired lease, a worker that
came too late was refused, and no error ever reached a caller.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import anyio
import attrs

from workerctx.errors import LeaseLost
from workerctx.queue import CompleteLease, Constant, EnqueueRequest, JobState, connect

WORKERS = 4
PRODUCERS = 2
LEASE = 0.5
FROZEN = 1.2
ATTEMPTS = 1000
BACKLOG = 1000


class Log:
    """Lines that survive a kill, because each is one write."""

    def __init__(self, folder: Path, role: str) -> None:
        path = folder / f"{role}-{os.getpid()}-{time.monotonic_ns()}.log"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *words: str) -> None:
        os.write(self._file, ("\t".join(words) + "\n").encode())


async def work(folder: Path, backlog: int = 25) -> None:
    """Claim, run and complete until killed."""
    log = Log(folder, "worker")
    name = f"worker-{os.getpid()}"
    async with connect(f"sqlite:///{folder}/jobs.db") as storage:
        jobs = storage.jobs
        async with jobs.wakeups() as wakeups:
            while True:
                await jobs.reap_expired_leases()
                claimed = await jobs.claim_many(name, lease_ttl=LEASE, limit=backlog)
                if not claimed:
                    await wakeups.wait(0.5)
                    continue
                for job, lease in claimed:
                    log.write("ran", job.id, lease.id)
                await anyio.sleep(0.08)
                outcomes = await jobs.finish_many([CompleteLease.of(lease.id, job.id) for job, lease in claimed])
                for (job, lease), outcome in zip(claimed, outcomes, strict=True):
                    if outcome is None:
                        log.write("succeeded", job.id, lease.id)
                    elif isinstance(outcome, LeaseLost):
                        log.write("refused", job.id, lease.id)
                    else:
                        log.write("error", repr(outcome))


async def produce(folder: Path) -> None:
    """Enqueue, alone and in bulk, until killed."""
    log = Log(folder, "producer")
    dice = random.Random()
    async with connect(f"sqlite:///{folder}/jobs.db") as storage:
        while True:
            request = EnqueueRequest("chaos", {"from": os.getpid()}, max_attempts=ATTEMPTS, retry=Constant(0.0))
            # Enough that every worker always holds leases, and no more than can be finished in the end.
            if (await storage.jobs.counts())[JobState.QUEUED] < BACKLOG:
                outcomes = await storage.jobs.enqueue_bulk([request] * dice.choice([1, 50, 200]))
                for outcome in outcomes:
                    log.write("enqueued", outcome.id)
            await anyio.sleep(dice.uniform(0, 0.05))


@attrs.define
class Fleet:
    """The processes, and what is done to them."""

    folder: Path
    dice: random.Random
    processes: dict[int, tuple[str, subprocess.Popen[bytes]]] = attrs.field(factory=dict)
    thaw: list[tuple[float, int]] = attrs.field(factory=list)
    kills: int = 0
    freezes: int = 0

    def start(self, role: str) -> None:
        process = subprocess.Popen(
            [sys.executable, __file__, "--role", role, "--folder", str(self.folder)],
            stderr=(self.folder / f"stderr-{role}-{time.monotonic_ns()}.txt").open("wb"),
        )
        self.processes[process.pid] = (role, process)

    def torment(self, until: float) -> None:
        while time.monotonic() < until:
            time.sleep(self.dice.uniform(0.02, 0.25))
            self._thaw(time.monotonic())
            frozen = {pid for _, pid in self.thaw}
            awake = [pid for pid in self.processes if pid not in frozen]
            if not awake:
                continue
            victim = self.dice.choice(awake)
            if self.dice.random() < 0.5:
                role, process = self.processes.pop(victim)
                process.kill()
                process.wait()
                self.kills += 1
                self.start(role)
            elif len(frozen) < WORKERS - 1:
                os.kill(victim, signal.SIGSTOP)
                self.freezes += 1
                self.thaw.append((time.monotonic() + FROZEN, victim))

    def _thaw(self, now: float) -> None:
        for due, pid in [entry for entry in self.thaw if entry[0] <= now]:
            os.kill(pid, signal.SIGCONT)
            self.thaw.remove((due, pid))

    def settle(self) -> None:
        """Let the late ones finish, then end everybody."""
        self._thaw(float("inf"))
        time.sleep(1.0)
        for _, process in self.processes.values():
            process.kill()
            process.wait()


async def finish(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Bring every job to its end, and return how many there are in each state and what is wrong with any."""
    wrong: list[str] = []
    async with connect(f"sqlite:///{folder}/jobs.db") as storage:
        jobs = storage.jobs
        deadline = anyio.current_time() + 60
        while True:
            await storage.advance(1000)
            await jobs.reap_expired_leases()
            while claimed := await jobs.claim_many("last", limit=1000):
                await jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
            counts = {str(state): count for state, count in (await jobs.counts()).items() if count}
            if set(counts) <= {"succeeded"} or anyio.current_time() > deadline:
                break
        lines = _read(folder)
        runs = Counter(words[1] for words in lines["ran"])
        successes = Counter(words[1] for words in lines["succeeded"])
        wrong += [f"succeeded twice: {job_id}" for job_id, count in successes.items() if count > 1]
        wrong += ["error: " + " ".join(words[1:]) for words in lines["error"]]
        known: set[str] = set()
        cursor = None
        while True:
            page = await jobs.list(limit=5000, cursor=cursor)
            for job in page.jobs:
                known.add(job.id)
                expired = sum(entry.error.kind == "lease expired" for entry in job.error_history)
                if job.state is not JobState.SUCCEEDED:
                    wrong.append(f"not succeeded: {job.id} is {job.state}")
                if job.attempt != 1 + expired or runs[job.id] > job.attempt:
                    wrong.append(f"unexplained run: {job.id} ran {runs[job.id]} times, attempt {job.attempt}")
            cursor = page.next_cursor
            if cursor is None:
                break
        wrong += [f"lost: {words[1]}" for words in lines["enqueued"] if words[1] not in known]
        counts |= {
            "enqueued and told": len(lines["enqueued"]),
            "ran again": sum(count - 1 for count in runs.values()),
            "refused": len(lines["refused"]),
        }
    return counts, wrong


def _read(folder: Path) -> dict[str, list[list[str]]]:
    lines: dict[str, list[list[str]]] = defaultdict(list)
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            words = line.split("\t")
            lines[words[0]].append(words)
    return lines


def main() -> int:
    """Run one role, or the whole drama."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--role", choices=["worker", "producer"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.role:
        anyio.run({"worker": work, "producer": produce}[options.role], options.folder)
        return 0
    seed = random.randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="workerctx-chaos-") as name:
        folder = Path(name)
        fleet = Fleet(folder, random.Random(seed))
        for role, count in (("worker", WORKERS), ("producer", PRODUCERS)):
            for _ in range(count):
                fleet.start(role)
        time.sleep(1.0)
        fleet.torment(time.monotonic() + options.seconds)
        fleet.settle()
        counts, wrong = anyio.run(finish, folder)
        wrong += [
            f"{path.name}: {text.strip().splitlines()[-1]}"
            for path in folder.glob("stderr-*.txt")
            if (text := path.read_text())
        ]
    if fleet.freezes > 10 and not counts["refused"]:
        wrong.append("nobody who came too late was refused: the freezes proved nothing")
    print(f"seed {seed}: {fleet.kills} kills, {fleet.freezes} freezes; {counts}")
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
