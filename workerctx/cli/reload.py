"""``workerctx worker --reload``: the worker is restarted when a Python file changes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attrs import frozen
from cyclopts import Parameter

from workerctx.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

_NAMED = 3
"""How many changed files are named."""


@Parameter(name="*", group="Reloading")
@frozen
class ReloadOptions:
    """Whether to restart on changes, and where to look for them.

    Attributes:
        wanted: Whether.
        folders: Where; the working directory if there is none.
    """

    wanted: Annotated[
        bool,
        Parameter(
            name="--reload",
            negative="",
            env_var="WORKERCTX_RELOAD",
            help="Restart the worker when a Python file changes, for development.",
        ),
    ] = False
    folders: Annotated[
        list[Path] | None,
        Parameter(
            name="--reload-dir",
            negative="",
            env_var="WORKERCTX_RELOAD_DIR",
            help="With --reload: where to look for changes instead of the working directory; repeat it for more.",
        ),
    ] = None

    def roots(self) -> list[Path]:
        """Return the folders to watch.

        Raises:
            CommandError: One of them is not there.
        """
        roots = [folder.absolute() for folder in self.folders or [Path.cwd()]]
        for root in roots:
            if not root.is_dir():
                raise CommandError(f"there is no folder {root} to watch: check --reload-dir")
        return roots


@contextmanager
def watching(roots: Sequence[Path], changed: Callable[[str], object]) -> Generator[None]:
    """Call `changed` with a sentence when Python files below `roots` change, from a thread, while inside."""
    from watchfiles import PythonFilter, watch

    done = threading.Event()

    def look() -> None:
        for changes in watch(*roots, watch_filter=PythonFilter(), stop_event=done, raise_interrupt=False):
            changed(sentence({path for _, path in changes}, roots))

    thread = threading.Thread(target=look, name="workerctx reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def sentence(paths: set[str], roots: Sequence[Path]) -> str:
    """Say which files have changed, each from the folder that is watched."""
    names = sorted(_short(Path(path), roots) for path in paths)
    named = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{named}{more} changed"


def _short(path: Path, roots: Sequence[Path]) -> str:
    for root in roots:
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)
