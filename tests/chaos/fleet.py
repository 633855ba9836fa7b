"""The processes of a chaos, and what is done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import random

WORKERS = 4
LEASE = 0.6
FROZEN = 1.4
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


@attrs.define
class Fleet:
    """The processes, and what is done to them."""

    folder: Path
    dice: random.Random
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
        command = [sys.executable, str(Path(__file__).with_name("driver.py")), "--role", "producer"]
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
        """Do what a service manager does with processes that end by themselves, which is wrong."""
        for pid, (role, process) in list(self.processes.items()):
            status = process.poll()
            if status is None:
                continue
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
            if status not in {0, -signal.SIGTERM}:
                self.wrong.append(f"process {process.pid} was asked to stop and ended with {status}")

    def complaints(self) -> list[str]:
        """Return the last line of what each process said, if it should have said nothing."""
        said = [(path, path.read_text().strip()) for path in self.folder.glob("output-*.txt")]
        return [f"{path.name}: {text.splitlines()[-1]}" for path, text in said if text]
