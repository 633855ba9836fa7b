"""Load shedding: give jobs back while this worker has too much to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.lowlevel
from anyio.lowlevel import RunVar
from attrs import field, frozen, validators

from workerctx.errors import Throttled
from workerctx.service.layers.order import LayerRole
from workerctx.service.options import optional_positive_seconds, positive_seconds

if TYPE_CHECKING:
    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request


def _count() -> RunVar[int]:
    return RunVar("workerctx in flight", 0)


@frozen(eq=False)
class LoadShed:
    """Gives jobs back, at no attempt's cost, while too many are inside or the event loop lags.

    One object counts together all that it stands around, on each event loop by itself.

    Args:
        max_in_flight: How many may be inside, waiting ones of a `Concurrency` in it included; None for any number.
        max_lag: Seconds, or a timedelta: how long one turn of the event loop may take; None for any time.
        retry_after: Seconds, or a timedelta, for which a job is put off.

    Raises:
        ValueError: A number is out of range, or there is no limit at all.
    """

    role: ClassVar[LayerRole] = LayerRole.LOAD_SHEDDING

    max_in_flight: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    max_lag: float | None = field(default=None, converter=optional_positive_seconds, kw_only=True)
    retry_after: float = field(default=1.0, converter=positive_seconds, kw_only=True)
    _inside: RunVar[int] = field(factory=_count, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.max_in_flight is None and self.max_lag is None:
            raise ValueError("load shedding needs max_in_flight, max_lag, or both")

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, unless there is too much to do.

        Raises:
            Throttled: There is.
        """
        if self.max_in_flight is not None and self._inside.get() >= self.max_in_flight:
            raise Throttled(self.retry_after)
        self._inside.set(self._inside.get() + 1)
        try:
            if self.max_lag is not None and await _lag() > self.max_lag:
                raise Throttled(self.retry_after)
            return await call_next(request)
        finally:
            self._inside.set(self._inside.get() - 1)


async def _lag() -> float:
    """Let everybody else have a turn, and return how long that took in seconds."""
    began = anyio.current_time()
    await anyio.lowlevel.checkpoint()
    return anyio.current_time() - began
