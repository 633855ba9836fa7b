"""The fixtures, used as somebody else would."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULE = """
    import anyio

    async def test_virtual(virtual_time):
        virtual_time()
        await anyio.sleep(86400)
        assert virtual_time() == 86400

    async def test_real(anyio_backend):
        assert anyio_backend in ("asyncio", "trio")
"""


@pytest.mark.parametrize(
    "conftest",
    [
        'pytest_plugins = ["workerctx.testing.fixtures"]',
        "from workerctx.testing.fixtures import anyio_backend, virtual_time",
    ],
    ids=["plugin", "import"],
)
def test_they_work_in_a_project_of_its_own(tmp_path, conftest):
    """Named as a plugin or imported, they run async tests on both loops, in virtual time where it is asked for."""
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_sleep.py").write_text(MODULE.replace("\n    ", "\n"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\nfilterwarnings = error\n")
    options = ["-q", "-p", "no:asyncio", "-p", "no:trio", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout
