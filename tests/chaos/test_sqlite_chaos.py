"""A short run of the chaos driver; the long ones are started by hand and by the build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost_when_processes_are_killed_and_frozen():
    """Q1, Q2, W4: whoever is killed or frozen, and whoever holds the lock, each job ends once by record."""
    driver = Path(__file__).with_name("driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), "--seconds", "4", "--outages"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
