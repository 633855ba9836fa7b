"""The stores that chaos is made with, and what can be done to each of them from outside.

`outage` takes a store away for some seconds, the way it happens to that store: a file whose lock somebody holds and
does not give back, a server that is killed and started again on its data, a server that stands still.
"""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.integrations.postgres.server import PostgresServer, postgres_server
from tests.integrations.redis.server import RedisServer

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator


class Store(Protocol):
    """A store that several processes use, and that fails when it is told to."""

    @property
    def url(self) -> str: ...

    def outage(self, seconds: float, dice: random.Random) -> str:
        """Take it away for so long, and say how; it is back, on the same data, when this returns."""
        ...


@attrs.frozen
class Memory:
    """A store of one process; its calls fail when the process wants that."""

    url: str = "memory://"

    def outage(self, seconds: float, dice: random.Random) -> str:
        return "no outage"


@attrs.frozen
class SqliteFile:
    """A file. It has no server; what takes it away is a writer that holds its lock."""

    path: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def outage(self, seconds: float, dice: random.Random) -> str:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(self.path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
        return "lock held"


@attrs.frozen
class Postgres:
    """A server with its default durability."""

    server: PostgresServer

    @property
    def url(self) -> str:
        return self.server.url

    def outage(self, seconds: float, dice: random.Random) -> str:
        if dice.random() < 0.5:
            self.server.signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.server.signal(signal.SIGCONT)
            return "server frozen"
        self.server.kill()
        time.sleep(seconds)
        self.server.start()
        return "server killed"


@attrs.frozen
class Redis:
    """A server that has written each command to its disk before it answers."""

    server: RedisServer

    @property
    def url(self) -> str:
        return self.server.url()

    def outage(self, seconds: float, dice: random.Random) -> str:
        if dice.random() < 0.5:
            self.server.freeze()
            time.sleep(seconds)
            self.server.thaw()
            return "server frozen"
        self.server.kill()
        time.sleep(seconds)
        self.server.start()
        return "server killed"


@contextmanager
def store_for_chaos(name: str, folder: Path) -> Iterator[Store]:
    """Yield a store of a kind, with its server if it has one."""
    match name:
        case "memory":
            yield Memory()
        case "sqlite":
            yield SqliteFile(folder / "jobs.db")
        case "postgres":
            with postgres_server() as postgres:
                yield Postgres(postgres)
        case _:
            with RedisServer({"appendonly": "yes", "appendfsync": "always"}) as redis:
                yield Redis(redis)
