"""Whether a store stays as fast after a million jobs as it was at the first: rows that are gone must not be in the way.

``python -m tests.bench bloat [--url URL] [--number N]`` enqueues, claims, finishes and prunes N jobs in ten rounds and
prints what each round's claims took and, for PostgreSQL, how large the tables are. Without a URL it starts a PostgreSQL
of its own.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from time import perf_counter

import anyio
import psycopg

from tests.bench.measure import machine, markdown
from tests.integrations.postgres.server import postgres_server
from workerctx.queue import CompleteLease, EnqueueRequest, connect

ROUNDS = 10
BATCH = 100
ALIVE = 1000
"""How many jobs wait all the time."""


def main(argv: list[str]) -> None:
    """Churn, and print a table."""
    parser = argparse.ArgumentParser(prog="tests.bench bloat")
    parser.add_argument("--url", help="a store; PostgreSQL's tables must be in the schema public")
    parser.add_argument("--number", type=int, default=1_000_000)
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        url = options.url or stack.enter_context(postgres_server()).url
        print(machine(), end="\n\n", flush=True)
        anyio.run(_churn, url, options.number)


async def _churn(url: str, number: int) -> None:
    rows: list[tuple[str, ...]] = [("round", "jobs/s", "claim p50", "claim p99", "pruned", "size")]
    async with connect(url) as storage:
        await storage.jobs.enqueue_bulk([_request()] * ALIVE)
        for turn in range(1, ROUNDS + 1):
            claims: list[float] = []
            started = perf_counter()
            for _ in range(number // ROUNDS // BATCH):
                await storage.jobs.enqueue_bulk([_request()] * BATCH)
                before = perf_counter()
                claimed = await storage.jobs.claim_many("bench", limit=BATCH)
                claims.append((perf_counter() - before) * 1000)
                await storage.jobs.finish_many([CompleteLease.of(lease.id) for _, lease in claimed])
            rate = number / ROUNDS / (perf_counter() - started)
            pruned = await storage.jobs.prune(0)
            p50, p99 = statistics.median(claims), statistics.quantiles(claims, n=100)[98]
            rows.append((str(turn), f"{rate:,.0f}", f"{p50:.2f} ms", f"{p99:.2f} ms", f"{pruned:,}", _size(url)))
    markdown(f"{number:,} jobs, {BATCH} at a time, {ALIVE:,} waiting", rows)


def _request() -> EnqueueRequest:
    return EnqueueRequest("bench", {"text": "x" * 188})


def _size(url: str) -> str:
    if not url.startswith("postgres"):
        return "-"
    with psycopg.connect(url.partition("&")[0]) as connection:
        query = "SELECT pg_size_pretty(pg_total_relation_size('workerctx_jobs'))"
        (size,) = connection.execute(query).fetchone() or ("-",)
        return str(size)
