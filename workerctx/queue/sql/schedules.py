"""Schedules, and firing them: the next tick moves on by compare-and-set in the transaction that adds the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from workerctx.errors import ScheduleNotFound
from workerctx.queue.model import OnParentFailure  # noqa: TC001 - msgspec reads the annotations
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.retry import Backoff, as_backoff
from workerctx.queue.schedule import Fired, Misfire, Schedule
from workerctx.queue.sql.enqueueing import enqueue_all
from workerctx.queue.sql.rows import MICROSECONDS, json_text, optional_micros, optional_seconds, to_micros

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.batching import Batcher
    from workerctx.queue.model import EnqueueOutcome
    from workerctx.queue.sql.transaction import Transaction


class _Template(msgspec.Struct, omit_defaults=True):
    """A request as it is stored with its schedule."""

    kind: str
    payload: Any = None
    queue: str = "default"
    priority: int = 0
    delay: float = 0.0
    timeout: float | None = None
    max_attempts: int = 5
    retry: Backoff | None = None
    unique_key: str | None = None
    workflow_id: str | None = None
    depends_on: tuple[str, ...] = ()
    on_parent_failure: OnParentFailure = "cancel"
    required_labels: tuple[str, ...] = ()
    tenant_id: str | None = None
    headers: dict[str, str] = {}


class _Definition(msgspec.Struct, omit_defaults=True):
    """A schedule as it is stored."""

    request: _Template
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    misfire: Misfire = Misfire.ONE


_decode = msgspec.json.Decoder(_Definition).decode


class SqlSchedules:
    """`Schedules` in a table; see there for what each method promises."""

    def __init__(self, writer: Batcher[Transaction], reader: Batcher[Transaction]) -> None:
        self._writer = writer
        self._reader = reader

    async def put(self, schedule: Schedule) -> None:
        """Add or replace a schedule."""
        definition = definition_text(schedule)
        await self._writer.call(lambda tx: _put(tx, schedule, definition))

    async def get(self, name: str) -> Schedule:
        """Return a schedule."""
        return await self._reader.call(lambda tx: _find(tx, tx.sql.get_schedule, name))

    async def list(self) -> Sequence[Schedule]:
        """Return the schedules, by name."""
        return await self._reader.call(lambda tx: [read_schedule(row) for row in tx.rows(tx.sql.list_schedules, tx.ns)])

    async def enable(self, name: str, *, enabled: bool = True) -> None:
        """Switch a schedule on or off."""

        def do(tx: Transaction) -> None:
            schedule = _find(tx, tx.sql.hold_schedule, name)
            next_fire_at = schedule.next_fire_at
            if enabled and not schedule.enabled:
                next_fire_at = schedule.next_after(tx.seconds)
            tx.run(tx.sql.enable_schedule, int(enabled), optional_micros(next_fire_at), tx.ns, name)

        await self._writer.call(do)

    async def delete(self, name: str) -> None:
        """Remove a schedule."""
        await self._writer.call(lambda tx: tx.run(tx.sql.delete_schedule, tx.ns, name))

    async def fire_due(self) -> Fired:
        """Enqueue a job for each tick that is due."""
        # Nearly always nothing is due, and then nobody needs the write lock.
        idle = await self._reader.call(_next_due)
        if idle is None or idle > 0:
            return Fired((), idle)
        return await self._writer.call(_fire_due)


def _put(tx: Transaction, schedule: Schedule, definition: str) -> None:
    row = tx.row(tx.sql.hold_schedule, tx.ns, schedule.name)
    old = None if row is None else read_schedule(row)
    keeps_time = old is not None and old.enabled and old.timing == schedule.timing
    next_fire_at = old.next_fire_at if old is not None and keeps_time else schedule.next_after(tx.seconds)
    last_fired_at = None if old is None else old.last_fired_at
    store_schedule(tx, attrs.evolve(schedule, next_fire_at=next_fire_at, last_fired_at=last_fired_at), definition)


def store_schedule(tx: Transaction, schedule: Schedule, definition: str) -> None:
    """Add or replace a schedule as it is, times included."""
    tx.run(
        tx.sql.put_schedule,
        tx.ns,
        schedule.name,
        int(schedule.enabled),
        definition,
        optional_micros(schedule.next_fire_at),
        optional_micros(schedule.last_fired_at),
    )


def _next_due(tx: Transaction) -> float | None:
    moment = tx.value(tx.sql.next_schedule, tx.ns)
    return None if moment is None else max(0.0, (moment - tx.now) / MICROSECONDS)


def _fire_due(tx: Transaction) -> Fired:
    outcomes: list[tuple[str, EnqueueOutcome]] = []
    for row in tx.rows(tx.sql.due_schedules, tx.ns, tx.now):
        schedule = read_schedule(row)
        assert schedule.next_fire_at is not None
        due = schedule.due(tx.seconds)
        moved = tx.run(
            tx.sql.advance_schedule,
            optional_micros(due.next_fire_at),
            optional_micros(due.fire[-1] if due.fire else None),
            tx.ns,
            schedule.name,
            to_micros(schedule.next_fire_at),
        )
        if moved and due.fire:
            added = enqueue_all(tx, [schedule.request] * len(due.fire))
            outcomes.extend((schedule.name, outcome) for outcome in added)
    return Fired(outcomes, _next_due(tx))


def _find(tx: Transaction, statement: str, name: str) -> Schedule:
    row = tx.row(statement, tx.ns, name)
    if row is None:
        raise ScheduleNotFound(name)
    return read_schedule(row)


def definition_text(schedule: Schedule) -> str:
    """Return what of a schedule is stored as text: all but its name, its times and whether it is enabled."""
    request = schedule.request
    names = [name for name in _Template.__struct_fields__ if name != "retry"]
    template = _Template(**{name: getattr(request, name) for name in names}, retry=as_backoff(request.retry))
    return json_text(_Definition(template, schedule.cron, schedule.every, schedule.timezone, schedule.misfire))


def read_schedule(row: tuple[str, int, str, int | None, int | None]) -> Schedule:
    """Return a schedule from its name, whether it is enabled, its text, and its times in microseconds."""
    name, enabled, definition, next_fire_at, last_fired_at = row
    stored = _decode(definition)
    return Schedule(
        name=name,
        request=EnqueueRequest(**msgspec.structs.asdict(stored.request)),
        cron=stored.cron,
        every=stored.every,
        timezone=stored.timezone,
        misfire=stored.misfire,
        enabled=bool(enabled),
        next_fire_at=optional_seconds(next_fire_at),
        last_fired_at=optional_seconds(last_fired_at),
    )
