"""Limits of kinds: how many jobs of a kind, or of each key of a kind, are at work in a loop at once.

A claim says of each limited kind how many it has room for, so what has no seat is not claimed. Only a job's key is not
known before it is claimed: if its key is full, the job stands in line as long as any claimed job may wait, while others
of its kind are looked for behind it. Then it is given back, and its kind is left alone until one of its runs ends here,
or for a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from attrs import define, field

from workerctx.runtime.run import Seats

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from workerctx.queue import QueuedJob
    from workerctx.runtime.run import Run
    from workerctx.service.branch import AnyHandler

_LEFT_ALONE: Final = 1.0
"""Seconds for which a kind is not claimed after one of its jobs had to be given back."""


@define(eq=False)
class Limit:
    """How many jobs of one handler may be at work.

    Attributes:
        kinds: The handler's kind and its aliases, which count together.
        total: How many in all; None for no limit.
        each: How many of each key; None if there are no keys.
        key: Tells the key of a job.
        in_line: How many stand in line.
        depth: How many did when there were most of them; behind those may be jobs with other keys.
        left_alone_until: When to claim its kinds again, on the event loop's clock.
    """

    kinds: tuple[str, ...]
    total: Seats | None
    each: int | None
    key: Callable[[QueuedJob], Hashable] | None
    in_line: int = field(default=0, init=False)
    depth: int = field(default=0, init=False)
    left_alone_until: float = field(default=0.0, init=False)
    _of_keys: dict[Hashable, Seats] = field(factory=dict["Hashable", Seats], init=False)

    @classmethod
    def of(cls, handler: AnyHandler, per_kind: Mapping[str, int]) -> Limit | None:
        """Return a handler's limit, given the worker's own limits of kinds, which go before; None without any."""
        options = handler.options
        total = min((per_kind[kind] for kind in handler.kinds if kind in per_kind), default=None)
        key, each = options.concurrency_key, options.concurrency
        if key is None:
            total, each = (each if total is None else total), None
        if total is None and each is None:
            return None
        if isinstance(key, str):
            key = handler.contract.payload.reader(key)
        return cls(handler.kinds, None if total is None else Seats(total), each, key)

    def seats_for(self, job: QueuedJob) -> tuple[Seats, ...]:
        """Return where a job needs a seat.

        Raises:
            Exception: Whatever the handler's function of keys raises.
        """
        seats = () if self.total is None else (self.total,)
        if self.key is None or self.each is None:
            return seats
        key = self.key(job)
        return (*seats, self._of_keys.get(key) or self._of_keys.setdefault(key, Seats(self.each, key)))

    def room(self, now: float, most: int) -> int:
        """Return how many jobs to claim at the most.

        Args:
            now: On the event loop's clock.
            most: How many may stand in line.
        """
        if now < self.left_alone_until:
            return 0
        room = most - self.in_line
        if self.total is not None:
            room = min(room, self.total.limit - self.total.taken - len(self.total.line))
        return max(0, room)

    def forget(self, seats: Iterable[Seats]) -> None:
        """Drop the keys among these of which nothing is here any more."""
        for each in seats:
            if each is not self.total and not each.taken and not each.line:
                self._of_keys.pop(each.key, None)


@define(eq=False)
class Seating:
    """The limits of a loop's kinds, and who sits and stands there.

    Args:
        limits: Of each limited handler.
    """

    limits: tuple[Limit, ...] = ()
    look_at: float = field(default=math.inf, init=False)
    """When some kind was left alone for long enough, on the event loop's clock."""
    _made_room: bool = field(default=False, init=False)
    behind: Limit | None = field(default=None, init=False)
    """The limit where somebody was put in line; whoever has looked for others behind that line resets it."""
    _by_kind: dict[str, Limit] = field(init=False)
    _standing: dict[str, Run] = field(factory=dict[str, "Run"], init=False)
    """Everybody who stands in line, by lease id, those claimed first first."""

    def __attrs_post_init__(self) -> None:
        self._by_kind = {kind: limit for limit in self.limits for kind in limit.kinds}

    @classmethod
    def of(cls, handlers: Iterable[AnyHandler], per_kind: Mapping[str, int]) -> Seating:
        """Return the limits of these handlers; see `Limit.of`."""
        return cls(tuple(limit for handler in handlers if (limit := Limit.of(handler, per_kind)) is not None))

    @property
    def totals(self) -> dict[str, int]:
        """How many jobs of each kind that is limited as a whole may be at work."""
        return {kind: limit.total.limit for limit in self.limits if limit.total for kind in limit.kinds}

    @property
    def of_each_key(self) -> dict[str, int]:
        """How many jobs of each key of a kind may be at work, for kinds with keys."""
        return {kind: limit.each for limit in self.limits if limit.each is not None for kind in limit.kinds}

    @property
    def oldest(self) -> Run | None:
        """Who stands in line for longest."""
        return next(iter(self._standing.values()), None)

    def has_made_room(self, now: float) -> bool:
        """Tell whether more can be claimed than when this was asked last."""
        if now >= self.look_at:
            # Another kind, or more jobs of the same, may have been given back since: those are left alone for longer.
            left_alone = (limit.left_alone_until for limit in self.limits if limit.left_alone_until > now)
            self.look_at, self._made_room = min(left_alone, default=math.inf), True
        made_room, self._made_room = self._made_room, False
        return made_room

    def room(self, now: float, most: int) -> dict[str, int]:
        """Return how many jobs of each limited kind may be claimed; see `Limit.room`."""
        room: dict[str, int] = {}
        for limit in self.limits:
            room.update(dict.fromkeys(limit.kinds, limit.room(now, most)))
        return room

    def admit(self, run: Run) -> bool:
        """Give a claimed job its seats, or a place in line; True if it can begin.

        Raises:
            Exception: The job's key could not be told.
        """
        limit = self._by_kind.get(run.job.kind)
        if limit is None:
            return True
        run.seats = run.seats or limit.seats_for(run.job)
        full = next((seats for seats in run.seats if seats.is_full), None)
        if full is None:
            for seats in run.seats:
                seats.taken += 1
            if not limit.in_line:
                limit.depth = 0
            return True
        full.line[run.lease.id] = self._standing[run.lease.id] = run
        run.line = full.line
        limit.in_line += 1
        limit.depth = max(limit.depth, limit.in_line)
        self.behind = limit
        return False

    def leave(self, run: Run) -> Iterator[Run]:
        """Take away a job's seats, or its place in line; yield who can begin now."""
        limit = self._by_kind[run.job.kind]
        if run.line is not None:
            self._call(run, limit)
        else:
            for seats in run.seats:
                seats.taken -= 1
            limit.left_alone_until = 0.0
            self._made_room = True
            for seats in run.seats:
                while seats.line and not seats.is_full:
                    first = next(iter(seats.line.values()))
                    self._call(first, limit)
                    if self.admit(first):
                        yield first
        limit.forget(run.seats)

    def overdue(self, now: float, after: float) -> list[Run]:
        """Return who was claimed ``after`` seconds ago and stands in line, and leave their kinds alone for a while."""
        found: list[Run] = []
        for run in self._standing.values():
            if run.claimed_at + after > now:
                break
            found.append(run)
            self._by_kind[run.job.kind].left_alone_until = now + _LEFT_ALONE
        if found:
            self.look_at = min(self.look_at, now + _LEFT_ALONE)
        return found

    def _call(self, run: Run, limit: Limit) -> None:
        """Take somebody out of the line."""
        assert run.line is not None
        del run.line[run.lease.id]
        del self._standing[run.lease.id]
        run.line = None
        limit.in_line -= 1
