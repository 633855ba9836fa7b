"""Tenant: the jobs of a tenant run inside the tenant's scope."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

import pytest

from workerctx.errors import Abort, MissingData
from workerctx.queue import QueuedJob
from workerctx.service import JobCtx, Request
from workerctx.service.layers import Retry, Tenant


def request_of(site, tenant: str | None) -> Request:
    request = Request("job")
    request.data.insert(JobCtx, JobCtx(QueuedJob(id="1", kind="job", tenant_id=tenant), site))
    return request


class Scopes:
    """Remembers who was entered and left."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @asynccontextmanager
    async def __call__(self, tenant_id: str):
        if tenant_id == "gone":
            raise LookupError("no such tenant")
        self.seen.append(f"enter {tenant_id}")
        try:
            yield
        finally:
            self.seen.append(f"leave {tenant_id}")


async def test_a_run_is_inside_of_its_tenants_scope(site):
    """W9: the scope is entered and left around every run, whatever happens inside."""
    scopes = Scopes()

    async def succeed(request: Request) -> str:
        scopes.seen.append("handler")
        return "done"

    async def fail(request: Request) -> None:
        raise ValueError("mine")

    assert await Tenant(scopes)(request_of(site, "one"), succeed) == "done"
    with pytest.raises(ValueError, match="mine"):
        await Tenant(scopes)(request_of(site, "two"), fail)
    assert scopes.seen == ["enter one", "handler", "leave one", "enter two", "leave two"]


async def test_jobs_without_a_tenant(site):
    """They run without a scope; where a tenant is required they are dead, with the remedy."""
    scopes = Scopes()

    async def succeed(request: Request) -> str:
        return "done"

    assert await Tenant(scopes)(request_of(site, None), succeed) == "done"
    assert scopes.seen == []
    with pytest.raises(Abort, match="runs for tenants only: enqueue it with a tenant_id"):
        await Tenant(scopes, required=True)(request_of(site, None), succeed)
    with pytest.raises(MissingData):
        await Tenant(scopes)(Request("job"), succeed)


async def test_an_unknown_tenant_fails_the_run(site):
    """What the scope raises on the way in is a failure like any other, to be retried."""
    with pytest.raises(LookupError, match="no such tenant"):
        await Tenant(Scopes())(request_of(site, "gone"), lambda request: 1 / 0)


async def test_a_scope_cannot_turn_a_failure_into_a_success(site):
    """A scope that swallows the exception does not make a failed job look like a success."""

    @asynccontextmanager
    async def swallowing(tenant_id: str):
        with suppress(ValueError):
            yield

    async def fail(request: Request) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await Tenant(swallowing)(request_of(site, "one"), fail)


@pytest.mark.usefixtures("virtual_time")
async def test_each_try_enters_it_again_inside_of_a_retry(site):
    """Inside of a retry the scope is fresh for each try; outside, one is around all of them."""
    scopes = Scopes()

    async def fail(request: Request) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await Retry(1)(request_of(site, "one"), lambda request: Tenant(scopes)(request, fail))
    assert scopes.seen == ["enter one", "leave one"] * 2
    scopes.seen.clear()
    with pytest.raises(ValueError, match="mine"):
        await Tenant(scopes)(request_of(site, "one"), lambda request: Retry(1)(request, fail))
    assert scopes.seen == ["enter one", "leave one"]
