"""Run every Python block of README and docs as a test, and give child processes a Ctrl-C that works."""

from __future__ import annotations

import ast
import contextlib
import inspect
import signal
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
