"""Run every Python block of README and docs as a test, and let tests start programs and write files quickly."""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator, pad
from sybil.parsers.myst import CodeBlockParser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sybil import Example

MEMORY = "/dev/shm"  # noqa: S108 - pytest makes a folder of its own in it
"""A file system in memory. SQLite waits for the disk in each transaction, and no test pulls the plug."""

# A shell that runs this in the background ignores SIGINT, and an ignored signal is inherited by every program
# that a test starts. With a handler here, children start with the default again.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """See to it that programs start quickly, that files are fast, and that long tests do not come last."""
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        _keep_bytecode(config.cache.mkdir("bytecode"))
    if "TMPDIR" not in os.environ and _has_room(MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY
    # xdist would begin with the files that have many tests. Those that start programs have few and are long.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def _keep_bytecode(folder: Path) -> None:
    """Compile each module once, where the environment says not to: the suite starts some hundred programs."""
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # python -B sets none


def _has_room(folder: str) -> bool:
    """Tell whether the files of all tests fit in there."""
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 2 * 1024**3


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run half as many tests again as there are cores: many of them wait for a program."""
    cores = os.cpu_count() or 1
    return cores + cores // 2


class _AsyncEvaluator(PythonEvaluator):
    """Run a block; one with a top-level ``await`` runs on asyncio, then on trio, each in a folder of its own."""

    def __call__(self, example: Example) -> None:
        source = pad(example.parsed, example.line + example.parsed.line_offset)
        flags = self.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, example.path, "exec", flags=flags, dont_inherit=True)
        if not code.co_flags & inspect.CO_COROUTINE:
            exec(code, example.namespace)  # noqa: S102 - the point of the evaluator
            return

        async def run() -> None:
            await eval(code, example.namespace)  # noqa: S307 - the point of the evaluator

        for backend in ("asyncio", "trio"):
            Path(backend).mkdir(exist_ok=True)
            with contextlib.chdir(backend):
                anyio.run(run, backend=backend)


@pytest.fixture(scope="module")
def _own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the blocks of one page in a folder of their own, where they may leave files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        yield


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", _AsyncEvaluator())],
    pattern="*.md",
    fixtures=["_own_folder"],
).pytest()
