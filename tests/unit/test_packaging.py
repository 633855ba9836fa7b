"""What the build ships, and the scripts that watch over it."""

import runpy
import subprocess
import tomllib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
WHEEL = [
    "workerctx/__init__.py",
    "workerctx/py.typed",
    "workerctx_starlette/__init__.py",
    "workerctx_starlette/py.typed",
    "workerctx-0.1.0.dist-info/METADATA",
]
OURS = {"workerctx", "workerctx_starlette"}


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / ".ci" / name))


@pytest.fixture(scope="module")
def problems() -> Callable[..., list[str]]:
    return script("check_wheel.py")["problems"]


@pytest.fixture(scope="module")
def pins() -> Callable[[str], list[str]]:
    return script("lowest.py")["pins"]


@pytest.fixture(scope="module")
def command() -> Callable[[str, int], str]:
    return script("readme_command.py")["command"]


def pyproject(*dependencies: str, **extras: list[str]) -> str:
    return "\n".join(
        [
            "[project]",
            'name = "workerctx"',
            f"dependencies = {list(dependencies)}",
            "[project.optional-dependencies]",
            *(f"{name} = {lines}" for name, lines in extras.items()),
        ]
    )


def test_a_good_wheel_has_no_problems(problems):
    """A wheel of our packages and its metadata passes."""
    assert problems(WHEEL, expected=OURS) == []


@pytest.mark.parametrize(
    "foreign", ["tests/test_it.py", "integrations/README.md", "workerctxtra/__init__.py", "setup.py"]
)
def test_a_wheel_takes_no_name_that_is_not_ours(problems, foreign):
    """A top-level name outside workerctx and workerctx_* is refused by name."""
    assert problems([*WHEEL, foreign], expected=OURS) == [
        f"{foreign.partition('/')[0]} is a top-level name that is not ours"
    ]


def test_every_package_of_a_wheel_is_typed(problems):
    """A package without py.typed is refused, ours by name or by prefix."""
    files = [file for file in WHEEL if file != "workerctx_starlette/py.typed"]
    assert problems(files, expected=OURS) == ["workerctx_starlette ships no py.typed"]


def test_an_integration_that_fell_out_of_the_wheel_is_noticed(problems):
    """A package that should be in the wheel and is not is a problem."""
    files = [file for file in WHEEL if not file.startswith("workerctx_starlette")]
    assert problems(files, expected=OURS) == ["workerctx_starlette is missing"]


def test_the_wheel_is_asked_for_every_integration_in_the_tree(tmp_path):
    """The core and each folder of integrations is expected in the wheel; a loose file there is not."""
    (tmp_path / "integrations" / "workerctx_web").mkdir(parents=True)
    (tmp_path / "integrations" / "README.md").touch()
    assert script("check_wheel.py")["packages_of"](tmp_path) == {"workerctx", "workerctx_web"}


def test_lowest_versions_come_from_the_bounds(pins):
    """Each requirement of the project and of its extras is pinned to its lower bound."""
    text = pyproject(
        "anyio>=4.15,<5",
        'tzdata>=2025.1; sys_platform == "win32"',
        all=["workerctx[web]"],
        web=["HTTPX2[ws]>=2.16"],
    )
    assert pins(text) == ["anyio==4.15", "httpx2==2.16", 'tzdata==2025.1 ; sys_platform == "win32"']


@pytest.mark.parametrize("unbounded", ["anyio", "anyio<5", "anyio>=4,>=4.15"])
def test_a_requirement_without_a_single_lower_bound_is_refused(pins, unbounded):
    """A requirement that does not say what its lowest version is cannot be tested at it."""
    with pytest.raises(SystemExit, match="needs exactly one lower bound"):
        pins(pyproject(unbounded))


def test_two_lower_bounds_of_one_requirement_are_refused(pins):
    """A requirement that two extras bound differently has no lowest version."""
    with pytest.raises(SystemExit, match=r"two lower bounds: anyio==4\.15 and anyio==4\.16"):
        pins(pyproject("anyio>=4.15", web=["anyio>=4.16"]))


def test_the_projects_own_bounds_have_lowest_versions(pins):
    """Every requirement in pyproject.toml has one lower bound."""
    assert any(pin.startswith("anyio==") for pin in pins((ROOT / "pyproject.toml").read_text(encoding="utf-8")))


def test_readme_opens_with_the_two_commands_that_ci_runs(command):
    """README's first two sh blocks are the example and the tests, each for a fresh clone."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/examples/duplicates.py" in command(readme, 1)
    assert command(readme, 2).rstrip().endswith("python -m pytest -q -n auto --dist loadfile")


def test_a_block_that_readme_lacks_is_refused(command):
    """Asking for a command that is not there says how many there are."""
    with pytest.raises(SystemExit, match="README has 1 fenced sh blocks, number 2"):
        command("```sh\ntrue\n```\n", 2)


def test_the_lock_file_holds_allowed_versions_and_no_addresses():
    """The lock has an allowed version of each direct requirement, and names no index and no path."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    locked = {canonicalize_name(pin.name): pin.specifier for pin in map(Requirement, lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for direct in map(Requirement, chain(project["dependencies"], *project["optional-dependencies"].values())):
        if direct.name != project["name"]:
            (pin,) = locked[canonicalize_name(direct.name)]
            assert pin.operator == "=="
            assert pin.version in direct.specifier
    assert "://" not in lock
    assert "--" not in "".join(lines)


def test_the_build_script_parses():
    """.ci/run is valid bash."""
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
