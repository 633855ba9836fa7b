"""Print a pip constraints file that holds every direct requirement at the lowest version it allows.

The bounds are pyproject.toml's own, extras included, so that a bound that does not work fails the build.

Usage: python .ci/lowest.py [PYPROJECT]
"""

from __future__ import annotations

import sys
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pins(pyproject: str) -> list[str]:
    """Return one ``name==floor`` for each requirement, sorted by name.

    Raises:
        SystemExit: a requirement has no single lower bound, or two of the same name differ.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    found: dict[str, str] = {}
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name == project["name"]:
            continue
        pin = f"{name}=={_floor(requirement)}" + (f" ; {requirement.marker}" if requirement.marker else "")
        if found.setdefault(name, pin) != pin:
            raise SystemExit(f"{name} has two lower bounds: {found[name]} and {pin}")
    return [found[name] for name in sorted(found)]


def _floor(requirement: Requirement) -> str:
    floors = [spec.version for spec in requirement.specifier if spec.operator == ">="]
    if len(floors) != 1:
        raise SystemExit(f"{requirement} needs exactly one lower bound (>=)")
    return floors[0]


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "pyproject.toml")
    print("\n".join(pins(path.read_text(encoding="utf-8"))))  # noqa: T201 - its output
