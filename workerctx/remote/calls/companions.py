"""Calls to what stands beside the jobs: rate limits, workers, schedules, the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from workerctx.errors import Throttled
from workerctx.queue import RateLimit, WorkerCommand, WorkerInfo
from workerctx.remote.calls.base import Call
from workerctx.remote.records import ScheduleRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue import Storage


class Acquire(Call["float | None"], tag="acquire", frozen=True):
    """`RateLimits.acquire`; returns the seconds to wait, or None if it was granted."""

    returns: ClassVar[Any] = float | None
    scope: str
    amount: int = 1

    async def perform(self, storage: Storage, *, again: bool) -> float | None:  # noqa: ARG002 - it never over-grants
        """Acquire."""
        answer = await storage.rate_limits.acquire(self.scope, amount=self.amount)
        return answer.retry_after if isinstance(answer, Throttled) else None


class DrainLimit(Call[None], tag="drain_limit", frozen=True):
    """`RateLimits.drain`."""

    scope: str
    retry_after: float

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Drain it."""
        await storage.rate_limits.drain(self.scope, retry_after=self.retry_after)


class ConfigureLimit(Call[None], tag="configure_limit", frozen=True):
    """`RateLimits.configure`."""

    steers: ClassVar[bool] = True
    scope: str
    capacity: int
    per: float

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Configure it."""
        await storage.rate_limits.configure(self.scope, capacity=self.capacity, per=self.per)


class ListLimits(Call["Sequence[RateLimit]"], tag="limits", frozen=True):
    """`RateLimits.list`."""

    returns: ClassVar[Any] = tuple[RateLimit, ...]
    is_large: ClassVar[bool] = True

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[RateLimit]:  # noqa: ARG002
        """List them."""
        return await storage.rate_limits.list()


class Now(Call[float], tag="now", frozen=True):
    """`Storage.now`."""

    returns: ClassVar[Any] = float

    async def perform(self, storage: Storage, *, again: bool) -> float:  # noqa: ARG002
        """Look at the store's clock."""
        return await storage.now()


class ListWorkers(Call["Sequence[WorkerInfo]"], tag="workers", frozen=True):
    """`Workers.list`."""

    returns: ClassVar[Any] = tuple[WorkerInfo, ...]
    is_large: ClassVar[bool] = True

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[WorkerInfo]:  # noqa: ARG002
        """List them."""
        return await storage.workers.list()


class SendCommand(Call[None], tag="send", frozen=True):
    """`Workers.send`."""

    steers: ClassVar[bool] = True
    worker_id: str
    command: WorkerCommand

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002 - obeying twice is harmless
        """Send it."""
        await storage.workers.send(self.worker_id, self.command)


class GetSchedule(Call[ScheduleRecord], tag="schedule", frozen=True):
    """`Schedules.get`."""

    returns: ClassVar[Any] = ScheduleRecord
    is_large: ClassVar[bool] = True
    name: str

    async def perform(self, storage: Storage, *, again: bool) -> ScheduleRecord:  # noqa: ARG002
        """Look it up."""
        return ScheduleRecord.of(await storage.schedules.get(self.name))


class ListSchedules(Call["Sequence[ScheduleRecord]"], tag="schedules", frozen=True):
    """`Schedules.list`."""

    returns: ClassVar[Any] = tuple[ScheduleRecord, ...]
    is_large: ClassVar[bool] = True

    async def perform(self, storage: Storage, *, again: bool) -> Sequence[ScheduleRecord]:  # noqa: ARG002
        """List them."""
        return [ScheduleRecord.of(schedule) for schedule in await storage.schedules.list()]


class PutSchedule(Call[None], tag="put_schedule", frozen=True):
    """`Schedules.put`."""

    steers: ClassVar[bool] = True
    schedule: ScheduleRecord

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Put it."""
        await storage.schedules.put(self.schedule.schedule())


class EnableSchedule(Call[None], tag="enable_schedule", frozen=True):
    """`Schedules.enable`."""

    steers: ClassVar[bool] = True
    name: str
    enabled: bool = True

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Switch it."""
        await storage.schedules.enable(self.name, enabled=self.enabled)


class DeleteSchedule(Call[None], tag="delete_schedule", frozen=True):
    """`Schedules.delete`."""

    steers: ClassVar[bool] = True
    name: str

    async def perform(self, storage: Storage, *, again: bool) -> None:  # noqa: ARG002
        """Delete it."""
        await storage.schedules.delete(self.name)
