"""Slots: the long-lived tasks that run jobs, one at a time each."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import anyio.lowlevel
from attrs import define, field

from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.queue import CancelReason, CompleteLease, ReleaseLease
from workerctx.runtime.outcome import finish_of_cancellation, finish_of_error
from workerctx.service import JobCtx
from workerctx.service.layers.catch import as_failure

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import Finish
    from workerctx.runtime.desk import Desk, Run
    from workerctx.service import JobRegistry, Site
    from workerctx.service.branch import AnyHandler

_VERDICTS: Final = (Abort, RetryAfter, Snooze, Throttled)
_TURN: Final = 0.001
"""Seconds that slots may run jobs which never wait before everybody else gets a turn."""


class TenantScopeProvider(Protocol):
    """Makes the scope inside which the jobs of a tenant run."""

    def __call__(self, tenant_id: str, /) -> AbstractAsyncContextManager[object]:
        """Return the scope of one tenant; it is entered and left around every attempt."""
        ...


@define(eq=False)
class Slots:
    """Runs the jobs that a desk hands out."""

    _desk: Desk
    _jobs: JobRegistry
    _context: WorkerContext
    _site: Site
    _tenant_scope: TenantScopeProvider | None
    _turn_ends: float = field(default=0.0, init=False)

    async def work(self, number: int) -> None:
        """Be slot `number`: run one job after the other until the desk is closed."""
        while (run := await self._desk.take()) is not None:
            await self._run(run, number)
            if time.perf_counter() >= self._turn_ends:
                await anyio.lowlevel.checkpoint()
                self._turn_ends = time.perf_counter() + _TURN

    async def _run(self, run: Run, number: int) -> None:
        job = run.job
        handler = self._jobs.find(job.kind)
        if handler is None:
            self._desk.finish(run, ReleaseLease(run.lease.id))
            return
        deadline = math.inf if job.timeout is None else anyio.current_time() + job.timeout
        run.scope = scope = anyio.CancelScope(deadline=deadline)
        run.ctx = ctx = JobCtx(job, self._site, f"{job.queue}-{number}-{self._site.host_id}", deadline)
        finish: Finish | None = ReleaseLease(run.lease.id)
        try:
            with scope:
                finish = await self._attempt(run, ctx, handler)
            if scope.cancelled_caught:
                reason = ctx.cancel.reason
                if reason is None or (reason is CancelReason.SHUTDOWN and anyio.current_time() >= deadline):
                    reason = CancelReason.TIMEOUT
                finish = finish_of_cancellation(run.lease.id, reason, job.timeout)
        except BaseException as exc:
            failure = as_failure(exc)
            if failure is None:
                # Ctrl-C, or the whole worker is being cancelled: the job is given back.
                if isinstance(exc, KeyboardInterrupt):
                    self._context.stop("KeyboardInterrupt", grace=0.0)
                raise
            finish = finish_of_error(run.lease.id, failure)
        finally:
            self._desk.finish(run, finish)

    async def _attempt(self, run: Run, ctx: JobCtx, handler: AnyHandler) -> Finish:
        tenant = run.job.tenant_id
        if tenant is None or self._tenant_scope is None:
            output: Any = await self._context.track(handler.run(ctx))
        else:
            async with self._tenant_scope(tenant):
                output = await self._context.track(handler.run(ctx))
        if isinstance(output, _VERDICTS):
            return finish_of_error(run.lease.id, output)
        return CompleteLease(run.lease.id, handler.encode_output(output))
