"""What one worker process does on each store that several processes share, and what peers do there in the same run.

Beside it stands what four processes do over two where they share nothing at all: the machine's own part in it.

``python -m tests.bench stores`` starts a PostgreSQL and a Redis of its own, PostgreSQL with its default durability and
Redis with an append-only file that is synced every second, its own default; ``--postgres URL`` and ``--redis URL`` name
others. Databases must be empty. Peers get servers of their own, as in ``python -m tests.bench peers``. Take the figures
on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from tests.bench.loop import Worker, first_job, jobs, latencies, noop, throughput
from tests.bench.measure import machine, markdown
from tests.bench.peers import side_by_side
from tests.bench.unshared import together
from tests.integrations.postgres.server import postgres_server
from tests.integrations.redis.server import RedisServer
from workerctx.queue import CompleteLease, EnqueueRequest, JobState, connect
from workerctx.queue.connect import StoreURL
from workerctx.testing import wait_until
from workerctx_redis._driver import Client, open_client
from workerctx_redis._endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Generator

    from workerctx.queue.model import Claimed

RUN = "no-op jobs/s"
BULK = "`enqueue_bulk`, jobs/s"
P50 = "pick-up, p50"
P99 = "pick-up, p99"
TWO = "2 processes, jobs/s"
FOUR = "4 processes, jobs/s"
SHARE = "4 processes, smallest share of an even one"
FORMS = {
    RUN: "{:,.0f}",
    BULK: "{:,.0f}",
    P50: "{:.2f} ms",
    P99: "{:.2f} ms",
    TWO: "{:,.0f}",
    FOUR: "{:,.0f}",
    SHARE: "{:.0%}",
}
"""What is measured, and how it is written."""

TURNS = 3
"""How often several processes are measured, at the most."""

numbers = itertools.count(1)


def fresh_namespace(url: str) -> None:
    """Have the registry of the bench use a new part of a store, here and in the worker processes."""
    mark = "&" if "?" in url else "?"
    os.environ["WORKERCTX_URL"] = f"{url}{mark}namespace=bench{os.getpid()}-{next(numbers)}"


async def bulk(number: int) -> float:
    """Return how many jobs are enqueued in a second, in bulk."""
    async with jobs:
        requests = [noop.request(index) for index in range(number)]
        began = time.perf_counter()
        await jobs.enqueue_bulk(requests)
        return number / (time.perf_counter() - began)


async def shared(number: int, processes: int, backend: str) -> tuple[float, float]:
    """Return the jobs per second of several processes, and the smallest part of them over an even one.

    A claim takes up to a thousand jobs, so there must be many more of them than processes.
    """
    async with jobs:
        storage = jobs.storage

        async def all_there() -> bool:
            return len(await storage.workers.list()) == processes

        async def all_done() -> bool:
            await anyio.sleep(0.05)  # looking costs the store, too
            return (await storage.jobs.counts())[JobState.SUCCEEDED] == number

        with ExitStack() as workers:
            for _ in range(processes):
                workers.enter_context(Worker(backend, "--concurrency", "100"))
            await wait_until(all_there, timeout=60)
            # Everybody begins at the same moment, with all jobs there.
            await storage.jobs.pause_queue("default")
            await jobs.enqueue_bulk([noop.request(index) for index in range(number)])
            began = time.perf_counter()
            await storage.jobs.resume_queue("default")
            await wait_until(all_done, timeout=300)
            seconds = time.perf_counter() - began
        shares: Counter[str | None] = Counter()
        cursor = None
        while True:
            page = await storage.jobs.list(limit=1000, cursor=cursor)
            shares.update(job.worker_id for job in page.jobs)
            cursor = page.next_cursor
            if cursor is None:
                break
    least = min(shares.values()) if len(shares) == processes else 0
    return number / seconds, least * processes / number


def ours(url: str, backend: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure this project on a store."""
    found: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(options.repeat):
        fresh_namespace(url)
        found[RUN].append(anyio.run(throughput, options.number, 100, backend=backend))
        fresh_namespace(url)
        found[BULK].append(anyio.run(bulk, options.number, backend=backend))
    fresh_namespace(url)
    with Worker(backend):
        anyio.run(first_job, backend=backend)
        seconds = anyio.run(latencies, options.latencies, backend=backend)
    found[P50].append(seconds[len(seconds) // 2] * 1e3)
    found[P99].append(seconds[int(len(seconds) * 0.99)] * 1e3)
    for _ in range(min(options.repeat, TURNS)):  # in turns, as the machine is not the same from minute to minute
        for processes, name in ((2, TWO), (4, FOUR)):
            fresh_namespace(url)
            rate, share = anyio.run(shared, options.number * 4, processes, backend, backend=backend)
            found[name].append(rate)
            if processes == 4:
                found[SHARE].append(share)
    return {name: statistics.median(values) for name, values in found.items()}


def two_and_four(number: int, repeat: int, backend: str) -> dict[str, float]:
    """Measure processes that share nothing, with work enough for about as long as the others take."""
    found: dict[str, list[float]] = {TWO: [], FOUR: []}
    for _ in range(min(repeat, TURNS)):
        for processes, name in ((2, TWO), (4, FOUR)):
            found[name].append(together(number * 12, processes, backend))
    return {name: statistics.median(values) for name, values in found.items()}


async def used(client: Client, prefix: str) -> int:
    """Return the bytes that the keys with a prefix take; unlike the server's total, that knows no buffers."""
    keys = [key async for key in client.scan_iter(match=f"{{{prefix}:*")]
    return sum([await client.memory_usage(key, samples=0) or 0 for key in keys])


async def memory(url: str, number: int) -> list[tuple[str, ...]]:
    """Return the bytes that a plain job takes in Redis beside its payload, with and without names that are indexed."""
    payload = {"path": "x" * 19}
    marks: tuple[dict[str, Any], ...] = ({}, {"workflow_id": "workflow", "tenant_id": "tenant"})
    rows: list[tuple[str, ...]] = [("bytes of a job beside its payload", "waiting", "running", "finished")]
    for mark in marks:
        prefix = f"memory{len(rows)}"
        storage = connect(f"{url}{'&' if '?' in url else '?'}prefix={prefix}")
        async with storage, open_client(Endpoint.parse(StoreURL.parse(url))) as client:
            requests = [
                EnqueueRequest("noop", payload, unique_key=f"key {index}" if mark else None, **mark)
                for index in range(number)
            ]
            await storage.jobs.enqueue_bulk(requests)
            sizes = [await used(client, prefix)]
            claimed: list[Claimed] = []
            while len(claimed) < number:
                claimed += await storage.jobs.claim_many("bench", limit=1000)
            sizes.append(await used(client, prefix))
            await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
            sizes.append(await used(client, prefix))
            length = len(requests[0].payload_json)
            figures = (f"{size / number - length:,.0f}" for size in sizes)
            rows.append(("unique key, workflow, tenant" if mark else "plain", *figures))
    return rows


@contextmanager
def urls(options: argparse.Namespace, chosen: list[str]) -> Generator[dict[str, str]]:
    """Yield the URL of each store, with servers of our own where none was named."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {"sqlite": f"sqlite:///{folder}/jobs.db"}
        if options.postgres is None and "postgres" in chosen:
            found["postgres"] = stack.enter_context(postgres_server()).url
        if options.redis is None and "redis" in chosen:
            found["redis"] = stack.enter_context(RedisServer({"appendonly": "yes"})).url()
        yield found | {name: url for name in ("postgres", "redis") if (url := getattr(options, name)) is not None}


def main(argv: list[str]) -> None:
    """Print tables: this project on each store, what jobs take in Redis, and everybody side by side."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench stores", description=__doc__)
    parser.add_argument("--postgres", help="URL of an empty database instead of a server of our own")
    parser.add_argument("--redis", help="URL of an empty database instead of a server of our own")
    parser.add_argument("--store", action="append", choices=["sqlite", "postgres", "redis"], help="only this one")
    parser.add_argument("--number", type=int, default=10_000, help="jobs a round")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--latencies", type=int, default=300, help="jobs whose pick-up is timed")
    parser.add_argument("--without-peers", action="store_true", help="do not install and measure others")
    options = parser.parse_args(argv)
    print(machine(), flush=True)
    chosen = options.store or ["sqlite", "postgres", "redis"]
    columns: dict[str, dict[str, float]] = {}
    memories: list[tuple[str, ...]] = []
    ratios: list[tuple[str, ...]] = [("4 processes over 2", "2 processes, jobs/s", "4 processes, jobs/s", "ratio")]
    with urls(options, chosen) as stores:
        for store in chosen:
            for backend in ("asyncio", "trio"):
                columns[f"{store}, {backend}"] = ours(stores[store], backend, options)
            if store == "redis":
                memories = anyio.run(memory, stores[store], options.number)
    for backend in ("asyncio", "trio"):
        columns_of = {f"nothing shared, {backend}": two_and_four(options.number, options.repeat, backend)}
        columns_of |= {name: found for name, found in columns.items() if name.endswith(backend)}
        for name, found in columns_of.items():
            ratios.append((name, f"{found[TWO]:,.0f}", f"{found[FOUR]:,.0f}", f"{found[FOUR] / found[TWO]:.0%}"))
    table = [("one worker process, concurrency 100", *columns)]
    table += [(name, *(form.format(found[name]) for found in columns.values())) for name, form in FORMS.items()]
    markdown("this project on each store", table)
    markdown("what two more processes bring", ratios)
    if memories:
        markdown("memory in Redis", memories)
    if not options.without_peers:
        markdown("side by side", side_by_side(chosen, options.number, 100, options.repeat))
