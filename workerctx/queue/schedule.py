"""Jobs that come again: when a schedule fires, and which of its missed ticks still count."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs
from cronsim import CronSim, CronSimError

from workerctx.errors import InvalidRequest
from workerctx.queue.request import EnqueueRequest, check_name, optional_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.model import EnqueueOutcome

MISFIRE_GRACE: Final = 60.0
"""A tick that is noticed later than this many seconds has been missed."""

MAX_CATCH_UP: Final = 1000
"""How many ticks of one schedule fire in one go under `Misfire.ALL`; the rest follow at the next look."""


class Misfire(StrEnum):
    """What becomes of ticks that nobody was there to see."""

    SKIP = "skip"
    """They are gone; only a tick noticed within the grace fires."""
    ONE = "one"
    """All of them together fire once."""
    ALL = "all"
    """Each of them fires."""


@attrs.frozen(eq=False, kw_only=True)
class Schedule:
    """A request that is enqueued again and again.

    Attributes:
        name: Unique in the namespace.
        request: What is enqueued at each tick.
        cron: A cron expression (5 fields, or 6 with seconds first), read in ``timezone``; or
        every: the seconds between two ticks.
        timezone: IANA name; daylight saving follows Debian's cron.
        misfire: What becomes of missed ticks.
        enabled: A disabled schedule does not fire and misses nothing.
        next_fire_at: Store time of the next tick, set by the store.
        last_fired_at: Store time of the last tick that fired, set by the store.

    Raises:
        InvalidRequest: The expression, the zone or the interval is not valid, both or none of ``cron`` and
            ``every`` are given, or the request has an id or parents of its own.
    """

    name: str
    request: EnqueueRequest
    cron: str | None = None
    every: float | None = attrs.field(default=None, converter=optional_seconds)
    timezone: str = "UTC"
    misfire: Misfire = attrs.field(default=Misfire.ONE, converter=Misfire)
    enabled: bool = True
    next_fire_at: float | None = None
    last_fired_at: float | None = None

    def __attrs_post_init__(self) -> None:
        check_name("a schedule's name", self.name)
        if (self.cron is None) == (self.every is None):
            raise InvalidRequest(f"schedule {self.name!r} needs either cron or every")
        if self.every is not None and not (math.isfinite(self.every) and self.every > 0):
            raise InvalidRequest(f"schedule {self.name!r}: every must be more than 0 seconds, got {self.every}")
        if self.request.job_id is not None or self.request.depends_on:
            raise InvalidRequest(
                f"schedule {self.name!r}: every tick is a new job, so its request can have neither job_id "
                "nor depends_on"
            )
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as exc:
            raise InvalidRequest(f"schedule {self.name!r}: no time zone {self.timezone!r}") from exc
        if self.cron is not None:
            try:
                CronSim(self.cron, datetime.now(UTC))
            except CronSimError as exc:
                raise InvalidRequest(f"schedule {self.name!r}: cron {self.cron!r} is not valid: {exc}") from exc

    def next_after(self, moment: float) -> float | None:
        """Return the first tick after ``moment`` (seconds since the epoch), or None if there is none.

        An interval ticks at multiples of itself since the epoch, so every process agrees on the ticks.
        """
        if self.every is not None:
            ticks = math.floor(moment / self.every) + 1
            following = ticks * self.every
            return following if following > moment else (ticks + 1) * self.every
        assert self.cron is not None
        start = datetime.fromtimestamp(moment, ZoneInfo(self.timezone))
        # In the hour that comes twice CronSim does not tell the second time from the first, whose tick was before.
        moments = (tick.timestamp() for tick in CronSim(self.cron, start))
        return next((tick for tick in moments if tick > moment), None)

    def due(self, now: float) -> DueTicks:
        """Decide what fires at ``now``, given ``next_fire_at``.

        A schedule that was never looked at only learns its next tick.
        """
        first = self.next_fire_at
        if first is None:
            return DueTicks((), self.next_after(now))
        if first > now or not self.enabled:
            return DueTicks((), first)
        if self.misfire is Misfire.ALL:
            return self._all_since(first, now)
        following = self.next_after(now)
        if self.misfire is Misfire.ONE:
            return DueTicks((first,), following)
        last = first
        if now - first > MISFIRE_GRACE:
            last = self.next_after(now - MISFIRE_GRACE) or first
        fires = last <= now and now - last <= MISFIRE_GRACE
        return DueTicks((last,) if fires else (), following)

    def joined(self, arriving: Schedule) -> Schedule:
        """Return this schedule with the ticks of one of the same name that comes from another store.

        If both tick alike, the next tick is the earliest that neither has fired; otherwise it stays.
        """
        fired = [moment for moment in (self.last_fired_at, arriving.last_fired_at) if moment is not None]
        last = max(fired, default=None)
        following = self.next_fire_at
        if self.timing == arriving.timing and self.enabled and arriving.enabled:
            ticks = [self.next_fire_at, arriving.next_fire_at]
            left = [tick for tick in ticks if tick is not None and (last is None or tick > last)]
            following = min(left, default=None)
        return attrs.evolve(self, next_fire_at=following, last_fired_at=last)

    @property
    def timing(self) -> tuple[object, ...]:
        """When it ticks, comparable."""
        return self.cron, self.every, self.timezone

    def _all_since(self, first: float, now: float) -> DueTicks:
        ticks: list[float] = []
        tick: float | None = first
        while tick is not None and tick <= now and len(ticks) < MAX_CATCH_UP:
            ticks.append(tick)
            tick = self.next_after(tick)
        return DueTicks(tuple(ticks), tick)


@attrs.frozen
class DueTicks:
    """What `Schedule.due` decided.

    Attributes:
        fire: The ticks that fire now.
        next_fire_at: The tick after them, or None if there is none.
    """

    fire: tuple[float, ...]
    next_fire_at: float | None


@attrs.frozen(eq=False)
class Fired:
    """What one look at the schedules did.

    Attributes:
        outcomes: Name of the schedule and outcome of the job, one for each tick that fired here.
        next_due: Seconds until the next tick of any enabled schedule; None if there is none.
    """

    outcomes: Sequence[tuple[str, EnqueueOutcome]] = ()
    next_due: float | None = None
