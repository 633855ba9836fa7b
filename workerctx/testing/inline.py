"""Jobs that run at once, where they are enqueued."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import anyio
from attrs import define, field

from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.lifecycle import WorkerContext
from workerctx.queue import CompleteLease, FailLease, ReleaseLease
from workerctx.runtime.boot import host_id
from workerctx.service import DataMap, JobCtx, Site
from workerctx.service.describe import describe
from workerctx.service.inside import run_inside
from workerctx.testing.journal import NotingJobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from workerctx.queue import Claimed, EnqueueOutcome, EnqueueRequest, Finish, QueuedJob
    from workerctx.service import AnyHandler, JobRegistry, TenantScopeProvider

_LEASE: Final = 7 * 86400.0
"""Seconds; longer than any test."""


@define(eq=False)
class InlineJobs(NotingJobs):
    """A job queue that runs each job before `enqueue` returns."""

    registry: JobRegistry
    data: DataMap
    tenant_scope: TenantScopeProvider | None
    _turn: anyio.Lock = field(factory=anyio.Lock, init=False)

    async def enqueue_bulk(
        self,
        requests: Iterable[EnqueueRequest],
        *,
        connection: Any = None,  # noqa: ARG002 - part of the contract
    ) -> Sequence[EnqueueOutcome]:
        """Add jobs, and run them and those that waited for them, one after the other."""
        # Enqueueing and claiming are one step, so that tasks side by side get the failures of their own jobs.
        async with self._turn:
            outcomes = await super().enqueue_bulk(requests)
            claimed = await self._claim()
        while claimed:
            await self._run_all(claimed)
            async with self._turn:
                claimed = await self._claim()
        return outcomes

    async def store(self, requests: Sequence[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
        """Add jobs to the store, due at once."""
        return await super().store([request.with_options(delay=0.0) for request in requests])

    async def _claim(self) -> Sequence[Claimed]:
        return await self.real.claim_many(
            "inline",
            labels={label for request in self.enqueued for label in request.required_labels},
            lease_ttl=_LEASE,
            queues=sorted({request.queue for request in self.enqueued}) or ["default"],
            kinds=self.registry.kinds,
        )

    async def _run_all(self, claimed: Sequence[Claimed]) -> None:
        left = list(claimed)
        try:
            while left:
                job, lease = left.pop(0)
                await self._run(job, lease.id)
        finally:
            if left:
                with anyio.CancelScope(shield=True):
                    await self.real.finish_many([ReleaseLease(lease.id) for _, lease in left])

    async def _run(self, job: QueuedJob, lease_id: str) -> None:
        handler = self.registry.find(job.kind)
        assert handler is not None
        finish: Finish | None = None
        try:
            output = await self._call(job, lease_id, handler)
            finish = CompleteLease(lease_id, handler.encode_output(output))
        except BaseException as exc:
            finish = FailLease(lease_id, describe(exc), retryable=False)
            raise
        finally:
            assert finish is not None
            with anyio.CancelScope(shield=True):
                await self.real.finish_many([finish])

    async def _call(self, job: QueuedJob, lease_id: str, handler: AnyHandler) -> Any:
        deadline = math.inf if job.timeout is None else anyio.current_time() + job.timeout
        reports: list[Any] = []
        failure: Exception | None = None
        output: Any = None
        async with WorkerContext("inline") as worker:
            site = Site(
                storage=self.registry.storage,
                worker=worker,
                router=self.registry.router,
                host_id=host_id(),
                data=self.data,
                report=lambda _, value: reports.append(value),
                on_enqueue=self.registry.on_enqueue,
            )
            ctx = JobCtx(job, site, f"{job.queue}-inline-{site.host_id}", deadline)
            tenant = job.tenant_id
            scope = nullcontext() if tenant is None or self.tenant_scope is None else self.tenant_scope(tenant)
            try:
                with anyio.fail_after(job.timeout):
                    output = await run_inside(scope, lambda: _outcome(handler.run(ctx)))
            except Exception as exc:  # noqa: BLE001 - raised again below; it is no failure of the worker
                failure = exc
        if reports:
            await self.real.progress(lease_id, reports[-1])
        if failure is not None:
            raise failure
        return output


async def _outcome(work: Awaitable[Any]) -> Any:
    output = await work
    if isinstance(output, (Abort, RetryAfter, Snooze, Throttled)):
        raise output
    return output
