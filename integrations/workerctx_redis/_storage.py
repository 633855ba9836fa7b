"""A namespace of a Redis server, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import attrs

from workerctx.errors import InvalidRequest, StoreClosed
from workerctx.queue.broadcast import Broadcast
from workerctx.queue.ids import new_id
from workerctx.queue.opening import Opening
from workerctx.queue.sql.rows import from_micros, to_micros
from workerctx_redis._endpoint import Endpoint
from workerctx_redis._jobs import RedisJobs
from workerctx_redis._limits import RedisRateLimits
from workerctx_redis._line import Line
from workerctx_redis._link import channel
from workerctx_redis._moving import RedisMoving
from workerctx_redis._operations import Operation, done
from workerctx_redis._records import Groups, to_event
from workerctx_redis._renewer import RedisRenewer
from workerctx_redis._schedules import RedisSchedules
from workerctx_redis._wakeups import WakeupHub
from workerctx_redis._workers import RedisWorkers

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from workerctx.queue.connect import StoreURL
    from workerctx_redis._link import Reply


def open_redis(url: StoreURL) -> RedisStorage:
    """Return the storage that a ``redis:`` URL, or one of its relatives, names.

    Raises:
        InvalidRequest: The URL is not complete, or has an option that is not known.
    """
    return RedisStorage(endpoint=Endpoint.parse(url), namespace=url.namespace)


@attrs.define(eq=False, kw_only=True)
class RedisStorage:
    """`Storage` in Redis; see there for what each method promises.

    Attributes:
        url: Where the server is, without secrets.
        namespace: The part of it that is used.
    """

    _endpoint: Endpoint = attrs.field(repr=False, alias="endpoint")
    namespace: str
    url: str = attrs.field(init=False)
    _broadcast: Broadcast = attrs.field(repr=False, factory=Broadcast, init=False)
    _groups: Groups = attrs.field(repr=False, factory=Groups, init=False)
    _prefix: str = attrs.field(repr=False, init=False)
    _origin: str = attrs.field(repr=False, factory=new_id, init=False)
    _hub: WakeupHub = attrs.field(repr=False, init=False)
    _line: Line = attrs.field(repr=False, init=False)
    jobs: RedisJobs = attrs.field(repr=False, init=False)
    rate_limits: RedisRateLimits = attrs.field(repr=False, init=False)
    workers: RedisWorkers = attrs.field(repr=False, init=False)
    schedules: RedisSchedules = attrs.field(repr=False, init=False)
    moving: RedisMoving = attrs.field(repr=False, init=False)
    _opening: Opening = attrs.field(
        default=attrs.Factory(lambda self: Opening(self._start, self._shut), takes_self=True), init=False, repr=False
    )

    def __attrs_post_init__(self) -> None:
        self.url = str(self._endpoint)
        # The braces keep a namespace in one slot of a Cluster, so that a script may touch all of it.
        self._prefix = f"{{{self._endpoint.prefix}:{self.namespace}}}"
        self._hub = WakeupHub(channel(self._prefix, self._endpoint), self._origin)
        self._line = self._make_line("workerctx-redis", heard=True)
        self.jobs = RedisJobs(self._line, self._broadcast, self._hub)
        self.rate_limits = RedisRateLimits(self._line)
        self.workers = RedisWorkers(self._line)
        self.schedules = RedisSchedules(self._line)
        self.moving = RedisMoving(self._line, self.jobs)

    async def __aenter__(self) -> Self:
        await self._opening.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._opening.close()

    def open_renewer(self) -> RedisRenewer:
        """Return a renewer for the leases of this storage.

        Raises:
            StoreClosed: The storage is not open.
        """
        if not self._opening.is_open:
            raise StoreClosed('the store is not open: use it inside "async with"')
        return RedisRenewer(lambda: self._make_line("workerctx-redis-leases"), self._endpoint.timeout)

    async def now(self) -> float:
        """Return the store's time, in seconds since the epoch."""
        return await self._line.call(Operation(("now",), lambda answer: from_micros(answer.now)))

    async def advance(self, seconds: float) -> None:
        """Move the clock of this namespace forward, for everyone who uses it."""
        if not 0 <= seconds < float("inf"):
            raise InvalidRequest(f"a clock moves forward by 0 or more seconds, not by {seconds}")
        await self._line.call(done("advance", to_micros(seconds)))

    def _start(self, _is_left: Callable[[], bool]) -> None:
        self._line.start()

    def _shut(self) -> None:
        self._line.close()
        self._hub.close()
        self._broadcast.close()

    def _make_line(self, name: str, *, heard: bool = False) -> Line:
        line = (name, self._endpoint, self._prefix, self._groups, self._origin)
        return Line(*line, self._broadcast.__bool__, self._tell) if heard else Line(*line)

    def _tell(self, reply: Reply) -> None:
        if reply.events:
            self._broadcast.publish([to_event(row, self._groups, reply.now) for row in reply.events])
        self._hub.hear(reply)
