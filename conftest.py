"""Run every Python block of README and docs as a test, and let the tests of many processes start them quickly."""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import signal
import sys
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

# A shell that runs this in the background ignores SIGINT, and an ignored signal is inherited by every program
# that a test starts. With a handler here, children start with the default again.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Keep bytecode somewhere, and have the long files of tests run first."""
    # The suite starts some hundred programs. Where bytecode may not be left beside the sources, each of them
    # would compile all that it imports; then it is kept in pytest's own cache.
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        sys.dont_write_bytecode = False
        sys.pycache_prefix = os.fspath(config.cache.mkdir("bytecode"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    # xdist would begin with the files that have many tests. Those that start programs have few and are long.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


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
