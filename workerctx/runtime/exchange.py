"""The exchange with the store: outcomes go there, claimed jobs come back, in one transaction a round.

A round takes whatever has piled up while the last one was under way; nothing is ever delayed to fill a batch. What is
claimed is what free slots can start now, and as much more as the handlers are likely to begin within the prefetch
window.
"""

from __future__ import annotations

import logging
import math
import random
import time
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.errors import LeaseLost, StoreClosed
from workerctx.queue import ClaimRequest
from workerctx.runtime.desk import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerctx.errors import QueueError
    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import Claimed, Finish, JobQueue
    from workerctx.runtime.config import WorkerConfig
    from workerctx.runtime.desk import Desk

_log = logging.getLogger("workerctx")

_FIRST_BACKOFF: Final = 0.1
_LONGEST_BACKOFF: Final = 3.0


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
    _idle: bool = field(default=False, init=False)
    _round_began: float = field(default=0.0, init=False)
    """`time.perf_counter()` of the latest round."""
    _failures: int = field(default=0, init=False)

    async def run(self) -> None:
        """Exchange until cancelled; a store that fails is asked again, with growing pauses."""
        while True:
            if not self._has_business():
                await self._desk.news(self._patience())
            await self._round()

    async def watch(self) -> None:
        """Look for jobs at each wake-up, and at the latest after the poll interval, until cancelled."""
        while True:
            try:
                async with self._jobs.wakeups(self._config.queues) as wakeups:
                    while True:
                        self.look()
                        await wakeups.wait(self._config.poll_interval)
            except StoreClosed:
                raise
            except Exception:  # noqa: BLE001 - logged, and tried again
                _log.exception("worker %r hears no wake-ups and polls until it does", self._context.name)
                await anyio.sleep(self._config.poll_interval)

    def look(self) -> None:
        """Claim at the next opportunity."""
        self._look = True
        self._desk.nudge()

    async def flush(self) -> None:
        """Tell the store everything that is left to tell; tries until it has."""
        while self._desk.has_news():
            await self._round()

    def _has_business(self) -> bool:
        return self._desk.has_news() or self._wanted() > 0

    def _patience(self) -> float:
        """Return in how many seconds to look at the desk again without a nudge."""
        waiting = self._desk.waiting
        if waiting:
            return max(0.0, waiting[0].claimed_at + self._config.prefetch_window - anyio.current_time())
        return self._ahead()[1] if self._may_claim else math.inf

    def _ahead(self) -> tuple[int, float]:
        desk = self._desk
        return desk.pace.due(desk.running.values(), time.perf_counter(), self._config.prefetch_window)

    @property
    def _may_claim(self) -> bool:
        return self._look and self._context.is_running and not self._desk.closed

    def _wanted(self) -> int:
        if not self._may_claim:
            return 0
        ahead = min(self._config.prefetch, self._ahead()[0])
        return self._desk.free + max(0, ahead - len(self._desk.waiting))

    async def _round(self) -> None:
        desk = self._desk
        now = anyio.current_time()
        desk.give_back(math.inf if self._context.is_paused else now - self._config.prefetch_window)
        wanted = self._wanted()
        at_once = wanted <= desk.free
        finishes, began = desk.collect()
        if not (finishes or began or wanted):
            return
        claimed: Sequence[Claimed] = ()
        began_at, last = time.perf_counter(), self._round_began
        self._round_began = began_at
        try:
            if wanted:
                self._look = False  # a wake-up during the claim sets it again
                request = self._request(wanted, began=at_once)
                refused, claimed = await self._jobs.finish_and_claim(finishes, request, began=began)
            else:
                refused = await self._jobs.finish_many(finishes, began=began)
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
        self._recovered()
        desk.pace.note_round(time.perf_counter() - began_at, began_at - last)
        for finish, error in zip(finishes, refused, strict=True):
            if error is not None:
                self._refused(finish, error)
        arrived = anyio.current_time()
        for job, lease in claimed:
            desk.put(Run(job, lease, arrived, at_once))
        self._look |= len(claimed) >= wanted > 0
        self._note_idle(asked=bool(wanted))

    def _request(self, limit: int, *, began: bool) -> ClaimRequest:
        config = self._config
        return ClaimRequest(
            worker_id=self._worker_id,
            labels=config.labels,
            lease_ttl=config.lease_ttl,
            queues=config.queues,
            kinds=self._kinds,
            limit=limit,
            began=began,
        )

    def _note_idle(self, *, asked: bool) -> None:
        if not self._desk.is_empty:
            self._idle = False
        elif not asked:
            self._look |= not self._idle  # the last job has ended: ask once more before calling it idle
        elif not self._idle:
            self._idle = True
            self._on_idle()

    def _refused(self, finish: Finish, error: QueueError) -> None:
        if isinstance(error, LeaseLost):
            _log.warning("worker %r finished a job too late, its outcome was not taken: %s", self._context.name, error)
        else:
            _log.error("worker %r could not store the outcome %r: %s", self._context.name, finish, error)

    async def _back_off(self, error: Exception) -> None:
        seconds = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2**self._failures) * (0.5 + random.random() / 2)  # noqa: S311
        if not self._failures:
            _log.warning("worker %r cannot reach its store and tries again", self._context.name, exc_info=error)
        self._failures += 1
        self._context.mark_unready(f"the store fails: {error}")
        await anyio.sleep(seconds)

    def _recovered(self) -> None:
        if self._failures:
            _log.warning("worker %r reaches its store again after %d failures", self._context.name, self._failures)
            self._failures = 0
        self._context.mark_ready()
