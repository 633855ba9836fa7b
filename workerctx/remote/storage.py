"""The store as a remote worker sees it: the `Storage` protocol over a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import anyio.lowlevel
from attrs import define, field

from workerctx.errors import QueueError, Throttled
from workerctx.queue import Fired, Granted, Renewed, WorkerCommand
from workerctx.remote import calls
from workerctx.remote.jobs import RemoteJobs
from workerctx.remote.records import ScheduleRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from workerctx.queue import RateLimit, Schedule, WorkerInfo
    from workerctx.remote.asks import Asks
    from workerctx.remote.hatch import Hatch

_COMMANDS = frozenset(WorkerCommand)


@define(eq=False)
class RemoteStorage:
    """One namespace behind a gateway; entering and leaving it opens nothing, the session does that.

    Args:
        url: The gateway's address.
        hatch: Where jobs come from and outcomes go.
        namespace: What the gateway granted.
    """

    url: str
    hatch: Hatch = field(repr=False)
    namespace: str = "default"
    jobs: RemoteJobs = field(init=False, repr=False)
    rate_limits: RemoteRateLimits = field(init=False, repr=False)
    workers: RemoteWorkers = field(init=False, repr=False)
    schedules: RemoteSchedules = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        asks = self.hatch.asks
        self.jobs = RemoteJobs(self.hatch, asks)
        self.rate_limits = RemoteRateLimits(asks)
        self.workers = RemoteWorkers(self.hatch, asks)
        self.schedules = RemoteSchedules(asks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        pass

    def open_renewer(self) -> SessionRenewer:
        """Return a renewer that has nothing to do: the session keeps the leases, from its own thread."""
        return SessionRenewer()

    async def now(self) -> float:
        """Return the store's time."""
        return await self.hatch.asks.ask(calls.Now())

    async def advance(self, seconds: float) -> None:
        """Refuse: the clock is not ours.

        Raises:
            QueueError: Always.
        """
        raise QueueError(f"a remote worker cannot move its store's clock by {seconds} s: do it where the store is")


class SessionRenewer:
    """The `LeaseRenewer` of a worker whose session renews its leases."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        pass

    def renew(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:  # noqa: ARG002 - the session does it
        """Find nothing: what is lost or should stop is pushed."""
        return Renewed()


@define(eq=False)
class RemoteRateLimits:
    """The `RateLimits` behind a gateway."""

    _asks: Asks

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Set a limit."""
        await self._asks.ask(calls.ConfigureLimit(scope, capacity, per))

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Take calls, or learn how long to wait."""
        wait = await self._asks.ask(calls.Acquire(scope, amount))
        return Granted(scope) if wait is None else Throttled(wait, scope)

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Let nobody acquire for a while."""
        await self._asks.ask(calls.DrainLimit(scope, retry_after))

    async def list(self) -> Sequence[RateLimit]:
        """Return the configured limits."""
        return await self._asks.ask(calls.ListLimits())


@define(eq=False)
class RemoteWorkers:
    """The `Workers` behind a gateway, which enters and removes this one's name."""

    _hatch: Hatch
    _asks: Asks

    async def register(self, worker: WorkerInfo) -> None:
        """Leave it to the gateway, which did so when the session was registered."""
        self._hatch.report(worker.state, worker.in_flight)
        await anyio.lowlevel.checkpoint()

    async def heartbeat(self, worker_id: str, *, state: str = "running", in_flight: int = 0) -> Sequence[WorkerCommand]:  # noqa: ARG002 - there is one
        """Put down how the worker is, and take what was sent to it."""
        await anyio.lowlevel.checkpoint()
        self._hatch.report(state, in_flight)
        return [WorkerCommand(word) for word in self._hatch.commands() if word in _COMMANDS]

    async def send(self, worker_id: str, command: WorkerCommand) -> None:
        """Send a command to a worker."""
        await self._asks.ask(calls.SendCommand(worker_id, command))

    async def deregister(self, worker_id: str) -> None:  # noqa: ARG002 - there is one
        """Leave it to the gateway, which does so when the session ends."""
        await anyio.lowlevel.checkpoint()

    async def reap(self, older_than: float) -> Sequence[WorkerInfo]:  # noqa: ARG002 - the gateway's business
        """Leave it to the gateway."""
        await anyio.lowlevel.checkpoint()
        return ()

    async def list(self) -> Sequence[WorkerInfo]:
        """Return the registered workers."""
        return await self._asks.ask(calls.ListWorkers())


@define(eq=False)
class RemoteSchedules:
    """The `Schedules` behind a gateway, whose own workers declare and fire them."""

    _asks: Asks

    async def put(self, schedule: Schedule) -> None:
        """Add a schedule or replace the one with its name."""
        await self._asks.ask(calls.PutSchedule(ScheduleRecord.of(schedule)))

    async def get(self, name: str) -> Schedule:
        """Return a schedule."""
        record = await self._asks.ask(calls.GetSchedule(name))
        return record.schedule()

    async def list(self) -> Sequence[Schedule]:
        """Return every schedule."""
        records = await self._asks.ask(calls.ListSchedules())
        return [record.schedule() for record in records]

    async def enable(self, name: str, *, enabled: bool = True) -> None:
        """Switch a schedule on or off."""
        await self._asks.ask(calls.EnableSchedule(name, enabled))

    async def delete(self, name: str) -> None:
        """Remove a schedule."""
        await self._asks.ask(calls.DeleteSchedule(name))

    async def fire_due(self) -> Fired:
        """Leave it to the workers that have the store."""
        await anyio.lowlevel.checkpoint()
        return Fired()
