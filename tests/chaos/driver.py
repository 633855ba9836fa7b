"""Kill and freeze worker processes and their store, and account for every job afterwards.

``python tests/chaos/driver.py --seconds N [--store memory|sqlite|postgres|redis] [--outages] [--seed S]`` starts four
``workerctx worker`` processes, half of them on trio, and two producers. Workers get SIGKILL, SIGTERM and
SIGSTOP/SIGCONT (for longer than a lease lasts) at random, producers SIGKILL; with ``--outages`` the store goes away
and comes back as well: a server is killed or frozen, a file is locked. A store in memory has only one process, so
there its calls fail, hang and lose their answers, and worker loops are cancelled. It exits with 0 if

- every job whose enqueueing returned is in the store and has succeeded, once;
- no two runs had the same lease, and the store has the result of one of them;
- every other run is explained: its process was killed, or its worker gave it back or was told that the lease was lost;
- the store counted one attempt for each lease that expired during a run, and one for the run that succeeded;
- every process that was asked to stop ended with 0, and nobody logged an error (those excepted that are started while
  the store is away, which fail with 1 and are started again).
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import attrs
from stores import Store, store_for_chaos

from workerctx import WorkerConfig, WorkerLoop
from workerctx.errors import QueueError
from workerctx.queue import JobState
from workerctx.testing import Faults

if TYPE_CHECKING:
    from workerctx import JobRegistry
    from workerctx.queue import QueuedJob

WORKERS = 4
PRODUCERS = 2
LEASE = 0.6
FROZEN = 1.4
GONE = 1.0
BACKLOG = 1000
SETTINGS = {
    "WORKERCTX_LEASE_TTL": str(LEASE),
    "WORKERCTX_HEARTBEAT": str(LEASE / 4),
    "WORKERCTX_REAP_INTERVAL": "0.2",
    "WORKERCTX_CONCURRENCY": "20",
    "WORKERCTX_GRACE": "5",
    "WORKERCTX_HARD_LIMIT": "30",
    "WORKERCTX_LOG_FORMAT": "json",
    "WORKERCTX_LOG_LEVEL": "error",
}


async def produce(jobs: JobRegistry, dice: random.Random) -> None:
    """Enqueue, alone and in bulk, until killed."""
    from app import FOLDER, Log, chaos

    log = Log(Path(os.environ[FOLDER]), "producer")
    while True:
        try:
            # Enough that every worker always holds leases, and no more than can be finished in the end.
            if (await jobs.storage.jobs.counts())[JobState.QUEUED] < BACKLOG:
                outcomes = await jobs.enqueue_bulk([chaos.request(0)] * dice.choice([1, 50, 200]))
                for outcome in outcomes:
                    log.write("enqueued", outcome.id)
        except QueueError as exc:
            log.write("told", repr(exc))
        await anyio.sleep(dice.uniform(0, 0.05))


async def be_producer() -> None:
    """Enqueue in a process of its own."""
    from app import jobs

    async with jobs:
        await produce(jobs, random.Random())


@attrs.define
class Inside:
    """Worker loops of one process on a store in memory, and what is done to them."""

    jobs: JobRegistry
    dice: random.Random
    faults: Faults = attrs.field(factory=Faults)
    places: dict[str, anyio.CancelScope] = attrs.field(factory=dict)
    """The scopes of the running loops, by worker id."""
    killed: set[str] = attrs.field(factory=set)
    """Worker ids of the loops that were cancelled, perhaps while the store did not answer."""
    deeds: Counter[str] = attrs.field(factory=Counter)

    async def play(self, seconds: float) -> list[QueuedJob]:
        """Do it, and return every job at its end."""
        async with self.jobs:
            with self.faults.inject(self.jobs):
                async with anyio.create_task_group() as group:
                    for _ in range(WORKERS):
                        group.start_soon(self._serve)
                    group.start_soon(produce, self.jobs, self.dice)
                    with anyio.move_on_after(seconds):
                        while True:
                            await self._torment()
                    group.cancel_scope.cancel()
            return await finish(self.jobs)

    async def _serve(self) -> None:
        while True:
            loop = WorkerLoop(self.jobs, WorkerConfig.from_env(hard_limit=0.5))
            with anyio.CancelScope() as self.places[loop.worker_id]:
                await loop.run()

    async def _torment(self) -> None:
        await anyio.sleep(self.dice.uniform(0.05, 0.5))
        deed = self.dice.choice(["cancels", "failures", "answers lost", "hung calls", "hung renewals"])
        self.deeds[deed] += 1
        match deed:
            case "cancels":
                worker_id = self.dice.choice(list(self.places))
                self.places.pop(worker_id).cancel()
                self.killed.add(worker_id)
                return
            case "failures":
                fault, seconds = self.faults.fail("jobs.*", "renewer.*", "workers.*"), 0.5
            case "answers lost":
                fault, seconds = self.faults.fail("jobs.finish*", answer_lost=True), 0.2
            case "hung calls":
                fault, seconds = self.faults.hang("jobs.finish*"), LEASE * 2
            case _:
                fault, seconds = self.faults.hang("renewer.renew"), LEASE * 2
        with fault:
            await anyio.sleep(seconds)


@attrs.define
class Fleet:
    """The processes, and what is done to them."""

    folder: Path
    dice: random.Random
    outages: bool
    processes: dict[int, tuple[str, subprocess.Popen[bytes]]] = attrs.field(factory=dict)
    thaw: list[tuple[float, int]] = attrs.field(factory=list)
    leaving: list[subprocess.Popen[bytes]] = attrs.field(factory=list)
    killed: set[str] = attrs.field(factory=set)
    """Process ids; their runs may have been cut short."""
    deeds: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)
    started: int = 0

    def start(self, role: str) -> None:
        self.started += 1
        command = [sys.executable, __file__, "--role", "producer"]
        if role == "worker":
            backend = ("asyncio", "trio")[self.started % 2]
            command = [sys.executable, "-m", "workerctx", "worker", "app:jobs", "--backend", backend]
        with (self.folder / f"output-{role}-{self.started}.txt").open("wb") as output:
            place = Path(__file__).parent
            process = subprocess.Popen(command, cwd=place, stderr=output, stdout=subprocess.DEVNULL)
        self.processes[process.pid] = (role, process)

    def torment(self, until: float) -> None:
        while time.monotonic() < until:
            time.sleep(self.dice.uniform(0.05, 0.6))
            self._thaw(time.monotonic())
            self._replace_the_dead()
            frozen = {pid for _, pid in self.thaw}
            awake = [pid for pid in self.processes if pid not in frozen]
            if not awake:
                continue
            victim = self.dice.choice(awake)
            role, process = self.processes[victim]
            deed = self.dice.choice(["kill", "stop", "freeze", "freeze", "freeze"])
            if deed == "kill" or role == "producer":
                self.deeds["kills"] += 1
                self.killed.add(str(victim))
                process.kill()
                process.wait()
            elif deed == "stop":
                self.deeds["stops"] += 1
                process.terminate()
                self.leaving.append(process)
            elif len(frozen) < WORKERS - 1:
                self.deeds["freezes"] += 1
                os.kill(victim, signal.SIGSTOP)
                self.thaw.append((time.monotonic() + FROZEN, victim))
                continue
            else:
                continue
            del self.processes[victim]
            self.start(role)

    def _replace_the_dead(self) -> None:
        """Do what a service manager does with processes that end by themselves; they may if the store is not there."""
        for pid, (role, process) in list(self.processes.items()):
            status = process.poll()
            if status is None:
                continue
            if status == 1 and self.outages:
                self.deeds["starts without a store"] += 1
            else:
                self.wrong.append(f"a {role} ended by itself with {status}")
            del self.processes[pid]
            self.start(role)

    def _thaw(self, now: float) -> None:
        for due, pid in [entry for entry in self.thaw if entry[0] <= now]:
            os.kill(pid, signal.SIGCONT)
            self.thaw.remove((due, pid))

    def settle(self) -> None:
        """Let the late ones finish, and stop everybody."""
        self._thaw(float("inf"))
        time.sleep(1.0)
        self._replace_the_dead()
        for role, process in self.processes.values():
            if role == "producer":
                process.kill()
                process.wait()
            else:
                process.terminate()
                self.leaving.append(process)
        for process in self.leaving:
            try:
                status = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            # A process that was asked to stop while it was starting has no handler yet.
            if status not in {0, -signal.SIGTERM, *([1] if self.outages else [])}:
                self.wrong.append(f"process {process.pid} was asked to stop and ended with {status}")

    def complaints(self) -> list[str]:
        """Return the last line of what each process said, if it should have said nothing."""
        said = [(path, path.read_text().strip()) for path in self.folder.glob("output-*.txt")]
        # With a server that goes away, those that start meanwhile say so.
        return [
            f"{path.name}: {text.splitlines()[-1]}"
            for path, text in said
            if text and not (self.outages and any(name in text for name in ("StoreUnavailable", "StoreBusy")))
        ]


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


def play(folder: Path, store: Store, seconds: float, dice: random.Random, *, outages: bool) -> list[str]:
    """Do it, print what happened, and return what is wrong."""
    from app import jobs

    fleet = Fleet(folder, dice, outages)
    for role, count in (("worker", WORKERS), ("producer", PRODUCERS)):
        for _ in range(count):
            fleet.start(role)
    patience = time.monotonic() + 60
    while not read(folder)["ran"] and time.monotonic() < patience:
        time.sleep(0.1)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        fleet.torment(time.monotonic() + min(left, dice.uniform(1, 3)))
        if outages:
            fleet.deeds[store.outage(GONE, dice)] += 1
    fleet.settle()
    finished = anyio.run(finish, jobs)
    account = Account(read(folder), finished, fleet.killed)
    wrong = fleet.wrong + fleet.complaints() + account.wrong()
    if not account.jobs:
        wrong.append("there were no jobs: that proved nothing")
    if fleet.deeds["freezes"] > 10 and not outages and not account.lines["lost"] + account.lines["refused"]:
        wrong.append("nobody who came too late was told: the freezes proved nothing")
    print(", ".join(f"{count} {what}" for what, count in (account.figures | fleet.deeds).items()))
    return wrong


def play_inside(folder: Path, seconds: float, dice: random.Random) -> list[str]:
    """Do it in this process on both event loops, print what happened, and return what is wrong."""
    from app import jobs

    logging.disable()
    wrong: list[str] = []
    for backend in ("asyncio", "trio"):
        inside = Inside(jobs, dice)
        finished = anyio.run(inside.play, seconds / 2, backend=backend)
        account = Account(read(folder), finished, inside.killed)
        print(", ".join(f"{count} {what}" for what, count in (account.figures | inside.deeds).items()))
        wrong += account.wrong()
        for path in folder.glob("*.log"):
            path.write_text("")
    return wrong


def main() -> int:
    """Run the producer, or the whole drama."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--store", choices=["memory", "sqlite", "postgres", "redis"], default="sqlite")
    parser.add_argument("--outages", action="store_true", help="take the store away, too")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--role", choices=["producer"])
    options = parser.parse_args()
    if options.role:
        anyio.run(be_producer)
        return 0
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"{options.store}, seed {seed}: ", end="", flush=True)
    with tempfile.TemporaryDirectory(prefix="workerctx-chaos-") as name:
        folder = Path(name)
        with store_for_chaos(options.store, folder) as store:
            os.environ |= {"WORKERCTX_URL": store.url, "CHAOS_FOLDER": name, **SETTINGS}
            dice = random.Random(seed)
            if options.store == "memory":
                wrong = play_inside(folder, options.seconds, dice)
            else:
                wrong = play(folder, store, options.seconds, dice, outages=options.outages)
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
