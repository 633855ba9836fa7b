"""Rate limits by the generic cell rate algorithm: one moment for each scope, moved by the script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from workerctx.errors import InvalidRequest, Throttled, UnknownScope
from workerctx.queue.codec import decode_json
from workerctx.queue.limits import Granted, RateLimit, check_acquire
from workerctx.queue.sql.rows import from_micros, to_micros
from workerctx.queue.transitions import check_wait
from workerctx_redis._operations import Answer, Operation, done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx_redis._line import Line


@attrs.define(eq=False)
class RedisRateLimits:
    """`RateLimits` in Redis."""

    _line: Line

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Do `RateLimits.configure`."""
        limit = RateLimit(scope, capacity, per)
        await self._line.call(done("configure", limit.scope, limit.capacity, float(limit.per)))

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Do `RateLimits.acquire`."""
        check_acquire(scope, amount)

        def read(answer: Answer) -> Granted | Throttled:
            match answer.result:
                case ["granted"]:
                    return Granted(scope)
                case ["wait", micros]:
                    return Throttled(from_micros(micros), scope)
                case ["never", capacity]:
                    raise InvalidRequest(
                        f"rate limit {scope!r} never gives {amount} at once: its capacity is {capacity}"
                    )
                case _:
                    raise UnknownScope(scope)

        return await self._line.call(Operation(("acquire", scope, amount), read))

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Do `RateLimits.drain`."""
        check_wait(retry_after)
        if not await self._line.call(Operation(("drain", scope, to_micros(retry_after)), lambda answer: answer.result)):
            raise UnknownScope(scope)

    async def list(self) -> Sequence[RateLimit]:
        """Do `RateLimits.list`."""
        fields: Sequence[str] = await self._line.call(Operation(("limits",), lambda answer: answer.result))
        pairs = sorted(zip(fields[::2], fields[1::2], strict=True))
        return [RateLimit(scope, *decode_json(text)[:2]) for scope, text in pairs]
