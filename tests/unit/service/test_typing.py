"""Decision 14, as type checkers see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

CHECKERS = {
    "mypy": ["mypy", "--no-incremental", "tests/typing"],
    "pyright": ["pyright", "--project", "tests/typing", "--pythonpath", sys.executable],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_agree_with_the_typing_tests(checker):
    """Decision 14: typed enqueueing, calling and injection hold in mypy and pyright, the expected errors included."""
    command = [sys.executable, "-m", *CHECKERS[checker]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
