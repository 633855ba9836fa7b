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

import attrs

from tests.bench.measure import machine, markdown

HERE = Path(__file__).parent


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
        subprocess.CalledProcessError: The script failed; what it said is on standard error.
    """
    command = [environment(peer), HERE / peer.script, "--url", url + peer.option]
    command += ["--jobs", number, "--concurrency", concurrency]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True, env=environ)
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def main(argv: list[str]) -> None:
    """Print what each peer reaches on the stores at hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench peers", description=__doc__)
    parser.add_argument("--redis", help="URL of an empty Redis database; its peers are left out without it")
    parser.add_argument("--postgres", help="URL of an empty PostgreSQL database; its peers are left out without it")
    parser.add_argument("--number", type=int, default=10_000, help="jobs")
    parser.add_argument("--concurrency", type=int, default=100)
    options = parser.parse_args(argv)
    print(machine())
    rows = [("peer", "store", "enqueued/s", "run/s", "setting")]
    for peer in PEERS:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/peer.db" if peer.store == "sqlite" else getattr(options, peer.store)
            if url is None:
                continue
            try:
                found = measure(peer, url, options.number, options.concurrency)
            except subprocess.CalledProcessError:  # for example one that wants a newer server
                rows.append((peer.name, peer.store, "failed", "failed", ""))
                continue
        name = f"{peer.name} {found.version}"
        rows.append((name, peer.store, f"{found.enqueue:,.0f}", f"{found.run:,.0f}", found.setting))
    markdown("what peers reach", rows)
