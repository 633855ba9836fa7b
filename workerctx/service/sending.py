"""Enqueueing: requests on their way to the store, and who stands there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from workerctx.queue import EnqueueOutcome, EnqueueRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

SendRequests: TypeAlias = Callable[[Sequence[EnqueueRequest]], Awaitable[Sequence[EnqueueOutcome]]]
"""Adds jobs in one transaction; the outcomes are in the order of the requests."""

EnqueueHook: TypeAlias = Callable[[Sequence[EnqueueRequest], SendRequests], Awaitable[Sequence[EnqueueOutcome]]]
"""Stands around each enqueueing as a layer stands around a run: ``(requests, send)``.

It calls ``send`` once, with these requests or as many others, made by `EnqueueRequest.with_options`, and returns what
that returns. What it raises reaches the caller.
"""


async def send_one(
    request: EnqueueRequest, hook: EnqueueHook | None, store: Callable[[EnqueueRequest], Awaitable[EnqueueOutcome]]
) -> EnqueueOutcome:
    """Add one job, through the hook if there is one."""
    if hook is None:
        return await store(request)

    async def send(requests: Sequence[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
        (changed,) = requests
        return (await store(changed),)

    (outcome,) = await hook((request,), send)
    return outcome


async def send_many(
    requests: Iterable[EnqueueRequest], hook: EnqueueHook | None, store: SendRequests
) -> Sequence[EnqueueOutcome]:
    """Add many jobs in one transaction, through the hook if there is one."""
    listed = tuple(requests)
    return await (store(listed) if hook is None else hook(listed, store))
