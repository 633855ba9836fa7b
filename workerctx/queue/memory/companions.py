"""What stands beside the jobs of a memory store: rate limits, workers, schedules, and the lease renewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import anyio.lowlevel
import attrs
from msgspec.structs import replace

from workerctx.errors import InvalidRequest, ScheduleNotFound, Throttled, UnknownScope, WorkerNotFound
from workerctx.queue import transitions
from workerctx.queue.codec import encode_json
from workerctx.queue.finish import check_ttl
from workerctx.queue.limits import Granted, RateLimit, check_acquire
from workerctx.queue.memory import adding, finishing
from workerctx.queue.memory.limits import Bucket
from workerctx.queue.schedule import Fired

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.session import Session
    from workerctx.queue.model import EnqueueOutcome, Renewed
    from workerctx.queue.schedule import Schedule
    from workerctx.queue.workers import WorkerCommand, WorkerInfo


@attrs.define(eq=False)
class MemoryRateLimits:
    """`RateLimits` in memory; see there for what each method promises."""

    _session: Session

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Set a limit."""
        limit = RateLimit(scope, capacity, per)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            bucket = self._session.store.buckets.get(scope)
            if bucket is None:
                self._session.store.buckets[scope] = Bucket(limit)
            else:
                bucket.change(limit, change.now)

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Take some calls, or learn how long to wait."""
        check_acquire(scope, amount)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            bucket = self._bucket(scope)
            if amount > bucket.limit.capacity:
                raise InvalidRequest(
                    f"rate limit {scope!r} never gives {amount} at once: its capacity is {bucket.limit.capacity}"
                )
            wait = bucket.take(amount, change.now)
        return Throttled(wait, scope) if wait else Granted(scope)

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Let nobody acquire for some seconds."""
        transitions.check_wait(retry_after)
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            self._bucket(scope).drain(retry_after, change.now)

    async def list(self) -> Sequence[RateLimit]:
        """Return the limits, by scope."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            return [bucket.limit for _, bucket in sorted(self._session.store.buckets.items())]

    def _bucket(self, scope: str) -> Bucket:
        bucket = self._session.store.buckets.get(scope)
        if bucket is None:
            raise UnknownScope(scope)
        return bucket


@attrs.define(eq=False)
class MemoryWorkers:
    """`Workers` in memory; see there for what each method promises."""

    _session: Session

    async def register(self, worker: WorkerInfo) -> None:
        """Add or replace a worker."""
        encode_json(worker, "worker")  # what other stores could not keep is refused here, too
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            store = self._session.store
            store.workers[worker.id] = replace(worker, started_at=change.now, heartbeat_at=change.now)
            store.commands[worker.id] = []

    async def heartbeat(self, worker_id: str, *, state: str = "running", in_flight: int = 0) -> Sequence[WorkerCommand]:
        """Say that a worker lives, and fetch its commands."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            worker = self._find(worker_id)
            store = self._session.store
            store.workers[worker_id] = replace(worker, state=state, in_flight=in_flight, heartbeat_at=change.now)
            commands, store.commands[worker_id] = store.commands[worker_id], []
        return commands

    async def send(self, worker_id: str, command: WorkerCommand) -> None:
        """Send a command to a worker."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            self._find(worker_id)
            self._session.store.commands[worker_id].append(command)

    async def deregister(self, worker_id: str) -> None:
        """Remove a worker."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            self._remove(worker_id)

    async def reap(self, older_than: float) -> Sequence[WorkerInfo]:
        """Remove and return silent workers."""
        transitions.check_wait(older_than, "older_than")
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            workers = sorted(self._session.store.workers.items())
            silent = [worker for _, worker in workers if worker.heartbeat_at < change.now - older_than]
            for worker in silent:
                self._remove(worker.id)
        return silent

    async def list(self) -> Sequence[WorkerInfo]:
        """Return the workers, by id."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            return [worker for _, worker in sorted(self._session.store.workers.items())]

    def _find(self, worker_id: str) -> WorkerInfo:
        worker = self._session.store.workers.get(worker_id)
        if worker is None:
            raise WorkerNotFound(worker_id)
        return worker

    def _remove(self, worker_id: str) -> None:
        self._session.store.workers.pop(worker_id, None)
        self._session.store.commands.pop(worker_id, None)


@attrs.define(eq=False)
class MemorySchedules:
    """`Schedules` in memory; see there for what each method promises."""

    _session: Session

    async def put(self, schedule: Schedule) -> None:
        """Add or replace a schedule."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            schedules = self._session.store.schedules
            old = schedules.get(schedule.name)
            keeps_time = old is not None and old.enabled and old.timing == schedule.timing
            next_fire_at = old.next_fire_at if old and keeps_time else schedule.next_after(change.now)
            schedules[schedule.name] = attrs.evolve(
                schedule, next_fire_at=next_fire_at, last_fired_at=old.last_fired_at if old else None
            )

    async def get(self, name: str) -> Schedule:
        """Return a schedule."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            return self._find(name)

    async def list(self) -> Sequence[Schedule]:
        """Return the schedules, by name."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            return [schedule for _, schedule in sorted(self._session.store.schedules.items())]

    async def enable(self, name: str, *, enabled: bool = True) -> None:
        """Switch a schedule on or off."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            schedule = self._find(name)
            if enabled and not schedule.enabled:
                schedule = attrs.evolve(schedule, next_fire_at=schedule.next_after(change.now))
            self._session.store.schedules[name] = attrs.evolve(schedule, enabled=enabled)

    async def delete(self, name: str) -> None:
        """Remove a schedule."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            self._session.store.schedules.pop(name, None)

    async def fire_due(self) -> Fired:
        """Enqueue a job for each tick that is due."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            schedules = self._session.store.schedules
            outcomes: list[tuple[str, EnqueueOutcome]] = []
            for name in sorted(schedules):
                if schedules[name].enabled:
                    schedules[name], fired = _fire(change, schedules[name])
                    outcomes.extend((name, outcome) for outcome in fired)
            upcoming = [
                schedule.next_fire_at
                for schedule in schedules.values()
                if schedule.enabled and schedule.next_fire_at is not None
            ]
            return Fired(outcomes, max(0.0, min(upcoming) - change.now) if upcoming else None)

    def _find(self, name: str) -> Schedule:
        schedule = self._session.store.schedules.get(name)
        if schedule is None:
            raise ScheduleNotFound(name)
        return schedule


def _fire(change: Change, schedule: Schedule) -> tuple[Schedule, Sequence[EnqueueOutcome]]:
    due = schedule.due(change.now)
    if not due.fire:
        return attrs.evolve(schedule, next_fire_at=due.next_fire_at), ()
    outcomes = adding.enqueue(change, [schedule.request] * len(due.fire))
    fired = attrs.evolve(schedule, next_fire_at=due.next_fire_at, last_fired_at=due.fire[-1])
    return fired, outcomes


@attrs.define(eq=False)
class MemoryRenewer:
    """`LeaseRenewer` in memory; see there."""

    _session: Session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        pass

    def renew(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        """Renew leases.

        Threads: any.
        """
        check_ttl("extend_by", extend_by)
        with self._session.change() as change:
            return finishing.renew_all(change, lease_ids, extend_by)
