"""Schedules, and firing them: the next tick moves on by compare-and-set in the call that adds the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from workerctx.errors import ScheduleNotFound
from workerctx.queue.model import EnqueueOutcome
from workerctx.queue.schedule import Fired
from workerctx.queue.sql.rows import from_micros, json_text, optional_micros, to_micros
from workerctx.queue.sql.schedules import definition_text, read_schedule
from workerctx_redis import _adding as adding
from workerctx_redis._operations import Answer, Operation, done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.schedule import Schedule
    from workerctx_redis._line import Line


@attrs.define(eq=False)
class RedisSchedules:
    """`Schedules` in Redis; see there for what each method promises."""

    _line: Line

    async def put(self, schedule: Schedule) -> None:
        """Add or replace a schedule."""
        definition = definition_text(schedule)
        timing = json_text(schedule.timing)
        fresh = optional_micros(schedule.next_after(await self._now()))
        await self._line.call(done("put_schedule", schedule.name, definition, timing, schedule.enabled, fresh))

    async def get(self, name: str) -> Schedule:
        """Return a schedule."""
        found = await self._line.call(Operation(("schedule", name), lambda answer: answer.result))
        if not found:
            raise ScheduleNotFound(name)
        return _schedule(found)

    async def list(self) -> Sequence[Schedule]:
        """Return the schedules, by name."""
        return await self._line.call(
            Operation(("schedules",), lambda answer: sorted(map(_schedule, answer.result), key=_name))
        )

    async def enable(self, name: str, *, enabled: bool = True) -> None:
        """Switch a schedule on or off."""
        fresh = optional_micros((await self.get(name)).next_after(await self._now()))
        words = ("enable_schedule", name, enabled, fresh)
        if not await self._line.call(Operation(words, lambda answer: answer.result)):
            raise ScheduleNotFound(name)

    async def delete(self, name: str) -> None:
        """Remove a schedule."""
        await self._line.call(done("delete_schedule", name))

    async def fire_due(self) -> Fired:
        """Enqueue a job for each tick that is due."""
        due, now, idle = await self._line.call(Operation(("due_schedules",), _due))
        if not due:
            return Fired((), idle)
        return await self._line.call(
            Operation(("fire", [_fire(schedule, now) for schedule in due]), _fired, grows=True)
        )

    async def _now(self) -> float:
        return await self._line.call(Operation(("now",), lambda answer: from_micros(answer.now)))


def _fire(schedule: Schedule, now: float) -> tuple[Any, ...]:
    """Return what the script needs to move a schedule on and add the jobs of its ticks."""
    assert schedule.next_fire_at is not None
    ticks = schedule.due(now)
    texts, rows = adding.rows_of([schedule.request] * len(ticks.fire))
    seen = to_micros(schedule.next_fire_at)
    following = optional_micros(ticks.next_fire_at) or False
    last = to_micros(ticks.fire[-1]) if ticks.fire else False
    return schedule.name, seen, following, last, texts, rows


def _due(answer: Answer) -> tuple[list[Schedule], float, float | None]:
    rows, following = answer.result
    schedules = sorted(map(_schedule, rows), key=_name)
    return schedules, from_micros(answer.now), _idle(following, answer.now)


def _fired(answer: Answer) -> Fired:
    outcomes, following = answer.result
    told = [(name, EnqueueOutcome(job_id, deduped)) for name, job_id, deduped in outcomes]
    return Fired(told, _idle(following, answer.now))


def _idle(following: int, now: int) -> float | None:
    return max(0.0, from_micros(following - now)) if following else None


def _schedule(row: Sequence[Any]) -> Schedule:
    name, definition, enabled, next_fire_at, last_fired_at, _ = row
    return read_schedule((name, enabled, definition, next_fire_at or None, last_fired_at or None))


def _name(schedule: Schedule) -> str:
    return schedule.name
