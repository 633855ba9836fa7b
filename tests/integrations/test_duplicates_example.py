"""docs/examples/duplicates.py, the first thing that people run, on real files."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integrations.processes import PythonProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "duplicates.py"

FILES = 2000
ODD_NAME = "with [brackets] and [bold] in it"

# Holds every hash up until the file `go` exists, so that a signal comes in the middle for sure.
SLOW = """
import os, pathlib, runpy, sys, time
import hashlib
digest = hashlib.file_digest
def slow(file, name):
    os.write(1, f"hashing {file.name}\\n".encode())
    while not pathlib.Path("go").exists():
        time.sleep(0.005)
    return digest(file, name)
hashlib.file_digest = slow
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Run(PythonProcess):
    """The example as a process."""

    @property
    def tail(self) -> str:
        """The end of the output, for messages."""
        return self.output[-1500:]

    def number(self, pattern: str) -> int:
        """Return the number that a pattern finds in the output."""
        found = re.search(pattern, self.output)
        assert found is not None, f"no {pattern!r} in:\n{self.tail}"
        return int(found[1])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """2,000 small files: 1,900 alone, 25 pairs, 10 groups of five; one of a pair has an odd name."""
    tree = tmp_path / "tree"
    for number in range(20):
        (tree / f"folder {number}").mkdir(parents=True)
    contents = [f"alone {number}" for number in range(1900)]
    contents += [f"pair {number}" for number in range(25) for _ in range(2)]
    contents += [f"five {number} " * 10 for number in range(10) for _ in range(5)]
    assert len(contents) == FILES
    for number, content in enumerate(contents):
        (tree / f"folder {number % 20}" / f"file {number}").write_text(content)
    odd = tree / "folder 0" / "file 1900"
    odd.rename(odd.with_name(ODD_NAME))
    return tree


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Run the example over the tree, slowly or not; nothing is left behind."""
    runs: list[Run] = []

    def start(*, slow: bool = False) -> Run:
        command = [*(["-c", SLOW] if slow else []), str(EXAMPLE), str(tmp_path / "tree")]
        run = Run(tmp_path, *command, PYTHONUNBUFFERED="1", TERM="dumb", COLUMNS="200")
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.discard()


def assert_report_is_right(run: Run, hashed: int = FILES, unread: int = 0) -> None:
    """The groups and the bytes that the tree was made with."""
    assert (
        f"{hashed} files hashed, {unread} not readable, 35 groups of identical files, 3.0 kB reclaimable" in run.output
    ), run.tail


def test_it_finds_the_duplicates_and_hashes_nothing_twice(tree: Path, start: Callable[..., Run]) -> None:
    """The groups are right; a second run hashes nothing again, and a changed file only hashes that."""
    first = start()
    assert first.ends() == 0, first.tail
    assert_report_is_right(first)
    assert first.number(r"(\d+) files in ") == FILES
    second = start()
    assert second.ends() == 0, second.tail
    assert second.number(r"(\d+) files in ") == 0
    assert_report_is_right(second)
    (tree / "folder 3" / "file 3").write_text("changed, and longer than before")
    (tree / "folder 4" / "file 4").unlink()
    third = start()
    assert third.ends() == 0, third.tail
    assert third.number(r"(\d+) files in ") == 1
    assert_report_is_right(third, hashed=FILES - 1)


def test_odd_names_are_printed_as_they_are(tmp_path: Path, start: Callable[..., Run]) -> None:
    """A file name with brackets is no markup, and a name that is not UTF-8 is said to be left out."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (ODD_NAME, "another"):
        (tree / name).write_text("same")
    try:
        Path(os.fsdecode(os.fsencode(tree) + b"/caf\xe9")).write_text("same")
        left_out = True
    except OSError:  # a file system that insists on UTF-8
        left_out = False
    run = start()
    assert run.ends() == 0, run.tail
    assert ODD_NAME in run.output
    assert "2 files hashed, 0 not readable, 1 groups of identical files, 4 bytes reclaimable" in run.output
    assert ("cannot look at" in run.output) == left_out


def test_an_unreadable_file_is_reported(tree: Path, start: Callable[..., Run]) -> None:
    """A file that is gone when its turn comes is reported by name, and the rest is done."""
    run = start(slow=True)
    run.wait_for("hashing", times=32)  # as many as there are slots, so that nobody opens another one
    alone = (tree / f"folder {number % 20}" / f"file {number}" for number in range(1900))
    gone = next(path for path in alone if str(path) not in run.output)
    gone.unlink()
    (tree.parent / "go").touch()
    assert run.ends() == 0, run.tail
    assert f"{gone}: No such file or directory" in run.output
    assert_report_is_right(run, hashed=FILES - 1, unread=1)


def test_ctrl_c_says_what_is_left_and_the_next_run_goes_on(tree: Path, start: Callable[..., Run]) -> None:
    """Ctrl-C drains, says what is left, and the next run does exactly that."""
    interrupted = start(slow=True)
    interrupted.wait_for("hashing", times=32)
    interrupted.signal(signal.SIGINT)
    (tree.parent / "go").touch()
    assert interrupted.ends() == 130, interrupted.tail
    left = interrupted.number(r"interrupted: (\d+) files are left")
    assert 0 < left < FILES
    assert interrupted.number(r"(\d+) files in ") == FILES - left
    assert "Traceback" not in interrupted.output
    again = start()
    assert again.ends() == 0, again.tail
    assert again.number(r"(\d+) files in ") == left
    assert_report_is_right(again)


def test_kill_9_loses_nothing(tree: Path, start: Callable[..., Run]) -> None:
    """SIGKILL in the middle: the next run takes over what was running, and the result is right."""
    killed = start(slow=True)
    killed.wait_for("hashing", times=32)
    killed.process.kill()
    killed.ends()
    (tree.parent / "go").touch()
    again = start()
    assert again.ends() == 0, again.tail
    assert_report_is_right(again)


def test_a_wrong_argument_is_a_sentence(tmp_path: Path, start: Callable[..., Run]) -> None:
    """Without a folder it says how it is used."""
    run = start()
    assert run.ends() == 1
    assert run.output.startswith("usage: ")
