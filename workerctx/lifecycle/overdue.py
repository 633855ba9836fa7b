"""Naming the work that outlives a worker's deadline."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from typing import TYPE_CHECKING

from workerctx.lifecycle.tracked import Tracked

if TYPE_CHECKING:
    from workerctx.lifecycle.ledger import Ledger
    from workerctx.lifecycle.shell import Shell

_log = logging.getLogger("workerctx")


def report_overdue(shell: Shell) -> None:
    """Log which tracked work and which children are still in."""
    counted = Counter(labels(shell.ledger))
    names = [f"{label} (x{times})" if times > 1 else label for label, times in counted.most_common(20)]
    names += [f"worker {child.machine.name}" for child in shell.children]
    _log.warning(
        "worker %r is past its deadline and still waits for %d tasks and %d child workers: %s. Tracked work belongs to"
        " whoever awaits it and is not cancelled",
        shell.machine.name,
        shell.ledger.count,
        len(shell.children),
        ", ".join(names),
    )


def labels(ledger: Ledger) -> list[str]:
    """Name everything that is in."""
    # Keeping a list would cost every track() more than the rest of it; the garbage collector knows them all.
    return [
        found.label
        for found in gc.get_referrers(ledger)
        if isinstance(found, Tracked) and found.ledger is ledger and found.is_in
    ]
