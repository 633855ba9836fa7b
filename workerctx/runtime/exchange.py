"""The exchange with the store: outcomes go there, claimed jobs come back, in one transaction a round.

A round takes whatever has piled up while the last one was under way; nothing is ever delayed to fill a batch. What is
claimed is what free slots can start now, and as much more as the handlers are likely to begin within the prefetch
window.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

import anyio
from attrs import Factory, define, field, frozen

from workerctx.errors import LeaseLost, StoreClosed
from workerctx.lifecycle.latch import Latch
from workerctx.queue import ClaimRequest, FailLease
from workerctx.runtime.ahead import ClaimAhead
from workerctx.runtime.events import JobLost, JobsClaimed, StoreFailed, StoreRecovered
from workerctx.runtime.opening import STORE
from workerctx.runtime.persist import backoff, keep_on, pause
from workerctx.runtime.run import Run
from workerctx.service.describe import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from workerctx.errors import QueueError
    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import Claimed, Finish, JobQueue, Wakeups
    from workerctx.runtime.ahead import Ready
    from workerctx.runtime.config import WorkerConfig
    from workerctx.runtime.desk import Desk

_log = logging.getLogger("workerctx")

_LISTEN_AGAIN: Final = 1.0
"""Seconds after which to try again to hear wake-ups; until then, each try is a poll."""
_SILENCE: Final = 5.0
"""Seconds without an answer of the store that count as a failure of it."""


@frozen(eq=False)
class _Wish:
    """What to claim: how many jobs, of which kinds, and of some kinds at most how many."""

    limit: int = 0
    kinds: tuple[str, ...] = ()
    room: Mapping[str, int] = Factory(dict[str, int])


_NOTHING: Final = _Wish()


@define(eq=False)
class Exchange:
    """Feeds a desk from a queue and tells the queue what became of the jobs.

    Args:
        on_idle: called once per idle period, when there is nothing to claim and nothing runs.
    """

    _jobs: JobQueue
    _desk: Desk
    _config: WorkerConfig
    _context: WorkerContext
    _worker_id: str
    _kinds: tuple[str, ...]
    _on_idle: Callable[[], None]
    _look: bool = field(default=True, init=False)
    """Whether there may be jobs that were not seen yet."""
    _seen: anyio.Event | None = field(default=None, init=False)
    """Set once there are none."""
    _idle: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)
    _asked_at: float = field(default=math.inf, init=False)
    """When the round under way began, on the event loop's clock."""
    _ending: bool = field(default=False, init=False)
    _end_begun: Latch = field(init=False)
    _ahead_of_time: ClaimAhead = field(init=False)
    _wakeups: Wakeups | None = field(default=None, init=False)
    _scope: anyio.CancelScope = field(init=False)
    _queues: tuple[str, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._queues = tuple(self._config.queues)
        self._end_begun = Latch(lambda: self._ending)
        self._ahead_of_time = ClaimAhead(self._jobs)
        # Outcomes have to be told whatever is cancelled around this; `end` bounds it.
        self._scope = anyio.CancelScope(shield=True)

    async def run(self) -> None:
        """Exchange until `end` was called and everything is told; a store that fails is asked again, at growing pauses.

        Raises:
            StoreClosed: The store does not come back.
        """
        with self._scope:
            try:
                while not self._ending or self._desk.has_news():
                    if not self._has_business():
                        await self._desk.news(self._patience())
                    await self._round()
            finally:
                self._ahead_of_time.drop()
        if self._scope.cancelled_caught:
            _log.error(
                "worker %r could not tell the store the outcome of its last %d jobs in time; their leases will expire"
                " and the jobs run again",
                self._context.name,
                self._desk.untold,
            )

    def end(self, seconds: float) -> None:
        """Let `run` return once everything is told, at the latest after so many seconds; the desk is closed."""
        self._ending = True
        self._end_begun.wake()
        self._scope.deadline = self._desk.clock() + seconds
        self._desk.nudge()

    async def watch(self) -> None:
        """Look for jobs at each wake-up, and at the latest after the poll interval, until cancelled."""
        again = min(self._config.poll_interval, _LISTEN_AGAIN)
        await keep_on(self._context.name, "hear wake-ups", again, self._listen)

    @property
    def owes(self) -> bool:
        """Whether the store may not have heard of runs that ended, because it fails."""
        under_way = self._asked_at < math.inf
        return self._failures > 0 and (under_way or self._desk.untold > 0)

    def note_silence(self) -> None:
        """Count as unready while the store does not answer."""
        seconds = self._desk.clock() - self._asked_at
        if seconds > _SILENCE:
            self._context.mark_unready(f"the store has not answered for {seconds:.0f} seconds", about=STORE)

    def look(self) -> None:
        """Claim at the next opportunity."""
        self._look = True
        self._desk.nudge()

    async def _listen(self) -> None:
        self.look()  # also when wake-ups fail, which makes this a poll
        async with self._jobs.wakeups(self._queues) as self._wakeups:
            while True:
                self.look()
                # Before it waits it asks when the next job is due, which must not hold up the claim.
                await self._all_seen()
                await self._wakeups.wait(self._config.poll_interval)

    async def _all_seen(self) -> None:
        """Wait until the queue was looked at and nothing was left there."""
        while self._look:
            self._seen = anyio.Event()
            await self._seen.wait()

    def _has_business(self) -> bool:
        return self._desk.has_news() or self._wish().limit > 0

    def _patience(self) -> float:
        """Return in how many seconds to look at the desk again without a nudge."""
        now, oldest = self._desk.clock(), self._desk.oldest
        until = min(self._desk.tell_by, self._desk.seating.look_at)
        if oldest is not None:
            until = min(until, oldest.claimed_at + self._config.prefetch_window)
        elif self._may_claim:
            until = min(until, now + self._ahead()[1])
        return max(0.0, until - now)

    def _ahead(self) -> tuple[int, float]:
        desk = self._desk
        began = (run.began_at for run in desk.running.values())
        return desk.pace.due(began, self._desk.clock(), self._config.prefetch_window)

    @property
    def _may_claim(self) -> bool:
        if self._desk.seating.limits:
            self._look |= self._desk.seating.has_made_room(self._desk.clock())
        return self._look and self._is_open

    @property
    def _is_open(self) -> bool:
        return self._context.is_running and not self._desk.closed

    def _wish(self) -> _Wish:
        """Return what to claim now."""
        desk, seating = self._desk, self._desk.seating
        if not self._may_claim:
            return _NOTHING
        if not seating.limits:
            return _Wish(self._free_and_ahead(), self._kinds)
        room = seating.room(desk.clock(), max(self._config.prefetch, self._config.concurrency))
        behind = seating.behind
        if behind is not None and desk.free and room[behind.kinds[0]]:
            return _Wish(min(room[behind.kinds[0]], desk.free + 2 * behind.depth), behind.kinds)
        kinds = tuple(kind for kind in self._kinds if room.get(kind) != 0)
        room = {kind: number for kind, number in room.items() if number}
        return _Wish(self._free_and_ahead(), kinds, room) if kinds else _NOTHING

    def _free_and_ahead(self) -> int:
        ahead = min(self._config.prefetch, self._ahead()[0])
        return self._desk.free + max(0, ahead - len(self._desk.waiting))

    async def _round(self) -> None:
        desk = self._desk
        self._give_back()
        finishes, began = desk.collect()
        ready = self._ready(telling=bool(finishes or began))
        if not (finishes or began or ready):
            return
        wanted, at_once = (ready.request.limit, ready.request.began) if ready else (0, False)
        self._asked_at = began_at = desk.begin_round()
        if wanted:
            # A wake-up during the claim sets it again, and so does a look behind a line, which is for a few kinds only.
            self._look = desk.seating.behind is not None
            desk.seating.behind = None
        try:
            refused, claimed = await self._ask(finishes, began, ready)
        except StoreClosed:
            raise
        except Exception as exc:  # noqa: BLE001 - shown by is_ready, logged and tried again
            desk.put_back(finishes, began)
            self._look = True
            await self._back_off(exc)
            return
        except BaseException:
            desk.put_back(finishes, began)
            raise
        finally:
            self._asked_at = math.inf
        self._recovered()
        for finish, error in zip(finishes, refused, strict=True):
            if error is not None:
                self._refused(finish, error)
        arrived = self._desk.clock()
        desk.pace.note_round(arrived - began_at)
        for job, lease in claimed:
            desk.put(Run(job, lease, arrived, at_once))
        if claimed and self._context.hears(JobsClaimed):
            self._context.tell(JobsClaimed(number=len(claimed)))
        self._look |= len(claimed) >= wanted > 0 or desk.seating.behind is not None
        self._note_idle(asked=bool(wanted))
        self._note_seen()

    def _ready(self, *, telling: bool) -> Ready | None:
        """Return what to claim now; what was prepared goes by itself, and so not if there is something to tell."""
        if telling or not self._is_open:
            self._ahead_of_time.drop()
        wish, desk = self._wish(), self._desk
        if not wish.limit:
            return None
        at_once = wish.limit <= desk.free and not desk.seating.limits  # else some may have to stand in line
        return self._ahead_of_time.take(self._request(wish, began=at_once))

    def _note_seen(self) -> None:
        if self._seen is not None and not self._look:
            self._seen.set()

    def _give_back(self) -> None:
        desk = self._desk
        if desk.oldest is None:
            return
        if not self._context.is_running:
            desk.give_back(self._desk.clock())
        elif desk.give_back(self._desk.clock(), self._config.prefetch_window):
            desk.pace.brake()
            self._look = True

    async def _ask(
        self, finishes: list[Finish], began: list[str], ready: Ready | None
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        if ready is None:
            return await self._jobs.finish_many(finishes, began=began), ()
        if ready.claim is not None:  # and so there is nothing to tell
            return (), await ready.claim.result()
        return await self._jobs.finish_and_claim(finishes, ready.request, began=began)

    def _request(self, wish: _Wish, *, began: bool) -> ClaimRequest:
        config = self._config
        return ClaimRequest(
            worker_id=self._worker_id,
            labels=config.labels,
            lease_ttl=config.lease_ttl,
            queues=self._queues,
            weights=config.queues,
            kinds=wish.kinds,
            kind_limits=wish.room,
            limit=wish.limit,
            began=began,
        )

    def _note_idle(self, *, asked: bool) -> None:
        if not self._desk.is_empty:
            self._idle = False
        elif not asked:
            self._look |= not self._idle  # the last job has ended: ask once more before calling it idle
        else:
            self._prepare_claim()
            if not self._idle:
                self._idle = True
                self._on_idle()

    def _prepare_claim(self) -> None:
        """Have the next wake-up begin a claim: nothing goes on here that could change what to claim until then."""
        desk = self._desk
        if self._wakeups is not None and desk.free and self._is_open and not desk.seating.limits:
            self._ahead_of_time.prepare(self._request(_Wish(desk.free, self._kinds), began=True), self._wakeups)

    def _refused(self, finish: Finish, error: QueueError) -> None:
        if isinstance(error, LeaseLost):
            _log.warning("worker %r finished a job too late, its outcome was not taken: %s", self._context.name, error)
            self._context.emit(JobLost(lease_id=finish.lease_id, after_run=True))
            return
        _log.error("worker %r could not store the outcome %r: %s", self._context.name, finish, error)
        plain = isinstance(finish, FailLease) and finish.delay is None
        if not plain:  # such as a wait of NaN seconds: the run has failed with that
            self._desk.amend(FailLease(finish.lease_id, describe(error)))

    async def _back_off(self, error: Exception) -> None:
        seconds = backoff(self._failures)
        if not self._failures:
            _log.warning("worker %r cannot reach its store and tries again", self._context.name, exc_info=error)
        self._failures += 1
        self._context.mark_unready(f"the store fails: {error}", about=STORE)
        self._context.emit(StoreFailed(error=error, failures=self._failures))
        await pause(seconds, self._end_begun)

    def _recovered(self) -> None:
        failures, self._failures = self._failures, 0
        self._context.mark_ready(about=STORE)
        if failures:
            _log.warning("worker %r reaches its store again after %d failures", self._context.name, failures)
            self._context.emit(StoreRecovered(failures=failures))
