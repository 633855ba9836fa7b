"""Jobs that wait for jobs: who waits for whom, and what the end of one means for the others."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
from msgspec.structs import replace

from workerctx.queue import transitions
from workerctx.queue.model import JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workerctx.queue.memory.table import Table
    from workerctx.queue.model import QueuedJob


@attrs.define(eq=False)
class Graph:
    """The dependencies between the jobs of a table.

    Threads: used inside a `Change`.
    """

    _table: Table
    _unfinished: dict[str, set[str]] = attrs.field(factory=dict[str, set[str]], init=False)

    def attach(self, job: QueuedJob, now: float) -> QueuedJob:
        """Return a waiting job as its parents' states make it, and remember for whom it waits.

        The parents are in the table; if the result is not blocked, nothing is remembered.
        """
        table = self._table
        waits_for: set[str] = set()
        for parent_id in job.depends_on:
            parent = table.jobs.get(parent_id)
            if parent is None or parent.state is JobState.SUCCEEDED:
                continue
            if not parent.state.is_final:
                waits_for.add(parent_id)
            elif job.on_parent_failure == "cancel":
                return transitions.cancel(job, _because(parent_id, str(parent.state)), now)
        if not waits_for:
            return job
        self.wait_for(job, waits_for)
        return replace(job, state=JobState.BLOCKED)

    def wait_for(self, job: QueuedJob, parents: set[str]) -> None:
        """Remember for whom a job waits."""
        self._unfinished[job.id] = parents

    def unfinished_parents(self, job: QueuedJob) -> set[str]:
        """Return the parents of a job that have not ended."""
        parents = map(self._table.jobs.get, job.depends_on)
        return {parent.id for parent in parents if parent is not None and not parent.state.is_final}

    def forget(self, job_id: str) -> None:
        """Note that a job waits for nobody any more."""
        self._unfinished.pop(job_id, None)

    def settle(self, ended: QueuedJob, now: float, *, word: str | None = None) -> Iterator[QueuedJob]:
        """Yield, as they are now, the jobs that go on or are cancelled because a job has ended, or one of them has.

        Args:
            ended: The job.
            now: Store time.
            word: How its end is called in the reason of a cancellation; None for its state.
        """
        ends = deque([(ended, word or str(ended.state))])
        while ends:
            parent, how = ends.popleft()
            for child_id in list(self._table.children(parent.id)):
                waits_for = self._unfinished.get(child_id)
                if waits_for is None or parent.id not in waits_for:
                    continue
                child = self._table.jobs[child_id]
                if parent.state is not JobState.SUCCEEDED and child.on_parent_failure == "cancel":
                    cancelled = transitions.cancel(child, _because(parent.id, how), now)
                    self.forget(child_id)
                    yield cancelled
                    ends.append((cancelled, str(cancelled.state)))
                    continue
                waits_for.discard(parent.id)
                if not waits_for:
                    self.forget(child_id)
                    yield transitions.unblock(child, now)


def _because(parent_id: str, how: str) -> str:
    return f"job {parent_id!r}, which it depends on, is {how}"
