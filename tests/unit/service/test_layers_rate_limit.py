"""Rate limits, on one event loop and in the cluster."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from workerctx.errors import MissingData, Throttled, UnknownScope
from workerctx.queue import QueuedJob
from workerctx.service import JobCtx, Request
from workerctx.service.layers import ClusterRateLimit, LocalRateLimit, by_kind, by_tenant


async def done(request: Request) -> str:
    return request.kind


def request_of(site, **job) -> Request:
    request = Request("job")
    request.data.insert(JobCtx, JobCtx(QueuedJob(id="1", kind="job", **job), site))
    return request


@pytest.mark.usefixtures("virtual_time")
async def test_the_window_is_never_overfilled():
    """Item 29: at most `limit` begin within any `per` seconds; the others learn exactly how long to wait."""
    layer, began = LocalRateLimit(3, timedelta(seconds=10)), []
    start = anyio.current_time()
    while len(began) < 9:
        try:
            await layer(Request("job"), done)
        except Throttled as exc:
            assert exc.scope is None
            await anyio.sleep(exc.retry_after)
        else:
            began.append(round(anyio.current_time() - start, 6))
            await anyio.sleep(1)
    assert began == [0, 1, 2, 10, 11, 12, 20, 21, 22]


@pytest.mark.usefixtures("virtual_time")
async def test_keys_have_windows_of_their_own(site):
    """`by` counts each key for itself, and what is over is forgotten."""
    layer = LocalRateLimit(1, 10, by=by_kind)
    assert await layer(Request("a"), done) == "a"
    assert await layer(Request("b"), done) == "b"
    with pytest.raises(Throttled):
        await layer(Request("a"), done)
    for number in range(1000):
        await anyio.sleep(5)
        await layer(Request(f"kind {number}"), done)
    assert len(layer._windows) <= 64
    tenants = LocalRateLimit(1, 10, by=by_tenant)
    await tenants(request_of(site, tenant_id="one"), done)
    await tenants(request_of(site, tenant_id="two"), done)
    with pytest.raises(Throttled):
        await tenants(request_of(site, tenant_id="one"), done)


async def test_who_was_refused_did_not_reach_the_handler():
    """A refused request calls nothing, and a failing one has used its place."""
    calls: list[str] = []

    async def fail(request: Request):
        calls.append(request.kind)
        raise ValueError

    layer = LocalRateLimit(1, 3600)
    with pytest.raises(ValueError):
        await layer(Request("a"), fail)
    with pytest.raises(Throttled) as caught:
        await layer(Request("b"), fail)
    assert calls == ["a"]
    assert 0 < caught.value.retry_after <= 3600


async def test_the_cluster_shares_a_limit(storage, site):
    """W8: the limit is the store's, whoever asks; a refusal tells how long to wait."""
    await storage.rate_limits.configure("github", capacity=2, per=60)
    one, other = ClusterRateLimit("github"), ClusterRateLimit(lambda request: "git" + "hub")
    assert await one(request_of(site), done) == "job"
    assert await other(request_of(site), done) == "job"
    with pytest.raises(Throttled) as caught:
        await one(request_of(site), done)
    assert 0 < caught.value.retry_after <= 30


async def test_a_refusal_does_not_drain_the_limit(storage, site):
    """W8: `Throttled` with a scope would drain the limit for everybody, so a refused job carries none."""
    await storage.rate_limits.configure("github", capacity=10, per=60)
    await storage.rate_limits.acquire("github", amount=5)
    with pytest.raises(Throttled) as caught:
        await ClusterRateLimit("github", amount=8)(request_of(site), done)
    assert caught.value.scope is None
    assert await ClusterRateLimit("github", amount=5)(request_of(site), done) == "job"


async def test_an_unknown_limit_is_an_error(site):
    """W8: a limit that nobody configured is no unlimited limit."""
    with pytest.raises(UnknownScope, match="configure it first"):
        await ClusterRateLimit("nobody")(request_of(site), done)
    with pytest.raises(MissingData):
        await ClusterRateLimit("nobody")(Request("job"), done)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LocalRateLimit(0, 1),
        lambda: LocalRateLimit(1, 0),
        lambda: ClusterRateLimit("a", amount=0),
    ],
)
def test_numbers_out_of_range_are_refused(make):
    """Limits, amounts and times are above 0."""
    with pytest.raises(ValueError):
        make()
