"""Moving house: what one store holds goes to another one, batch by batch, while workers go on at both.

::

    source                    mover                     target
    live tables -> outbox     take_out
                              put_in                    live tables, the batch's id remembered
    outbox -> nothing         clear_out

A mover that is killed is followed by another one with the same source and target: it finds the batch in the outbox.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import attrs

from workerctx.errors import InvalidRequest, MoveRefused
from workerctx.queue.cargo import BATCH_SIZE, HISTORY, Settings, moving_of
from workerctx.queue.model import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue.base import Storage
    from workerctx.queue.cargo import Arrived, Batch

_LOOK_AGAIN: Final = 1.0
"""Seconds after which to look whether jobs that were running can go, woken or not."""

Counts: TypeAlias = dict[JobState, int]


@attrs.define(eq=False, kw_only=True)
class MoveReport:
    """What a move did so far.

    Attributes:
        jobs: How many jobs arrived, by the state in which they left.
        schedules: How many schedules arrived.
        cancelled: Jobs that arrived as cancelled since they could not stay alive at the target, and why.
        batches: How many batches arrived.
        settings: Limits, pauses and cancelled workflows that hold at the target too.
        source_before: How many jobs the source had in each state.
        target_before: How many the target had.
        source_after: The same after the move; None until then.
        target_after: The same after the move; None until then.
        left: What of the source should have moved and did not, by state.
    """

    jobs: Counter[JobState] = attrs.field(factory=Counter["JobState"])
    schedules: int = 0
    cancelled: dict[str, str] = attrs.field(factory=dict[str, str])
    batches: int = 0
    settings: Settings = attrs.field(factory=Settings)
    source_before: Counts = attrs.field(factory=dict["JobState", int])
    target_before: Counts = attrs.field(factory=dict["JobState", int])
    source_after: Counts | None = None
    target_after: Counts | None = None
    left: Counts = attrs.field(factory=dict["JobState", int])

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left."""
        return self.source_after is not None and not self.left

    def note(self, batch: Batch, arrived: Arrived) -> None:
        """Count what arrived.

        Raises:
            MoveRefused: It is not as much as left.
        """
        if not arrived.again and (arrived.jobs, arrived.schedules) != (len(batch.jobs), len(batch.schedules)):
            raise MoveRefused(
                f"{len(batch.jobs)} jobs and {len(batch.schedules)} schedules left and {arrived.jobs} and "
                f"{arrived.schedules} arrived: batch {batch.id} is kept in the outbox"
            )
        self.jobs.update(job.state for job in batch.jobs)
        self.schedules += len(batch.schedules)
        self.cancelled.update(arrived.cancelled)
        self.batches += 1


async def move(
    source: Storage,
    target: Storage,
    *,
    history: bool = False,
    patience: float | None = None,
    limit: int = BATCH_SIZE,
    tell: Callable[[MoveReport], object] | None = None,
) -> MoveReport:
    """Move the jobs and schedules of one store to another, and let its limits and pauses hold there.

    Every job succeeds, dies or is cancelled at one of the two and is at no moment claimable at both. Jobs that are
    running stay where they are until they have ended or wait again; so do those that depend on them. Whatever is
    added to the source meanwhile moves too, so the move ends when the source has nothing left that should go.

    Args:
        source: An open Storage that is left.
        target: An open Storage that is entered.
        history: Whether succeeded and cancelled jobs move too.
        patience: Seconds without anything that could move after which to give up and say what is left; None waits
            for ever.
        limit: About how many jobs travel together, at least 1.
        tell: Called with the report after each batch.

    Raises:
        InvalidRequest: Source and target are the same, or the limit is less than 1.
        MoveRefused: See `Moving.take_out` and `Moving.put_in`.

    Cancellation: what has left has arrived, or is in the outbox until the next move from source to target.
    """
    if limit < 1:
        raise InvalidRequest(f"jobs travel at least 1 together, got limit={limit}")
    mover = _Mover(source, target, history, limit, tell)
    await mover.check()
    await mover.run(patience)
    return mover.report


async def give_back(source: Storage) -> int:
    """Put what is on its way to another store back where it came from, because that store is gone for good.

    What had arrived there after all is then at both, and runs at both if somebody serves that store again.

    Args:
        source: An open Storage.

    Returns:
        How many jobs were put back; one whose unique key has been taken meanwhile is there as cancelled.

    Raises:
        MoveRefused: See `Moving.put_in`.
    """
    moving = moving_of(source)
    jobs = 0
    while (batch := await moving.outbox()) is not None:
        jobs += (await moving.put_in(batch)).jobs
        await moving.clear_out(batch.id)
    return jobs


@attrs.define(eq=False)
class _Mover:
    """One move."""

    _source: Storage
    _target: Storage
    _history: bool
    _limit: int
    _tell: Callable[[MoveReport], object] | None
    report: MoveReport = attrs.field(factory=MoveReport, init=False)
    _to: str = attrs.field(default="", init=False)

    async def check(self) -> None:
        """Look at both ends before anything is touched."""
        self._to = await moving_of(self._target).identity()
        if await moving_of(self._source).identity() == self._to:
            raise InvalidRequest("source and target are the same store and namespace: name another target")
        self.report.source_before = await self._source.jobs.counts()
        self.report.target_before = await self._target.jobs.counts()

    async def run(self, patience: float | None) -> None:
        """Carry what can go until nothing is left, or nothing could go for long."""
        async with self._source.jobs.wakeups(finished=True) as wakeups:
            moved_at = anyio.current_time()
            while True:
                while await self._carry():
                    moved_at = anyio.current_time()
                left = await self._left()
                rest = None if patience is None else moved_at + patience - anyio.current_time()
                if not left or (rest is not None and rest <= 0):
                    break
                # A worker that is gone gives back nothing.
                await self._source.jobs.reap_expired_leases()
                await wakeups.wait(_LOOK_AGAIN if rest is None else min(rest, _LOOK_AGAIN))
        self.report.left = left
        self.report.source_after = await self._source.jobs.counts()
        self.report.target_after = await self._target.jobs.counts()

    async def _carry(self) -> bool:
        """Carry one batch; return whether there was one."""
        await self._share_settings()
        there, here = moving_of(self._target), moving_of(self._source)
        batch = await here.take_out(self._to, limit=self._limit, history=self._history)
        if batch is None:
            return False
        self.report.note(batch, await there.put_in(batch))
        await here.clear_out(batch.id)
        if self._tell is not None:
            self._tell(self.report)
        return True

    async def _share_settings(self) -> None:
        found = await moving_of(self._source).settings()
        fresh = _changed(self.report.settings, found)
        if fresh is not None:
            await moving_of(self._target).adopt(fresh)
            self.report.settings = found

    async def _left(self) -> Counts:
        counts = await self._source.jobs.counts()
        stay = frozenset[JobState]() if self._history else HISTORY
        return {state: count for state, count in counts.items() if count and state not in stay}


def _changed(before: Settings, found: Settings) -> Settings | None:
    """Return what is new in the settings of the source; an operator's word at the target is not undone each time."""
    pauses = dict(found.pauses.items() - before.pauses.items())
    limits = [each for each in found.limits if each not in before.limits]
    workflows = frozenset(found.workflows) - frozenset(before.workflows)
    if not (pauses or limits or workflows):
        return None
    return Settings(limits=limits, pauses=pauses, workflows=workflows)
