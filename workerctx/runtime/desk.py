"""What a worker holds at this moment: claimed jobs, running jobs, and what has to be told to the store.

Slots take from it and put outcomes on it; the exchange with the store does the reverse. Everything happens on the
loop's own event loop, so nothing here locks; `live` alone is also read by the thread that renews leases.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.lifecycle.home import Home
from workerctx.queue import CancelReason, ReleaseLease
from workerctx.runtime.pace import Pace
from workerctx.runtime.run import Run
from workerctx.runtime.seats import Seating

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from workerctx.queue import Finish

_BEGINNINGS_WAIT: Final = 0.01
"""Seconds for which the word that runs have begun waits for others to go with."""


@define(eq=False)
class Desk:
    """The jobs and outcomes of one worker."""

    clock: Callable[[], float] = field(default=anyio.current_time, init=False)
    """The event loop's."""
    seating: Seating = field(factory=Seating, init=False)
    """The limits of its kinds."""
    live: dict[str, Run] = field(factory=dict[str, Run], init=False)
    """Every claimed job that is not finished, by lease id."""
    waiting: deque[Run] = field(factory=deque[Run], init=False)
    """Claimed jobs that could begin and that no slot has taken yet, oldest first."""
    running: dict[str, Run] = field(factory=dict[str, Run], init=False)
    """Jobs that a slot has taken, by lease id, in the order in which they began."""
    closed: bool = field(default=False, init=False)
    """Whether slots get nothing more."""
    tell_by: float = field(default=math.inf, init=False)
    """When to tell of beginnings although nothing else is to be told, on the event loop's clock."""
    pace: Pace = field(factory=Pace, init=False)
    """How fast jobs end here."""
    _finishes: list[Finish] = field(factory=list["Finish"], init=False)
    _began: list[str] = field(factory=list[str], init=False)
    _idle: deque[anyio.Event] = field(factory=deque[anyio.Event], init=False)
    _news: anyio.Event | None = field(default=None, init=False)
    _still_since: float | None = field(default=None, init=False)
    """Since when there has been nothing to do for any slot."""
    _stood_still: float = field(default=0.0, init=False)
    """Seconds without anything to do since the last round."""
    _round_began: float = field(default=0.0, init=False)

    def open(self, seating: Seating) -> None:
        """Take the clock of the running event loop, and the limits of kinds."""
        home = Home.current()
        assert home is not None
        self.clock, self.seating = home.clock(), seating

    @property
    def free(self) -> int:
        """How many slots wait for a job."""
        return len(self._idle)

    @property
    def oldest(self) -> Run | None:
        """Who has been claimed for longest without having begun."""
        standing = self.seating.oldest
        if not self.waiting:
            return standing
        first = self.waiting[0]
        return first if standing is None or first.claimed_at <= standing.claimed_at else standing

    @property
    def in_flight(self) -> int:
        """How many jobs run."""
        return len(self.running)

    @property
    def untold(self) -> int:
        """Of how many runs that ended the store has not heard."""
        return len(self._finishes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs, waits or has to be told."""
        return not self.live and not self._finishes

    def put(self, run: Run) -> None:
        """Hand a claimed job to a slot, now or when one is free."""
        self.live[run.lease.id] = run
        if self.closed:
            self.finish(run, ReleaseLease(run.lease.id))
            return
        if not self.seating.limits or self._is_admitted(run):
            self._hand_out(run)

    async def take(self) -> Run | None:
        """Return the next job to run; None once the desk is closed.

        No checkpoint while jobs are waiting: a slot that never waits has to yield by itself.
        """
        while not self.waiting:
            if self.closed:
                return None
            handed = anyio.Event()
            self._idle.append(handed)
            if not self.running:
                self._stand_still()
            self.nudge()
            try:
                await handed.wait()
            except BaseException:
                if handed in self._idle:
                    self._idle.remove(handed)
                elif self._idle and self.waiting:
                    self._idle.popleft().set()  # the job meant for this slot goes to another one
                raise
        run = self.waiting.popleft()
        run.began_at = self.clock()
        self.running[run.lease.id] = run
        if not run.counted:
            if not self._began:
                self.tell_by = self.clock() + _BEGINNINGS_WAIT
                self.nudge()
            self._began.append(run.lease.id)
        return run

    def finish(self, run: Run, finish: Finish | None) -> None:
        """Put down what became of a job; None if nobody has to be told."""
        if self.live.pop(run.lease.id, None) is None:
            return
        if self.running.pop(run.lease.id, None) is not None:
            self.pace.note(self.clock() - run.began_at)
        if run.seats:
            for following in self.seating.leave(run):
                self._hand_out(following)
        if finish is not None:
            self._finishes.append(finish)
            self.nudge()

    def amend(self, finish: Finish) -> None:
        """Tell this of a job instead of an outcome that the store refused."""
        self._finishes.append(finish)

    def give_back(self, now: float, after: float = -math.inf) -> bool:
        """Release jobs that were claimed some time ago and have not begun; True if any of them could have.

        Args:
            now: on the event loop's clock.
            after: how many seconds ago, at least.
        """
        for run in self.seating.overdue(now, after):
            self.finish(run, ReleaseLease(run.lease.id))
        surplus = False
        while self.waiting and self.waiting[0].claimed_at + after <= now:
            run = self.waiting.popleft()
            self.finish(run, ReleaseLease(run.lease.id))
            surplus = True
        return surplus

    def cancel(self, lease_id: str, reason: CancelReason) -> Run | None:
        """Cancel the run of a lease, or see to it that it never begins; None if there is no such run."""
        run = self.live.get(lease_id)
        if run is None:
            return None
        if run.ctx is None or run.scope is None:
            if run.line is None:
                self.waiting.remove(run)
            self.finish(run, None if reason is CancelReason.LEASE_LOST else ReleaseLease(lease_id))
        else:
            run.ctx.cancel.set(reason)
            run.scope.cancel(reason=reason.value)
        return run

    def tell_all(self, reason: CancelReason) -> None:
        """Tell every handler to come to an end, and cancel none of them."""
        for run in self.running.values():
            if run.ctx is not None:
                run.ctx.cancel.set(reason)

    def begin_round(self) -> float:
        """Take note that a round with the store begins, and return the time."""
        now = self.clock()
        still = self._stood_still
        if self._still_since is not None:
            still += now - self._still_since
            self._still_since = now
        self.pace.note_work(now - self._round_began - still)
        self._round_began, self._stood_still = now, 0.0
        return now

    def collect(self) -> tuple[list[Finish], list[str]]:
        """Take everything that has to be told: outcomes, and the leases whose run has begun meanwhile."""
        finishes, self._finishes = self._finishes, []
        self.tell_by = math.inf
        began, self._began = [lease_id for lease_id in self._began if lease_id in self.live], []
        return finishes, began

    def put_back(self, finishes: list[Finish], began: Collection[str]) -> None:
        """Undo `collect`: the store could not be told."""
        self._finishes[:0] = finishes
        self._began[:0] = began
        if self._began:
            self.tell_by = self.clock()

    def has_news(self) -> bool:
        """Tell whether there is something to be told now."""
        return bool(self._finishes) or self.tell_by <= self.clock()

    def nudge(self) -> None:
        """Wake who waits for news."""
        if self._news is not None:
            self._news.set()

    async def news(self, seconds: float) -> None:
        """Wait for a nudge, or for this long."""
        self._news = anyio.Event()
        try:
            with anyio.move_on_after(seconds):
                await self._news.wait()
        finally:
            self._news = None

    def close(self) -> None:
        """Give slots nothing more and release what they have not taken."""
        self.closed = True
        self.give_back(math.inf)
        while self._idle:
            self._idle.popleft().set()

    def _is_admitted(self, run: Run) -> bool:
        try:
            return self.seating.admit(run)
        except Exception as exc:  # noqa: BLE001 - the handler's function of keys is at fault, and so its run fails
            run.refusal = exc
            return True

    def _hand_out(self, run: Run) -> None:
        if self._still_since is not None:
            self._stood_still += self.clock() - self._still_since
            self._still_since = None
        self.waiting.append(run)
        if self._idle:
            self._idle.popleft().set()

    def _stand_still(self) -> None:
        if self._still_since is None:
            self._still_since = self.clock()
