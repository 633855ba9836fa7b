"""docs/examples/primes.py, served as its page says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_primes_are_counted_in_a_process(tmp_path):
    """One job, enqueued and served from the command line."""

    def workerctx(*arguments: str) -> str:
        command = [sys.executable, "-m", "workerctx", *arguments]
        env = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    enqueued = json.loads(workerctx("enqueue", "--app", "primes:jobs", "count_primes", '{"below": 10000}', "--json"))
    workerctx("worker", "primes:jobs", "--burst")
    shown = json.loads(workerctx("jobs", "show", enqueued["id"], "--storage", "sqlite:///primes.db", "--json"))
    assert shown["state"] == "succeeded", shown
    assert shown["result"] == 1229
