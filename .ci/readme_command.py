"""Print one of README's commands, so that what CI runs is what README says.

Usage: python .ci/readme_command.py NUMBER [README]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_SH_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def command(readme: str, number: int) -> str:
    """Return the text of the fenced ``sh`` block with that number; the first is 1.

    Raises:
        SystemExit: README has no such block.
    """
    blocks: list[str] = _SH_BLOCK.findall(readme)
    if not 1 <= number <= len(blocks):
        raise SystemExit(f"README has {len(blocks)} fenced sh blocks, number {number} was asked for")
    return blocks[number - 1]


if __name__ == "__main__":
    path = Path(sys.argv[2] if len(sys.argv) > 2 else "README.md")  # noqa: PLR2004 - the second argument
    sys.stdout.write(command(path.read_text(encoding="utf-8"), int(sys.argv[1])))
