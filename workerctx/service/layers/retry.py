"""Retry: several tries within one run of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
import attrs
from attrs import field, frozen, validators

from workerctx.errors import Abort, HandlerCrashed, RetryAfter, RunCancelled, Snooze, Throttled
from workerctx.lifecycle.groups import collapse
from workerctx.queue import CancelReason, Exponential
from workerctx.service.jobctx import JobCtx
from workerctx.service.layers.order import LayerRole
from workerctx.service.options import positive_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue import RetryPolicy
    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request

_FINAL: Final = (Abort, Snooze, Throttled, RunCancelled, HandlerCrashed)
_GIVING_BACK: Final = (None, CancelReason.SHUTDOWN, CancelReason.QUEUE_PAUSED)


@frozen
class Try:
    """Which try within the run this is; injected, ``attempt: Try = injected()``, inside of a `Retry`.

    Attributes:
        number: 1 is the first.
        of: How many there may be.
    """

    number: int
    of: int


@frozen(eq=False)
class Retry:
    """Calls what is inside again after a failure, at most `retries` times: so it runs up to ``retries + 1`` times.

    All tries are one run of the job, under one lease; only the failure of the last one uses up an attempt, and the
    job's own `RetryPolicy` takes over. It is for hiccups that pass within seconds. The arguments are the same objects
    in each try.

    No try follows `Abort`, `Snooze`, `Throttled`, `HandlerCrashed`, a cancellation, or an error that `retry_if`
    refuses. When the worker shuts down between two tries, the job is put off for the rest of the wait, at no
    attempt's cost: another worker begins with fresh tries.

    Args:
        retries: 0 or more.
        backoff: The waits between tries; `RetryAfter` has its own word.
        retry_if: Tells for which errors another try is worth it; None for all.
        max_wait: Seconds, or a timedelta. A longer wait is left to the store, as is one that would outlast the job's
            timeout: the run ends with the error, instead of holding its slot.

    Raises:
        ValueError: A number is out of range.
    """

    role: ClassVar[LayerRole] = LayerRole.RETRY

    retries: int = field(default=5, validator=validators.ge(0))
    backoff: RetryPolicy = Exponential(base=0.5, cap=30.0)  # noqa: RUF009 - it is immutable
    retry_if: Callable[[Exception], bool] | None = field(default=None, kw_only=True)
    max_wait: float = field(default=60.0, converter=positive_seconds, kw_only=True)

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, until it succeeds or enough is enough.

        Raises:
            Snooze: The worker is shutting down and there were tries left. Besides, the error of the last try.

        Cancellation: ends a wait between tries.
        """
        for number in range(1, self.retries + 1):
            try:
                return await call_next(self._fresh(request, number))
            except Exception as exc:
                wait = self._wait_after(exc, number)
                if wait is None:
                    raise
                await _pass_time(request.data.get(JobCtx), wait, exc)
        return await call_next(self._fresh(request, self.retries + 1))

    def _fresh(self, request: Request, number: int) -> Request:
        data = request.data.extended({Try: Try(number, self.retries + 1)})
        return attrs.evolve(request, data=data, kwargs=dict(request.kwargs))

    def _wait_after(self, error: Exception, number: int) -> float | None:
        cause = collapse(error)
        if isinstance(cause, _FINAL) or not isinstance(cause, Exception):
            return None
        if self.retry_if is not None and not self.retry_if(cause):
            return None
        wait = cause.seconds if isinstance(cause, RetryAfter) else self.backoff.delay(number)
        return wait if wait <= self.max_wait else None


async def _pass_time(ctx: JobCtx | None, seconds: float, error: Exception) -> None:
    """Wait before the next try, unless it is not to be."""
    ends = anyio.current_time() + seconds
    if ctx is None:
        await anyio.sleep(seconds)
        return
    if not (ctx.stopping or ctx.cancel.is_set()):
        if ends >= ctx.deadline:
            raise error
        if await ctx.sleep(seconds):
            return
    if ctx.cancel.reason not in _GIVING_BACK:
        raise error
    raise Snooze(max(0.0, ends - anyio.current_time())) from error
