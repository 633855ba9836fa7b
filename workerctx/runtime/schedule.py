"""Firing schedules: every loop looks, and the store sees to it that each tick fires once in the cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import attrs
from attrs import define, evolve, field

from workerctx.runtime.persist import keep_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue import Schedule, Storage

_log = logging.getLogger("workerctx")

_RETRY: Final = 1.0
"""Seconds after which a store that failed is asked again."""
_LONGEST_SLEEP: Final = 5.0
"""Seconds after which to look although nothing is due: another process may have added a schedule."""


@define(eq=False)
class Ticker:
    """Declares an application's schedules and fires whatever is due."""

    _storage: Storage
    _to_declare: Sequence[Schedule]
    _is_declared: bool = field(default=False, init=False)

    async def run(self, worker: str) -> None:
        """Fire due schedules until cancelled; a store that fails is asked again."""
        await keep_on(worker, "fire schedules", _RETRY, self.fire)

    async def fire(self) -> float:
        """Declare the schedules once, fire what is due, and return in how many seconds to look again."""
        if not self._is_declared:
            await self._declare()
            self._is_declared = True
        fired = await self._storage.schedules.fire_due()
        for name, outcome in fired.outcomes:
            _log.info("schedule %r fired: job %s%s", name, outcome.id, " exists" if outcome.deduped else "")
        return _LONGEST_SLEEP if fired.next_due is None else max(0.0, min(_LONGEST_SLEEP, fired.next_due))

    async def _declare(self) -> None:
        known = {schedule.name: schedule for schedule in await self._storage.schedules.list()}
        for schedule in self._to_declare:
            before = known.get(schedule.name)
            if before is None:
                await self._storage.schedules.put(schedule)
            elif not _same(before, schedule):
                # One that an operator has switched off stays off, whatever a new release says of its time.
                await self._storage.schedules.put(evolve(schedule, enabled=before.enabled))


def _same(one: Schedule, other: Schedule) -> bool:
    return _facts(one) == _facts(other)


def _facts(schedule: Schedule) -> tuple[object, ...]:
    request = attrs.astuple(schedule.request, recurse=False)
    return request, schedule.cron, schedule.every, schedule.timezone, schedule.misfire
