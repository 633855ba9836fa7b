"""A forked child must not believe that its parent's workers run in it."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workerctx.lifecycle.shell import Shell

_shells: weakref.WeakSet[Shell] = weakref.WeakSet()


def remember(shell: Shell) -> None:
    """Have the child process's copy of a worker told of a fork; one that was started is stopped there."""
    _shells.add(shell)


def _stop_copies() -> None:
    for shell in list(_shells):
        shell.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stop_copies)
