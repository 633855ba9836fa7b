"""Tenant: run the jobs of a tenant inside the tenant's scope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from workerctx.errors import Abort
from workerctx.service.inside import run_inside
from workerctx.service.jobctx import JobCtx

if TYPE_CHECKING:
    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request
    from workerctx.service.tenancy import TenantScopeProvider


@frozen(eq=False)
class Tenant:
    """Enters the scope of the job's tenant around what is inside, and leaves it whatever happens there.

    A worker does the same around all layers if it is given a ``tenant_scope``. This layer is for the handlers of one
    registry, or for one handler.

    Args:
        scope: Called with the tenant's id, returns an async context manager. What it raises on the way in fails the
            run, which is then retried like any other.
        required: Whether a job without a tenant is dead at once; otherwise it runs without a scope.
    """

    scope: TenantScopeProvider
    required: bool = field(default=False, kw_only=True)

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, in the tenant's scope.

        Raises:
            Abort: The job has no tenant, and needs one.
            MissingData: The request has no `JobCtx`.
        """
        tenant = request.data.require(JobCtx).job.tenant_id
        if tenant is not None:
            return await run_inside(self.scope(tenant), lambda: call_next(request))
        if self.required:
            raise Abort(f"{request.kind} runs for tenants only: enqueue it with a tenant_id")
        return await call_next(request)
