"""What the web tests share: ASGI by hand, test clients on both event loops, and programs that serve for real."""

from __future__ import annotations

import http.client
import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest
from starlette.testclient import TestClient
from websockets.sync.client import connect

PATIENCE = 60
"""Seconds after which a test gives up on a server; none of them takes as long."""


@pytest.fixture(params=["asyncio", "trio"])
def backend(request):
    """The event loop under a test client."""
    return request.param


@pytest.fixture
def client_of(backend):
    """Make a test client of an application, on both event loops."""

    def make(app, **options):
        return TestClient(app, backend=backend, **options)

    return make


@pytest.fixture
def exchange():
    """Run an ASGI application for one connection and return what it sent."""

    async def run(app, workers, path="/", *, kind="http", sent=None, method="GET"):
        messages = [] if sent is None else sent
        first = {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b""}
        received = [first]

        async def receive():
            if not received:
                await anyio.sleep_forever()
            return received.pop()

        async def send(message):
            await anyio.lowlevel.checkpoint()
            messages.append(message)

        scope = {
            "type": kind,
            "path": path,
            "root_path": "",
            "headers": [],
            "query_string": b"",
            "state": dict(workers),
        }
        if kind == "http":
            scope["method"] = method
        await app(scope, receive, send)
        return messages

    return run


class Program:
    """A program that serves, and what it says."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # The child imports what this process would.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.said = []
        self._lines = queue.Queue()
        self._open = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with self.process.stdout as output:
            for line in output:
                self._lines.put(line.rstrip())
        self._lines.put(None)

    def expect(self, pattern):
        """Wait until the program says something that matches."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                line = None
            assert line is not None, f"waited in vain for {pattern!r}, it said: {self.said}"
            self.said.append(line)
            if found := re.search(pattern, line):
                return found

    def listens(self):
        """Wait until it tells its port."""
        self.port = int(self.expect(r"^(?:port |.*unning on http://127\.0\.0\.1:)(\d+)")[1])
        return self

    def request(self, path, method="GET"):
        """Send a request and leave it open."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self._open.append(connection)
        connection.request(method, path)
        return connection

    def get(self, path, method="GET"):
        """Send a request and return its response, of which perhaps nothing was read yet."""
        return self.request(path, method).getresponse()

    def websocket(self, path):
        """Open a websocket; a context manager."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", open_timeout=PATIENCE)

    def send_signal(self, number):
        """Send a signal to this process."""
        self.process.send_signal(number)

    def exit_status(self):
        """Wait for its end, and return its status; everything it said is then in `said`."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.said.append(line)
        return status

    def hang_up(self):
        """Close every connection that was opened with `request` or `get`."""
        for connection in self._open:
            connection.close()

    def close(self):
        """End it, whatever it is doing."""
        self.hang_up()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)


@pytest.fixture
def run_program():
    """Start programs that serve, and see that none survives the test."""
    programs = []

    def run(*arguments):
        programs.append(Program(*arguments))
        return programs[-1].listens()

    yield run
    for program in programs:
        program.close()


@pytest.fixture
def serve(run_program):
    """Start the application of `served.py` under a server, with a grace in seconds."""
    return lambda server, grace=60: run_program(Path(__file__).with_name("served.py"), server, grace)
