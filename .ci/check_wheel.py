"""Refuse a wheel that takes names beside ours, or ships a package without its types.

Usage: python .ci/check_wheel.py WHEEL, in the checkout that it was built from
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

_OURS = re.compile(r"workerctx(_[a-z]+)?")
_METADATA = re.compile(r"workerctx-[^/]+\.dist-info")


def problems(files: list[str], *, expected: set[str]) -> list[str]:
    """Return one sentence for everything that is wrong with a wheel of these files.

    Args:
        files: the names in the wheel.
        expected: the packages that must be in it.
    """
    tops = {PurePosixPath(file).parts[0] for file in files}
    packages = {top for top in tops if _OURS.fullmatch(top)}
    foreign = {top for top in tops - packages if not _METADATA.fullmatch(top)}
    return [
        *(f"{name} is a top-level name that is not ours" for name in sorted(foreign)),
        *(f"{name} is missing" for name in sorted(expected - packages)),
        *(f"{name} ships no py.typed" for name in sorted(packages) if f"{name}/py.typed" not in files),
    ]


def packages_of(checkout: Path) -> set[str]:
    """Return the names of the packages in the tree: the core and every integration."""
    return {
        "workerctx",
        *(folder.name for folder in (checkout / "integrations").iterdir() if folder.is_dir()),
    }


if __name__ == "__main__":
    with ZipFile(sys.argv[1]) as wheel:
        found = problems(wheel.namelist(), expected=packages_of(Path()))
    sys.exit("\n".join(found) or None)
