"""Jobs that wait for jobs: who waits for whom, and what the end of one means for the others."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
from msgspec.structs import replace

from workerctx.queue import transitions
from workerctx.queue.model import JobState

if TYPE_CHECKING:
    from collections.abc import Collection

    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.table import Table
    from workerctx.queue.model import QueuedJob


@attrs.define(eq=False)
class Graph:
    """The dependencies between the jobs of a table.

    Threads: used inside a `Change`.
    """

    _table: Table
    _children: dict[str, dict[str, None]] = attrs.field(factory=dict[str, dict[str, None]], init=False)
    _unfinished: dict[str, set[str]] = attrs.field(factory=dict[str, set[str]], init=False)

    def attach(self, job: QueuedJob, now: float) -> QueuedJob:
        """Return a waiting job as its parents' states make it, and remember for whom it waits.

        The parents are in the table; if the result is not blocked, nothing is remembered.
        """
        table = self._table
        waits_for: set[str] = set()
        outputs: dict[str, bytes] = {}
        for parent_id in job.depends_on:
            parent = table.jobs.get(parent_id)
            if parent is None:
                continue
            if parent.result_json is not None:
                outputs[parent_id] = parent.result_json
            elif not parent.state.is_final:
                waits_for.add(parent_id)
            elif job.on_parent_failure == "cancel":
                return transitions.cancel(job, _because(parent_id, str(parent.state)), now)
        if outputs:
            table.upstream[job.id] = outputs
        if not waits_for:
            return job
        self.wait_for(job, waits_for)
        return replace(job, state=JobState.BLOCKED)

    def wait_for(self, job: QueuedJob, parents: set[str]) -> None:
        """Remember for whom a job waits."""
        self._unfinished[job.id] = parents
        for parent_id in parents:
            self._children.setdefault(parent_id, {})[job.id] = None

    def unfinished_parents(self, job: QueuedJob) -> set[str]:
        """Return the parents of a job that have not ended."""
        parents = map(self._table.jobs.get, job.depends_on)
        return {parent.id for parent in parents if parent is not None and not parent.state.is_final}

    def children(self, job_id: str) -> Collection[str]:
        """Return the jobs that wait for a job."""
        return self._children.get(job_id, ())

    def forget(self, job_id: str) -> None:
        """Note that a job waits for nobody any more."""
        for parent_id in self._unfinished.pop(job_id, ()):
            siblings = self._children.get(parent_id)
            if siblings is not None:
                siblings.pop(job_id, None)
                if not siblings:
                    del self._children[parent_id]

    def settle(self, change: Change, ended: QueuedJob, *, word: str | None = None) -> None:
        """Let the jobs that wait for a job that has ended go on or be cancelled, and those that wait for them.

        Args:
            change: The transaction.
            ended: The job.
            word: How its end is called in the reason of a cancellation; None for its state.
        """
        if ended.id not in self._children:
            return
        ends = deque([(ended, word or str(ended.state))])
        while ends:
            parent, how = ends.popleft()
            succeeded = parent.state is JobState.SUCCEEDED
            for child_id in self._children.pop(parent.id, ()):
                child = self._table.jobs[child_id]
                if succeeded:
                    assert parent.result_json is not None
                    self._table.upstream.setdefault(child_id, {})[parent.id] = parent.result_json
                elif child.on_parent_failure == "cancel":
                    self._unfinished[child_id].discard(parent.id)
                    cancelled = transitions.cancel(child, _because(parent.id, how), change.now)
                    self.forget(child_id)
                    change.end(cancelled)
                    ends.append((cancelled, str(cancelled.state)))
                    continue
                waits_for = self._unfinished[child_id]
                waits_for.discard(parent.id)
                if not waits_for:
                    del self._unfinished[child_id]
                    change.make_ready(transitions.unblock(child, change.now))


def _because(parent_id: str, how: str) -> str:
    return f"job {parent_id!r}, which it depends on, is {how}"
