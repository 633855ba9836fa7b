"""The house that docs/architecture.md draws is the one that stands."""

import ast
import runpy
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace

import pytest

house = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "docs" / "architecture.py")))
CORE = house.folder_of("workerctx")
MODULES = {
    ".".join(["workerctx", *path.relative_to(CORE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(CORE.rglob("*.py"))
}


def every_import(module: str, *, types: bool = True) -> set[str]:
    """The modules that a module of the core imports, at its head and inside functions, itself excluded."""
    nodes: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    found = set()
    for node in nodes:
        match node:
            case ast.If(test=ast.Name("TYPE_CHECKING")) if not types:
                nodes += node.orelse
            case _:
                found.update(names_in(node))
                nodes += ast.iter_child_nodes(node)
    return found - {module}


def names_in(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(source), names=names):
            inner = [f"{source}.{alias.name}" for alias in names]
            return [name if name in MODULES else source for name in inner]
        case _:
            return []


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "workerctx" and len(parts) > 1 and parts[1] in house.ROOMS else None


def test_the_drawing_shows_what_the_tree_has():
    """The page's drawing is the one that `python docs/architecture.py --write` would make."""
    page = house.PAGE.read_text(encoding="utf-8")
    assert house.render(page) == page, "run python docs/architecture.py --write"


def test_every_module_of_the_core_is_in_a_room():
    """Beside the rooms there are only the public names and the program's entry."""
    assert [name for name in MODULES if room(name) is None] == ["workerctx", "workerctx.__main__"]


@pytest.mark.parametrize("module", [name for name in MODULES if room(name)])
def test_a_room_imports_only_from_the_rooms_below(module):
    """No module imports from a room above its own, from an integration or, the cli apart, the public names."""
    own = house.ROOMS.index(room(module))
    for name in every_import(module):
        if name.partition(".")[0].startswith("workerctx") and (name, room(module)) != ("workerctx", "cli"):
            assert room(name) is not None, f"{module} imports {name}"
            assert house.ROOMS.index(room(name)) <= own, f"{module} imports {name}, which is above it"


def test_there_are_no_circles():
    """The modules can be put in an order in which each needs only earlier ones when it runs, functions included."""
    graph = {module: {name for name in every_import(module, types=False) if name in MODULES} for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)
