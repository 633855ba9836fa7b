"""``python -m workerctx``: the command line."""

from __future__ import annotations

import io
import sys
from typing import cast


def main() -> None:
    """Run the command line, or say which extra it needs."""
    try:
        from workerctx.cli import app
        from workerctx.cli.ending import bound_exit
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] not in {"cyclopts", "rich", "watchfiles"}:
            raise
        sys.exit("workerctx's command line needs the 'cli' extra: pip install 'workerctx[cli]'")
    output = cast("object", sys.stdout)
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(errors="backslashreplace")
    try:
        app()
    finally:
        bound_exit()


if __name__ == "__main__":
    main()
