"""Remote workers over loopback: jobs per second through one gateway, idle round trip, and the cost of idle sessions.

Every step has a time after which the bench gives up and says what it waited for.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from tests.bench.loop import Worker as Measured
from tests.bench.measure import machine, table
from tests.integrations.gateway.processes import Process as Heard
from workerctx import JobCtx, JobRegistry
from workerctx.queue import EnqueueRequest, JobState, connect, new_id
from workerctx.remote import Credentials, RemoteConfig
from workerctx.remote.frames import Credit, Heartbeat, Register
from workerctx.remote.session import register

if TYPE_CHECKING:
    from collections.abc import Generator

TOKEN = "a token for the bench"
CLIENTS = 4
PATIENCE = 60.0
"""Seconds that a round may take; each takes a few."""

jobs = JobRegistry("memory://")
"""What the worker process runs; its jobs come from the gateway."""


@jobs.register(timeout=30)
async def noop(ctx: JobCtx, number: int) -> None:
    """Do nothing, with a context and a timeout."""


class Process(Heard, Measured):
    """A process that this bench starts, and what it costs."""

    def rss(self) -> float:
        """Return its resident memory now, in megabytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


@contextmanager
def started(*arguments: str, expect: str) -> Generator[tuple[Process, str]]:
    """Run a process of a module; yields it and what it said that was expected."""
    process = Process(Path.cwd(), "-m", *arguments, WORKERCTX_TOKEN=TOKEN)
    try:
        yield process, process.expect(expect)[0]
        process.ends()
    finally:
        process.process.kill()
        process.ends(None)


@contextmanager
def gateway(folder: str) -> Generator[tuple[Process, str, str]]:
    """Run a gateway in a process; yields it, its address, and its store's."""
    url = f"sqlite:///{folder}/jobs.db"
    tokens = Path(folder) / "tokens"
    tokens.write_text(f"bench default {TOKEN}\n")
    options = ("--storage", url, "--token-file", str(tokens), "--port", "0")
    with started("workerctx", "gateway", *options, expect=r"ws://\S+") as (process, address):
        yield process, address, url


@contextmanager
def worker(address: str, concurrency: int, backend: str) -> Generator[Process]:
    """Run a worker of this module in a process."""
    options = ("tests.bench.remote:jobs", "--remote", address, "-c", str(concurrency), "--backend", backend)
    with started("workerctx", "worker", *options, expect="registered with the gateway") as (process, _):
        yield process


async def throughput(url: str, number: int) -> float:
    """Return the jobs per second from the moment when the queue is resumed until the last job has succeeded."""
    async with connect(url) as storage:
        done = (await storage.jobs.counts())[JobState.SUCCEEDED]
        await storage.jobs.pause_queue("default")
        requests = [EnqueueRequest("noop", {"number": index}, timeout=30) for index in range(number)]
        await storage.jobs.enqueue_bulk(requests)
        await anyio.sleep(1.0)  # the machine writes back what it has
        async with storage.jobs.wakeups((), finished=True) as wakeups:
            began = time.perf_counter()
            await storage.jobs.resume_queue("default")
            while (counts := await storage.jobs.counts())[JobState.SUCCEEDED] < done + number:
                seconds = time.perf_counter() - began
                assert seconds < PATIENCE, f"not all of {number} jobs have succeeded within {seconds:.0f} s: {counts}"
                await wakeups.wait(1.0)
                await anyio.sleep(0.05)  # looking costs the store, too
            return number / (time.perf_counter() - began)


async def round_trips(url: str, number: int, rest: float) -> list[float]:
    """Return the seconds from before the enqueueing to the result, one job at a time.

    Args:
        url: The gateway's store.
        number: How many jobs.
        rest: Seconds of rest before each, up to four times as many; 0 for none.
    """
    found: list[float] = []
    async with connect(url) as storage:
        for index in range(number):
            await anyio.sleep(rest * (1 + 3 * (index % 7) / 7))
            began = time.perf_counter()
            outcome = await storage.jobs.enqueue(EnqueueRequest("noop", {"number": index}))
            await storage.jobs.result(outcome.id, timeout=10)
            found.append(time.perf_counter() - began)
    return sorted(found)


async def idle(address: str, number: int) -> None:
    """Hold idle sessions, until killed."""
    from workerctx.remote.websocket import connector

    open_session = connector(RemoteConfig(endpoint=address, credentials=Credentials(token=TOKEN)))
    registered = 0
    turn = anyio.CapacityLimiter(20)

    async def hold() -> None:
        nonlocal registered
        async with turn:
            context = open_session()
            session = await context.__aenter__()
            ack, _ = await register(session, Register(worker_id=new_id(), kinds=("noop",), concurrency=10), 30)
        await session.send([Credit(0, 10)])
        registered += 1
        if registered == number:
            print("all are registered", file=sys.stderr, flush=True)
        async with anyio.create_task_group() as tasks:
            session.silence = 1.5 * ack.idle_heartbeat  # as a worker does it
            tasks.start_soon(listen, session)
            await anyio.sleep(ack.idle_heartbeat * (hash(ack.worker_id) % 1000) / 1000)
            while True:
                await session.send([Heartbeat()])
                await anyio.sleep(ack.idle_heartbeat)

    async def listen(session: object) -> None:
        while await session.receive() is not None:  # type: ignore[attr-defined]
            pass

    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(hold)


def of_sessions(options: argparse.Namespace, folder: str) -> Generator[tuple[str, str]]:
    """Measure a gateway that holds idle sessions."""
    with gateway(folder) as (process, address, _), ExitStack() as stack:
        yield "resident memory of a gateway without sessions", f"{process.rss():.0f} MB"
        share = str(options.sessions // CLIENTS)
        for _ in range(CLIENTS):
            arguments = ("tests.bench", "remote", "--hold", address, "--sessions", share)
            stack.enter_context(started(*arguments, expect="all are registered"))
        time.sleep(5.0)
        used = process.cpu()
        time.sleep(options.idle)
        yield f"share of a core, {options.sessions} idle sessions", f"{(process.cpu() - used) / options.idle:.2%}"
        yield f"resident memory, {options.sessions} idle sessions", f"{process.rss():.0f} MB"


def of_backend(backend: str, options: argparse.Namespace, folder: str) -> Generator[tuple[str, str]]:
    """Measure workers on one event loop; the gateway runs on asyncio, under uvicorn."""
    with gateway(folder) as (process, address, url), worker(address, options.concurrency, backend) as served:
        used = process.cpu(), served.cpu()
        speeds = [anyio.run(throughput, url, options.number) for _ in range(options.repeat)]
        yield "no-op jobs/s, one gateway, one worker", f"{statistics.median(speeds):,.0f} (best {max(speeds):,.0f})"
        total = options.repeat * options.number
        yield "processor time a job, gateway", f"{(process.cpu() - used[0]) / total * 1e6:.0f} us"
        yield "processor time a job, worker", f"{(served.cpu() - used[1]) / total * 1e6:.0f} us"
        for when, rest in (("one after the other", 0.0), ("each after 10 to 40 ms of rest", 0.01)):
            found = anyio.run(round_trips, url, options.latencies, rest)
            yield f"idle round trip, {when}, p50", f"{found[len(found) // 2] * 1e3:.2f} ms"
            yield f"idle round trip, {when}, p99", f"{found[int(len(found) * 0.99)] * 1e3:.2f} ms"


def main(argv: list[str]) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench remote", description=__doc__)
    parser.add_argument("--number", type=int, default=20_000, help="jobs a round")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--concurrency", type=int, default=100, help="slots of the worker")
    parser.add_argument("--latencies", type=int, default=200, help="jobs whose round trip is timed")
    parser.add_argument("--sessions", type=int, default=1000, help="idle sessions")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds of watching idle sessions")
    parser.add_argument("--hold", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.hold:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        anyio.run(idle, options.hold, options.sessions)
        return
    print(machine())
    for backend in ("asyncio", "trio"):
        with tempfile.TemporaryDirectory() as folder:
            table(backend, [("what", "figure"), *of_backend(backend, options, folder)])
    with tempfile.TemporaryDirectory() as folder:
        table("sessions", [("what", "figure"), *of_sessions(options, folder)])


if __name__ == "__main__":
    main(sys.argv[1:])
