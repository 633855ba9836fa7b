"""Slots: the long-lived tasks that run jobs, one at a time each."""

from __future__ import annotations

import math
import time
from contextvars import copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel
from attrs import define, field

from workerctx.errors import HandlerCrashed, NotAccepting, RunCancelled, WorkerError
from workerctx.lifecycle.groups import is_cancelled_here
from workerctx.queue import CompleteLease, FailLease, ReleaseLease
from workerctx.runtime.boot import slot_numbers
from workerctx.runtime.events import JobFinished, JobOutcome
from workerctx.runtime.outcome import (
    VERDICTS,
    finish_of_cancellation,
    finish_of_error,
    finish_of_error_in_cancelled_run,
    outcome_of,
    reason_of,
)
from workerctx.runtime.overruns import TIMED_FROM
from workerctx.runtime.strays import StrayCancels, is_running
from workerctx.service import JobCtx
from workerctx.service.describe import own_traceback
from workerctx.service.inside import run_inside
from workerctx.service.layers.catch import as_failure, holds

if TYPE_CHECKING:
    from contextvars import Context

    from anyio.abc import TaskGroup

    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import Finish
    from workerctx.runtime.desk import Desk
    from workerctx.runtime.run import Run
    from workerctx.service import JobRegistry, Site, TenantScopeProvider
    from workerctx.service.branch import AnyHandler

_COROUTINE: Final[type[Any]] = CoroutineType
_TURN: Final = 0.001
"""Seconds that slots may run jobs which never wait before everybody else gets a turn."""


@define(eq=False)
class Slots:
    """Runs the jobs that a desk hands out.

    Attributes:
        interrupt: The KeyboardInterrupt that a handler left with; whoever runs the worker raises it again.
    """

    _desk: Desk
    _jobs: JobRegistry
    _context: WorkerContext
    _site: Site
    _tenant_scope: TenantScopeProvider | None
    interrupt: BaseException | None = field(default=None, init=False)
    _at_work: int = field(default=-1, init=False)
    """The slot that began a job last."""
    _turn_ends: float = field(default=0.0, init=False)

    def start(self, tasks: TaskGroup) -> None:
        """Open one more slot in a task group, with the context variables of the caller."""
        number = next(slot_numbers)
        tasks.start_soon(self._work, tasks, number, name=f"slot {number}")

    async def _work(self, tasks: TaskGroup, number: int) -> None:
        """Be a slot: run one job after the other until the desk is closed."""
        clean, strays, me = copy_context(), StrayCancels.of_this_task(), anyio.get_current_task().id
        while True:
            try:
                run = await self._desk.take()
            except anyio.get_cancelled_exc_class() as exc:
                if is_cancelled_here():
                    raise
                raise WorkerError(
                    f"slot {number} was cancelled while it waited for a job, by something other than its worker: use"
                    " stop() to end a worker"
                ) from exc
            if run is None:
                return
            self._at_work = number
            await self._run(run, number, me)
            if strays is not None and strays.pending():
                await strays.drop()
            if not _same(clean):
                # The handler left context variables behind, which must not reach the next job.
                clean.run(self.start, tasks)
                return
            # A slot whose job waited has let the others work.
            if self._at_work == number and time.perf_counter() >= self._turn_ends:
                await anyio.lowlevel.checkpoint()
                self._turn_ends = time.perf_counter() + _TURN

    async def _run(self, run: Run, number: int, me: int) -> None:
        job = run.job
        handler = self._jobs.find(job.kind)
        timeout = math.inf if job.timeout is None else job.timeout
        deadline = self._desk.clock() + timeout
        # A timer costs much of a short job: where there is time, only runs that go on get one, from `Overruns`.
        run.scope = scope = anyio.move_on_at(deadline if timeout < TIMED_FROM else math.inf)
        run.ctx = ctx = JobCtx(job, self._site, f"{job.queue}-{number}-{self._site.host_id}", deadline)
        finish: Finish | None = ReleaseLease(run.lease.id)
        failure: Exception | None = None
        try:
            # A pause or stop from another thread may be ahead of its event.
            if handler is not None and self._context.is_running:
                with scope:
                    finish = await self._attempt(run, ctx, handler)
                if scope.cancelled_caught:
                    finish = finish_of_cancellation(run.lease.id, reason_of(ctx), job.timeout)
        except BaseException as exc:
            failure = as_failure(exc) or self._failure_after_all(exc, me)
            if failure is not None:
                finish = self._finish_of(run, ctx, failure)
            elif holds(exc, KeyboardInterrupt):
                self.interrupt = exc
                self._context.stop("KeyboardInterrupt", grace=0.0)
            else:
                raise  # the whole worker is being cancelled, and the job is given back
        finally:
            self._desk.finish(run, finish)
            if isinstance(finish, FailLease):
                self._report(run, ctx, finish, failure)
            if self._context.hears(JobFinished):
                self._tell(run, ctx, finish)

    def _report(self, run: Run, ctx: JobCtx, finish: FailLease, failure: Exception | None) -> None:
        outcome = outcome_of(run.job, finish, ctx.cancel.reason)
        shown = failure and (type(failure), failure, own_traceback(failure))
        if outcome is JobOutcome.FAILED:
            left = run.job.max_attempts - run.job.attempt
            ctx.log.warning("failed and is tried again, %d more at most: %s", left, finish.error, exc_info=shown)
        elif outcome is JobOutcome.DEAD:
            ctx.log.error("failed for good, the job is dead: %s", finish.error, exc_info=shown)

    def _tell(self, run: Run, ctx: JobCtx, finish: Finish | None) -> None:
        job = run.job
        # Due to claimed by the store's clock, claimed to begun by ours.
        waited = max(0.0, run.lease.granted_at - job.run_at) + run.began_at - run.claimed_at
        self._context.tell(
            JobFinished(
                job=job,
                outcome=outcome_of(job, finish, ctx.cancel.reason),
                error=finish.error if isinstance(finish, FailLease) else None,
                seconds=self._desk.clock() - run.began_at,
                waited=waited,
            )
        )

    async def _attempt(self, run: Run, ctx: JobCtx, handler: AnyHandler) -> Finish:
        tenant = run.job.tenant_id
        if tenant is None or self._tenant_scope is None:
            return await self._call(run, ctx, handler)
        return cast("Finish", await run_inside(self._tenant_scope(tenant), lambda: self._call(run, ctx, handler)))

    async def _call(self, run: Run, ctx: JobCtx, handler: AnyHandler) -> Finish:
        if run.refusal is not None:
            raise run.refusal
        work: Any = handler.run(ctx)
        # What events and reports call it, whatever wraps the function; an awaitable of another kind keeps its name.
        if type(work) is _COROUTINE:
            work.__qualname__ = run.job.kind
        try:
            tracked = self._context.track(work)
        except NotAccepting:  # a stop from another thread came first
            return ReleaseLease(run.lease.id)
        output: Any = await tracked
        if isinstance(output, VERDICTS):
            return finish_of_error(run.lease.id, output)
        return CompleteLease(run.lease.id, handler.encode_output(output))

    def _finish_of(self, run: Run, ctx: JobCtx, failure: Exception) -> Finish | None:
        cancelled = is_cancelled_here() or (run.scope is not None and run.scope.cancel_called)
        if cancelled or (isinstance(failure, RunCancelled) and ctx.cancel.is_set()):
            reason = reason_of(ctx)
            return finish_of_error_in_cancelled_run(run.lease.id, failure, reason, run.job.timeout)
        return finish_of_error(run.lease.id, failure)

    def _failure_after_all(self, error: BaseException, me: int) -> Exception | None:
        """Return the failure of a handler that raised GeneratorExit, which Python throws only into a task at rest."""
        if not holds(error, GeneratorExit) or holds(error, KeyboardInterrupt) or not is_running(me):
            return None
        crashed = HandlerCrashed("the handler left with GeneratorExit: raise an exception to fail a job")
        crashed.__cause__ = error
        return crashed


def _same(clean: Context) -> bool:
    try:
        return copy_context() == clean
    except Exception:  # noqa: BLE001 - values that cannot be compared are others than before
        return False
