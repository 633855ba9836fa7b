"""The time of runs: when it is over they are told, and a thread that goes on all the same is reported."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Final

from attrs import define, field

from workerctx.queue import CancelReason
from workerctx.runtime.events import RunOverran

if TYPE_CHECKING:
    from workerctx.lifecycle import WorkerContext
    from workerctx.runtime.config import WorkerConfig
    from workerctx.runtime.desk import Desk
    from workerctx.runtime.run import Run
    from workerctx.service import JobCtx

_log = logging.getLogger("workerctx")

LOOK_EVERY: Final = 0.25
"""Seconds between two looks."""
TIMED_FROM: Final = 1.0
"""Seconds; a run with a timeout this long or longer gets its timer at the first look after it has begun."""


@define(eq=False)
class Overruns:
    """Watches the running jobs of a worker."""

    _desk: Desk
    _config: WorkerConfig
    _context: WorkerContext
    _over_since: dict[str, float] = field(factory=dict[str, float], init=False)
    """When runs in threads were seen to be over, by lease id."""
    _reported: set[str] = field(factory=set[str], init=False)

    def look(self) -> None:
        """Set timers for timeouts, tell handlers whose timeout is over, and report threads that go on for too long."""
        now = self._desk.clock()
        over: dict[str, float] = {}
        for lease_id, run in self._desk.running.items():
            ctx = run.ctx
            if ctx is None:
                continue
            if run.scope is not None and run.scope.deadline > ctx.deadline:
                run.scope.deadline = ctx.deadline
            if ctx.deadline <= now:  # in a thread no cancel scope reaches it
                ctx.cancel.set(CancelReason.TIMEOUT)
            if ctx.thread_id is not None and self._is_over(ctx, now):
                over[lease_id] = self._over_since.get(lease_id, now)
        self._over_since = over
        self._reported &= over.keys()
        for lease_id, since in over.items():
            if now - since >= self._patience and lease_id not in self._reported:
                self._reported.add(lease_id)
                self._report(self._desk.running[lease_id], now - since)

    @property
    def _patience(self) -> float:
        # Whoever owns the process ends it at the hard limit, so there is less time to say anything.
        ending = self._context.time_left == 0
        return (
            min(self._config.overrun_warning, self._config.hard_limit / 2) if ending else self._config.overrun_warning
        )

    def _is_over(self, ctx: JobCtx, now: float) -> bool:
        if ctx.cancel.reason is CancelReason.SHUTDOWN:  # until the deadline it may go on
            return self._context.time_left == 0 or ctx.deadline <= now
        return ctx.cancel.is_set()

    def _report(self, run: Run, seconds: float) -> None:
        assert run.ctx is not None
        frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented, for debuggers
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frame = frames.get(run.ctx.thread_id or 0)
        stack = "".join(traceback.format_stack(frame, limit=20)) if frame else "unknown"
        _log.warning(
            "job %s %s (run %d) of worker %r was to end %.1f seconds ago (%s) and goes on in thread %r, here:\n%s",
            run.job.kind,
            run.job.id,
            run.job.attempt,
            self._context.name,
            seconds,
            run.ctx.cancel.reason,
            names.get(run.ctx.thread_id),
            stack,
        )
        self._context.emit(RunOverran(job=run.job, seconds=seconds, stack=stack))
