"""``workerctx worker --metrics-port``, as a process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

APP = """
from workerctx import JobRegistry

jobs = JobRegistry("memory://")

@jobs.register
async def work() -> None: ...
"""


@contextmanager
def worker(folder: Path, *options: str) -> Generator[subprocess.Popen[str]]:
    """Run the command until the end of the block."""
    (folder / "metered.py").write_text(APP, encoding="utf-8")
    command = [sys.executable, "-m", "workerctx", "worker", "metered:jobs", *options]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_process_answers_scrapes(tmp_path: Path, backend: str) -> None:
    """The start says where the metrics are; SIGTERM ends the process with status 0."""
    with worker(tmp_path, "--metrics-port", "0", "--backend", backend) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"metrics +(http://127\.0\.0\.1:\d+/metrics)", line):
                break
        else:
            pytest.fail("the worker did not say where its metrics are")
        with urllib.request.urlopen(found[1], timeout=20) as answer:
            text = answer.read().decode()
        assert "workerctx_worker_state{" in text
        assert "process_resident_memory_bytes" in text
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_each_of_several_processes_says_where_its_metrics_are(tmp_path: Path) -> None:
    """With port 0 nobody could guess."""
    with worker(tmp_path, "--metrics-port", "0", "--processes", "2") as process:
        assert process.stderr is not None
        said = (re.search(r"metrics +(http://127\.0\.0\.1:\d+/metrics)", line) for line in process.stderr)
        pages = {found[1] for _, found in zip(range(2), filter(None, said), strict=False)}
        assert len(pages) == 2
        for page in pages:
            with urllib.request.urlopen(page, timeout=20) as answer:
                assert "workerctx_worker_state{" in answer.read().decode()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    """The command ends with status 2 and names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with worker(tmp_path, "--metrics-port", str(port)) as process:
            _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"metrics cannot be served on 127.0.0.1 port {port}" in said
    assert "Traceback" not in said
