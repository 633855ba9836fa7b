"""What a handler in a process of its own knows about its run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from attrs import define, field

from workerctx.queue import decode_json, encode_json
from workerctx.service.cancel import JobCancel

if TYPE_CHECKING:
    from collections.abc import Callable


def _tell_nobody(_news: dict[str, Any]) -> None:
    pass


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"progress is told in finite numbers, got {number}")
    return number


@define(eq=False)
class ProcessCtx:
    """One run of a job, as the process of its handler sees it.

    A handler with ``executor="process"`` gets it as its first parameter: ``def render(ctx: ProcessCtx, path: str)``.
    A test makes its own: ``render(ProcessCtx("1"), "cat.svg")``.

    Attributes:
        job_id: The job's id.
        attempt: Which run this is; 1 is the first.
        cancel: Tells that and why the run should stop; ask it with ``is_set()`` or ``check()``.
    """

    job_id: str
    attempt: int = 1
    cancel: JobCancel = field(factory=JobCancel, repr=False)
    _report: Callable[[dict[str, Any]], None] = field(default=_tell_nobody, alias="report", repr=False)

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how far the run is; the newest value is stored soon.

        Args:
            done: How much is done, in any unit.
            total: How much there is, in the same unit.

        Raises:
            ValueError: One of them is not finite.

        Threads: any.
        """
        self._report({"done": _finite(done), "total": None if total is None else _finite(total)})

    def heartbeat(self, detail: Any = None) -> None:
        """Say that the run goes on, and what it does at the moment; stored soon, beside its progress.

        Args:
            detail: Any JSON value; None takes back an earlier one.

        Raises:
            InvalidRequest: It is not JSON, or too large.

        Threads: any.
        """
        self._report({"detail": decode_json(encode_json(detail, "detail"))})
