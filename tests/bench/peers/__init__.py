"""What others reach on the same machine: ``python -m tests.bench peers [--redis URL] [--postgres URL]``.

Each peer is measured by a script through its public interface, set to be fast as its documentation says, in an
environment of its own that is made once in the user's cache folder. Nothing here depends on a peer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.bench.measure import machine, markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PATIENCE = 600
"""Seconds after which a peer has failed."""


@attrs.frozen
class Peer:
    """Another task queue on one store.

    Attributes:
        name: For people.
        store: ``sqlite``, ``redis`` or ``postgres``.
        script: What measures it.
        requirements: What its environment holds.
        option: Put behind the URL.
    """

    name: str
    store: str
    script: str
    requirements: tuple[str, ...]
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
    """A peer could not be measured, for example because it wants a newer server; says what it said."""


HEAD = ("store", "queue", "run/s", "enqueued/s", "setting")
"""Of the rows of `side_by_side`."""

HUEY = Peer("huey", "sqlite", "huey_sqlite.py", ("huey",))
HUEY_WITHOUT_FSYNC = attrs.evolve(HUEY, option="?fsync=off")
PEERS = (
    HUEY,
    HUEY_WITHOUT_FSYNC,
    Peer("SAQ", "redis", "saq_redis.py", ("saq[redis,hiredis]", "typing-extensions", "uvloop")),
    Peer("streaQ", "redis", "streaq_redis.py", ("streaq", "uvloop")),
    Peer("taskiq", "redis", "taskiq_redis_streams.py", ("taskiq", "taskiq-redis", "hiredis", "uvloop")),
    Peer("arq", "redis", "arq_redis.py", ("arq>=0.28", "uvloop")),
    Peer("pgqueuer", "postgres", "pgqueuer_postgres.py", ("pgqueuer[asyncpg]", "uvloop")),
    Peer("procrastinate", "postgres", "procrastinate_postgres.py", ("procrastinate", "psycopg[binary,pool]")),
)


def environment(peer: Peer) -> Path:
    """Return the Python of a peer's environment, made if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "workerctx-bench"
    key = hashlib.sha256(repr((sys.version_info[:3], peer.requirements)).encode()).hexdigest()[:12]
    folder = cache / f"{peer.name.lower()}-{key}"
    python = folder / "bin" / "python"
    if not python.exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *peer.requirements], check=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return python


def measure(peer: Peer, url: str, number: int, concurrency: int) -> Figures:
    """Run a peer's script on an empty store and return what it reached.

    Raises:
        PeerFailed: The script failed.
    """
    command = [environment(peer), HERE / peer.script, "--url", url + peer.option]
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


def side_by_side(store: str, url: str | None, number: int, concurrency: int) -> Iterator[tuple[str, ...]]:
    """Measure the peers on a store and yield a row for each; on SQLite each gets a new file."""
    for peer in PEERS:
        if peer.store != store:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = measure(peer, url or f"sqlite:///{folder}/peer.db", number, concurrency)
            except PeerFailed as exc:
                yield (store, peer.name, "", "", f"failed: {str(exc)[:80]}")
                continue
        yield (store, f"{peer.name} {found.version}", f"{found.run:,.0f}", f"{found.enqueue:,.0f}", found.setting)


def main(argv: list[str]) -> None:
    """Print what each peer reaches on the stores at hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench peers", description=__doc__)
    parser.add_argument("--redis", help="URL of an empty Redis database; its peers are left out without it")
    parser.add_argument("--postgres", help="URL of an empty PostgreSQL database; its peers are left out without it")
    parser.add_argument("--number", type=int, default=10_000, help="jobs")
    parser.add_argument("--concurrency", type=int, default=100)
    options = parser.parse_args(argv)
    print(machine(), flush=True)
    rows = [HEAD, *side_by_side("sqlite", None, options.number, options.concurrency)]
    for store in ("redis", "postgres"):
        if (url := getattr(options, store)) is not None:
            rows += side_by_side(store, url, options.number, options.concurrency)
    markdown("what peers reach", rows)
