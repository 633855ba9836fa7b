"""Keep the links of promises.md equal to the tests that the tree has.

A test belongs to a promise when its docstring opens with the promise's number ("L17: ...", "L17, L32: ...").

Usage: python docs/promises.py [--write]; without --write it only tells whether the page is up to date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"

_NUMBER = r"[LHQWR]\d+"
_DOCSTRING = re.compile(rf"({_NUMBER}(?:, {_NUMBER})*): ")
_TESTS_LINE = re.compile(rf"^Tests of ({_NUMBER}):.*$", re.MULTILINE)


def promises(page: str) -> list[str]:
    """Return the numbers of the promises on the page, in its order."""
    return _TESTS_LINE.findall(page)


def folders() -> dict[str, Path]:
    """Return where tests are, by their path in the tree: our own, and the suite that we ship for stores."""
    shipped = ROOT / "workerctx" / "testing"
    if not shipped.is_dir():  # a checkout without packages tests those that are installed
        spec = find_spec("workerctx.testing")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        shipped = Path(spec.submodule_search_locations[0])
    return {"tests": ROOT / "tests", "workerctx/testing": shipped}


def collect(folders: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return for each promise the links to its tests, in the order of files and lines."""
    links: defaultdict[str, list[str]] = defaultdict(list)
    for place, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            file = f"{place}/{path.relative_to(folder).as_posix()}"
            for name, docstring in _tests(ast.parse(path.read_text(encoding="utf-8")), path.stem):
                numbers = _DOCSTRING.match(docstring)
                for number in numbers[1].split(", ") if numbers else ():
                    links[number].append(f"[{name}](../{file})")
    return dict(links)


def render(page: str, links: Mapping[str, Sequence[str]]) -> str:
    """Return the page with the list of tests of each promise replaced."""
    return _TESTS_LINE.sub(lambda line: f"Tests of {line[1]}: {', '.join(links.get(line[1], ['none yet']))}.", page)


def _tests(module: ast.Module, module_name: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(module):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                yield name, ast.get_docstring(node) or ""
            case ast.ClassDef(name=name):  # a state machine of hypothesis is a test as a whole
                yield name, ast.get_docstring(node) or ""
            case ast.Module():  # and so is a module that runs a suite
                yield module_name, ast.get_docstring(node) or ""
            case _:
                pass


def main(arguments: Sequence[str]) -> int:
    """Refresh or check the page; return the exit status."""
    before = PAGE.read_text(encoding="utf-8")
    links = collect(folders())
    after = render(before, links)
    if "--write" in arguments:
        PAGE.write_text(after, encoding="utf-8")
    elif after != before:
        print("docs/promises.md is out of date: run python docs/promises.py --write")
    named = promises(before)
    for number in named:
        if number not in links:
            print(f"{number} has no test")
    for number in sorted(set(links) - set(named)):
        print(f"{number} has tests and is not on the page")
    return int("--write" not in arguments and after != before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
