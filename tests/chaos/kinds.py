"""Jobs of many kinds, for the soak: each ends in its own way, and says in `EXPECTED` in which."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from workerctx import JobCtx, JobRegistry
from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.queue import Cancelled, Completed, Constant, EnqueueRequest, Failed, JobState, RateLimit, Storage
from workerctx.service.layers import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

AT_ONCE = Constant(0.0)
LIMIT = RateLimit("soak", capacity=50, per=1.0)

jobs = JobRegistry(layers=[Trace()])


@jobs.register(timeout=60)
async def succeeding(ctx: JobCtx, text: str) -> str:
    """End well, after some progress."""
    ctx.progress(1, 2)
    await anyio.lowlevel.checkpoint()
    return text


@jobs.register(max_attempts=3, retry=AT_ONCE)
async def failing(text: str) -> None:
    """Fail until there are no attempts left."""
    raise ValueError(text)


@jobs.register(max_attempts=3, retry=AT_ONCE)
async def recovering(ctx: JobCtx, text: str) -> None:
    """Fail in three ways, then end well."""
    if ctx.attempt == 1:
        raise ValueError(text)
    if ctx.attempt == 2:
        raise RetryAfter(0.01)
    if ctx.job.run_at - ctx.job.created_at < 0.3:
        raise Snooze(0.3)


@jobs.register
async def giving_up(text: str) -> None:
    """Say that there is no use."""
    raise Abort(text)


@jobs.register
async def limited(ctx: JobCtx, text: str) -> None:
    """Wait for a turn under a limit of the cluster."""
    answer = await ctx.rate_limit.acquire(LIMIT.scope)
    if isinstance(answer, Throttled):
        raise answer


@jobs.register(timeout=0.02, max_attempts=1)
async def late(text: str) -> None:
    """Take longer than allowed."""
    await anyio.sleep_forever()


@jobs.register
async def unwanted(ctx: JobCtx, text: str) -> None:
    """Be cancelled by whoever reads its state."""
    await ctx.storage.jobs.cancel(ctx.job_id)
    await anyio.sleep_forever()


@jobs.register
def in_thread(text: str) -> str:
    """Block a thread for a moment."""
    time.sleep(0.001)
    return text


@jobs.register(executor="process")
def in_process(text: str) -> str:
    """Run in a process of its own."""
    return text


@jobs.register
async def parent(ctx: JobCtx, text: str) -> None:
    """Enqueue a child."""
    await ctx.enqueue(child.request(text))


@jobs.register
async def child(text: str) -> None:
    """Be enqueued by a job."""


@jobs.schedule(every=0.2)
@jobs.register
async def tick() -> None:
    """Be fired by a schedule."""


EXPECTED = {
    **dict.fromkeys((succeeding, recovering, limited, in_thread, in_process, parent, child), JobState.SUCCEEDED),
    **dict.fromkeys((failing, giving_up, late), JobState.DEAD),
    unwanted: JobState.CANCELLED,
}


def ending(event: object) -> tuple[str, JobState] | None:
    """Return which kind of job has ended how, if that is what an event tells."""
    match event:
        case Completed(kind=kind):
            return kind, JobState.SUCCEEDED
        case Failed(kind=kind, retryable=False):
            return kind, JobState.DEAD
        case Cancelled(kind=kind):
            return kind, JobState.CANCELLED
        case _:
            return None


async def enqueue_some(storage: Storage) -> dict[str, int]:
    """Add jobs of every kind, some of which wait for others, and return how many of each will come."""
    text = "x" * 100
    many = [handler.request(text) for handler in EXPECTED if handler not in {in_process, child}] * 4
    outcomes = await storage.jobs.enqueue_bulk([*many, in_process.request(text)])
    last: Sequence[EnqueueRequest] = [
        succeeding.request(text).with_options(depends_on=[outcome.id], on_parent_failure="run")
        for outcome in outcomes[:4]
    ]
    await storage.jobs.enqueue_bulk(last)
    added = Counter(request.kind for request in (*many, *last))
    return dict(added) | {in_process.kind: 1, child.kind: added[parent.kind]}
