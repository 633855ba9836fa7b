"""Draw the house in architecture.md from the tree: each room and module with the first line of its docstring.

Usage: python docs/architecture.py --write
"""

from __future__ import annotations

import ast
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("architecture.md")
ROOMS = ("errors", "lifecycle", "queue", "service", "runtime", "remote", "testing", "cli")
"""The rooms of the core from the ground up; each may import from those before it."""
INTEGRATIONS = (
    "workerctx_starlette",
    "workerctx_postgres",
    "workerctx_redis",
    "workerctx_prometheus",
    "workerctx_opentelemetry",
)

_DRAWING = re.compile(r"(?<=^```text\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
_COLUMN = 26


def folder_of(package: str) -> Path:
    """Return where a package stands: in the tree or, without one there, where it is installed."""
    for folder in (_ROOT / package, _ROOT / "integrations" / package):
        if folder.is_dir():
            return folder
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def draw() -> str:
    """Return the drawing of the core's rooms from the ground up, then of the integrations."""
    core = folder_of("workerctx")
    lines = [_line("workerctx/", _summary(core / "__init__.py"), 0)]
    for room in ROOMS:
        if (core / room).is_dir():
            lines += _draw_folder(core / room, 1)
        elif (core / f"{room}.py").is_file():
            lines.append(_line(f"{room}.py", _summary(core / f"{room}.py"), 1))
    for package in INTEGRATIONS:
        lines += _draw_folder(folder_of(package), 0)
    return "".join(f"{line}\n" for line in lines)


def render(page: str) -> str:
    """Return the page with its drawing replaced."""
    return _DRAWING.sub(lambda _: draw(), page, count=1)


def _draw_folder(folder: Path, depth: int) -> Iterator[str]:
    own = folder / "__init__.py"
    if not own.is_file():
        return
    yield _line(f"{folder.name}/", _summary(own), depth)
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _draw_folder(path, depth + 1)
        elif path.suffix == ".py" and path != own:
            yield _line(path.name, _summary(path), depth + 1)


def _line(name: str, summary: str, depth: int) -> str:
    return f"{'  ' * depth + name:<{_COLUMN}} {summary}"


def _summary(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    if "--write" in sys.argv[1:]:
        PAGE.write_text(render(text), encoding="utf-8")
    elif render(text) != text:
        sys.exit("docs/architecture.md is out of date: run python docs/architecture.py --write")
