"""Which boot of a process this is, and a number for every slot in it."""

from __future__ import annotations

import os
from functools import cache
from itertools import count
from typing import Final

from workerctx.queue import new_id


def host_id() -> str:
    """Return the time-ordered id of this boot of the process; a forked child has its own."""
    return _boot(os.getpid())


@cache
def _boot(_pid: int) -> str:
    return new_id()


slot_numbers: Final = count()
"""Numbers slots through all loops of the process, so that no two of them share a process id."""
