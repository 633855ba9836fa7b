"""Kill remote workers, their gateways and the store, cut and stall what is between them, and account for every job.

``python tests/chaos/remote.py --seconds N [--store sqlite|postgres|redis] [--seed S]`` starts two gateways on one store
and three workers behind a proxy that leads to either of them. Workers and gateways get SIGKILL, workers
SIGSTOP/SIGCONT as well, the proxy cuts and stalls, and the store goes away and comes back. It exits with 0 if

- every job whose enqueueing returned has succeeded, once, and the store has the result of one of its runs;
- nothing was computed twice without a reason: each other run was in a process that was killed, or its worker gave the
  job back or was told that the lease was lost. A result that was computed before a cut is told after it;
- every process that was asked to stop ended with 0.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import attrs
from stores import Store, store_for_chaos

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.integrations.proxy import Proxy  # noqa: E402 - the root is found above
from workerctx import stop_on_signals  # noqa: E402
from workerctx.errors import QueueError  # noqa: E402
from workerctx.queue import Constant, EnqueueRequest, JobState, connect  # noqa: E402
from workerctx.remote import ReconnectConfig, RemoteConfig, Worker  # noqa: E402
from workerctx.testing import wait_until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workerctx.queue import Storage

TOKEN = "a token that nobody guesses"
FOLDER = "CHAOS_FOLDER"
WORKERS = 3
LEASE = 3.0
BACKLOG = 300
SETTLING = 60.0
PATIENCE = ReconnectConfig(initial_backoff=0.05, max_backoff=1.0, max_attempts=100_000)


async def be_gateway(url: str, port: int) -> None:
    """Serve until stopped."""
    from workerctx_starlette.gateway import Gateway, GatewayConfig, Identity, bearer_tokens
    from workerctx_starlette.gateway._server import GatewayServer

    config = GatewayConfig(
        lease_ttl=LEASE,
        heartbeat=0.3,
        silence=1.5,
        resume_window=LEASE,
        reap_interval=0.3,
        poll_interval=0.3,
        grace=5,
        store_patience=None,  # it may be started while the store is away
    )
    gateway = Gateway(url, authenticate=bearer_tokens({TOKEN: Identity("chaos")}), config=config)
    with stop_on_signals(gateway.context):
        await GatewayServer(gateway, socket.create_server(("127.0.0.1", port)), {}).run()


async def be_worker(endpoint: str, journal: Path) -> None:
    """Run jobs until stopped."""
    from app import jobs

    config = RemoteConfig(
        endpoint=endpoint, credentials=TOKEN, max_concurrency=10, reconnect=PATIENCE, journal=journal, grace=5
    )
    worker = Worker.builder(config).register(jobs).build()
    with stop_on_signals(worker.context):
        await worker.run()


@attrs.define
class Drama:
    """The processes, what is between them, and what is done to them."""

    folder: Path
    store: Store
    dice: random.Random
    proxy: Proxy
    ports: Sequence[int]
    gateways: dict[int, subprocess.Popen[bytes]] = attrs.field(factory=dict)
    workers: dict[int, subprocess.Popen[bytes]] = attrs.field(factory=dict)
    frozen: list[tuple[float, subprocess.Popen[bytes]]] = attrs.field(factory=list)
    killed: set[int] = attrs.field(factory=set)
    deeds: Counter[str] = attrs.field(factory=Counter)
    enqueued: list[str] = attrs.field(factory=list)

    def start(self) -> None:
        for place in range(2):
            self._start_gateway(place)
        for place in range(WORKERS):
            self._start_worker(place)

    def torment(self, until: float) -> None:
        while time.monotonic() < until:
            time.sleep(self.dice.uniform(0.05, 0.4))
            self._thaw(time.monotonic())
            deed = self.dice.choices(
                ["cut", "stall", "worker killed", "worker frozen", "gateway killed", "store"], [6, 3, 4, 2, 3, 1]
            )[0]
            self.deeds[self._do(deed)] += 1

    def _do(self, deed: str) -> str:
        match deed:
            case "cut":
                self._turn()
                self.proxy.cut()
            case "stall":
                with self.proxy.stalling(to=self.dice.choice(["client", "server", None])):
                    time.sleep(self.dice.uniform(0.05, 0.6))
                    if self.dice.random() < 0.5:
                        self.proxy.cut()
            case "worker killed":
                place, process = self.dice.choice(list(self.workers.items()))
                self.killed.add(process.pid)
                _kill(process)
                self.frozen = [entry for entry in self.frozen if entry[1] is not process]
                self._start_worker(place)
            case "worker frozen":
                process = self.dice.choice(list(self.workers.values()))
                process.send_signal(signal.SIGSTOP)
                self.frozen.append((time.monotonic() + self.dice.uniform(0.5, 2.5 * LEASE), process))
            case "gateway killed":
                place = self.dice.randrange(2)
                self.proxy.upstream = ("127.0.0.1", self.ports[1 - place])
                _kill(self.gateways[place])
                self._start_gateway(place)
            case _:
                return self.store.outage(self.dice.uniform(0.1, 0.5), self.dice)
        return deed

    def settle(self) -> None:
        self._thaw(float("inf"))
        self._turn()

    def stop(self) -> list[str]:
        """End everybody, and return what went wrong with that."""
        wrong: list[str] = []
        for name, processes in (("worker", self.workers), ("gateway", self.gateways)):
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                status = process.wait(30)
                if status:
                    wrong.append(f"a {name} that was asked to stop ended with {status}")
        return wrong

    def _turn(self) -> None:
        self.proxy.upstream = ("127.0.0.1", self.dice.choice(self.ports))

    def _thaw(self, now: float) -> None:
        for entry in [entry for entry in self.frozen if entry[0] <= now]:
            entry[1].send_signal(signal.SIGCONT)
            self.frozen.remove(entry)

    def _start_gateway(self, place: int) -> None:
        self.gateways[place] = self._run("gateway", "--url", self.store.url, "--port", str(self.ports[place]))

    def _start_worker(self, place: int) -> None:
        backend = ("asyncio", "trio")[place % 2]
        endpoint, journal = f"ws://127.0.0.1:{self.proxy.port}", self.folder / f"journal-{place}"
        self.workers[place] = self._run("worker", "--url", endpoint, "--journal", str(journal), "--backend", backend)

    def _run(self, role: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"stderr-{role}-{time.monotonic_ns()}.txt").open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, __file__, "--role", role, *options],
                env={**os.environ, FOLDER: str(self.folder)},
                stderr=stderr,
            )


async def produce(drama: Drama, done: anyio.Event) -> None:
    """Enqueue until told to end."""
    async with connect(drama.store.url) as storage:
        while not done.is_set():
            requests = [EnqueueRequest("chaos", {"number": 0}, max_attempts=1000, retry=Constant(0.0, jitter=False))]
            try:
                if (await storage.jobs.counts())[JobState.QUEUED] < BACKLOG:
                    outcomes = await storage.jobs.enqueue_bulk(requests * drama.dice.choice([1, 20, 50]))
                    drama.enqueued += [outcome.id for outcome in outcomes]
            except QueueError:
                pass  # the store is away, and nobody was told that the jobs are there
            await anyio.sleep(0.05)


async def play(drama: Drama, seconds: float) -> list[str]:
    """Torment everybody for a while, let them finish, and return what is wrong."""
    done = anyio.Event()
    async with connect(drama.store.url) as storage:
        await wait_until(lambda: everybody_is_there(drama, storage), SETTLING)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce, drama, done)
        await anyio.to_thread.run_sync(drama.torment, time.monotonic() + seconds)
        done.set()
    await anyio.to_thread.run_sync(drama.settle)
    async with connect(drama.store.url) as storage:
        deadline = anyio.current_time() + SETTLING
        while True:
            try:
                counts = {str(state): count for state, count in (await storage.jobs.counts()).items() if count}
                if set(counts) <= {"succeeded"} and await everybody_is_there(drama, storage):
                    break
            except QueueError:
                pass
            if anyio.current_time() > deadline:
                return [f"not everything has ended, or somebody is missing: {counts}"]
            await anyio.sleep(0.2)
        wrong = await anyio.to_thread.run_sync(drama.stop)
        return wrong + await judge(drama, storage)


async def everybody_is_there(drama: Drama, storage: Storage) -> bool:
    """Tell whether gateways listen and workers have a session, in which they hear which of their leases were lost."""
    for port in drama.ports:
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            return False
        await stream.aclose()
    connected = {worker.pid for worker in await storage.workers.list()}
    return connected >= {process.pid for process in drama.workers.values()}


async def judge(drama: Drama, storage: Storage) -> list[str]:
    """Return what is wrong with any job."""
    lines: dict[str, list[list[str]]] = defaultdict(list)
    for path in drama.folder.glob("*.log"):
        for line in path.read_text().splitlines():
            words = line.split("\t")
            lines[words[0]].append(words[1:])
    excused = {words[0] for kind in ("lost", "refused", "released") for words in lines[kind]}
    runs: dict[str, dict[str, int]] = defaultdict(dict)
    for job_id, lease_id, pid, _ in lines["ran"]:
        runs[job_id][lease_id] = int(pid)
    wrong: list[str] = []
    known: set[str] = set()
    cursor: str | None = None
    while True:
        page = await storage.jobs.list(limit=2000, cursor=cursor)
        for job in page.jobs:
            known.add(job.id)
            if job.result not in runs[job.id]:
                wrong.append(f"{job.id} has the result of a run that nobody made")
            for lease_id, pid in runs[job.id].items():
                if lease_id not in (job.result, *excused) and pid not in drama.killed:
                    wrong.append(f"{job.id} was computed again although {lease_id} was held by a living worker")
        cursor = page.next_cursor
        if cursor is None:
            break
    if not known:
        wrong.append("nothing was enqueued in so short a time: nothing was tried")
    wrong += [f"lost: {job_id}" for job_id in drama.enqueued if job_id not in known]
    again = sum(len(leases) - 1 for leases in runs.values())
    print(f"{dict(drama.deeds)}; {len(known)} jobs, {again} runs again")
    return wrong


@contextmanager
def drama_of(options: argparse.Namespace, folder: Path) -> Iterator[Drama]:
    """Set the scene."""
    with ExitStack() as stack:
        store = stack.enter_context(store_for_chaos(options.store, folder))
        ports = [_free_port(), _free_port()]
        proxy = stack.enter_context(Proxy(("127.0.0.1", ports[0])))
        drama = Drama(folder, store, random.Random(options.seed), proxy, ports)
        try:
            yield drama
        finally:
            for process in (*drama.gateways.values(), *drama.workers.values()):
                _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def main() -> int:
    """Play one role, or the whole drama."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--store", choices=["sqlite", "postgres", "redis"], default="sqlite")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--role", choices=["gateway", "worker"])
    parser.add_argument("--url")
    parser.add_argument("--port", type=int)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--backend", default="asyncio")
    options = parser.parse_args()
    if options.role == "gateway":
        anyio.run(be_gateway, options.url, options.port)
        return 0
    if options.role == "worker":
        anyio.run(be_worker, options.url, options.journal, backend=options.backend)
        return 0
    with tempfile.TemporaryDirectory(prefix="workerctx-chaos-") as name:
        folder = Path(name)
        with drama_of(options, folder) as drama:
            drama.start()
            wrong = anyio.run(play, drama, options.seconds)
        if wrong:
            for path in sorted(folder.glob("stderr-*.txt")):
                if text := path.read_text().strip():
                    wrong.append(f"{path.name}: {text.splitlines()[-1]}")
    print(f"seed {options.seed}: {'wrong' if wrong else 'all is well'}")
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
