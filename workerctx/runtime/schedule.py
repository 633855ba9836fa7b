"""Firing schedules: every loop looks, and the store sees to it that each tick fires once in the cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio
import attrs
from attrs import define, evolve

from workerctx.errors import StoreClosed

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
    _declared: Sequence[Schedule]

    async def run(self) -> None:
        """Fire due schedules until cancelled; a store that fails is asked again."""
        declared = False
        failures = 0
        while True:
            pause = _LONGEST_SLEEP
            try:
                if not declared:
                    await self._declare()
                    declared = True
                fired = await self._storage.schedules.fire_due()
                for name, outcome in fired.outcomes:
                    _log.info("schedule %r fired: job %s%s", name, outcome.id, " exists" if outcome.deduped else "")
                if fired.next_due is not None:
                    pause = max(0.0, min(pause, fired.next_due))
            except StoreClosed:
                raise
            except Exception as exc:  # noqa: BLE001 - logged, and tried again
                if not failures:
                    _log.warning("schedules could not be fired and are tried again", exc_info=exc)
                failures += 1
                pause = _RETRY
            else:
                if failures:
                    _log.warning("schedules are fired again after %d failures", failures)
                failures = 0
            await anyio.sleep(pause)

    async def _declare(self) -> None:
        known = {schedule.name: schedule for schedule in await self._storage.schedules.list()}
        for schedule in self._declared:
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
