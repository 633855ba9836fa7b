"""A short run of chaos with remote workers; the long ones are started by hand and by the build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost_or_computed_twice_when_workers_and_gateways_are_killed():
    """R4, Q2: whoever is killed, cut or frozen, each job ends once, and what is computed twice has a reason."""
    driver = Path(__file__).with_name("remote.py")
    done = subprocess.run([sys.executable, str(driver), "--seconds", "4"], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
