"""Where jobs wait for a worker: heaps by kind and labels, so that a claim never walks past what it cannot take."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

from workerctx.queue.model import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workerctx.queue.model import QueuedJob

Labels: TypeAlias = frozenset[str]

Place: TypeAlias = tuple[float, float, str]
"""Where a job stands: (-priority, run_at, id) among those that are due, (run_at, -priority, id) before."""

PROMOTED_AT_ONCE: Final = 10_000
"""How many due jobs of one group move up in one claim; a larger crowd takes several."""

_SWEEP_FROM: Final = 1024
"""Heaps are cleared of places whose job is gone when these are more than this and more than half."""


class Group:
    """The waiting jobs of one queue, one kind and one set of required labels.

    A job that leaves otherwise than by a claim leaves its place behind; the place is void because the job's record
    does not fit it any more.
    """

    __slots__ = ("_jobs", "_void", "later", "ready")

    def __init__(self, jobs: dict[str, QueuedJob]) -> None:
        self._jobs = jobs
        self._void = 0
        self.ready: list[Place] = []
        self.later: list[Place] = []

    def push(self, job: QueuedJob) -> None:
        """Give a waiting job its place."""
        if job.state is JobState.QUEUED:
            heappush(self.ready, (-job.priority, job.run_at, job.id))
        else:
            heappush(self.later, (job.run_at, -job.priority, job.id))

    def leave(self) -> None:
        """Note that a job left without being claimed."""
        self._void += 1
        if self._void > _SWEEP_FROM and self._void * 2 > len(self.ready) + len(self.later):
            self.ready = [place for place in self.ready if self._is_ready(place)]
            self.later = [place for place in self.later if self._is_later(place)]
            heapify(self.ready)
            heapify(self.later)
            self._void = 0

    def promote(self, now: float, promote: Callable[[QueuedJob], QueuedJob], limit: int) -> int:
        """Move up to ``limit`` jobs that have become due, oldest first, and return how many."""
        later = self.later
        moved = 0
        while later and later[0][0] <= now and moved < limit:
            place = heappop(later)
            if self._is_later(place):
                self.push(promote(self._jobs[place[2]]))
                moved += 1
            else:
                self._void -= 1
        return moved

    def head(self) -> Place | None:
        """Return the best place that is not void, if there is one."""
        ready = self.ready
        while ready:
            if self._is_ready(ready[0]):
                return ready[0]
            heappop(ready)
            self._void -= 1
        return None

    def pop(self) -> None:
        """Drop the best place: its job was taken."""
        heappop(self.ready)

    def _is_ready(self, place: Place) -> bool:
        job = self._jobs.get(place[2])
        return job is not None and job.state is JobState.QUEUED and job.run_at == place[1] and job.priority == -place[0]

    def _is_later(self, place: Place) -> bool:
        job = self._jobs.get(place[2])
        return job is not None and job.state is JobState.SCHEDULED and job.run_at == place[0]

    def __bool__(self) -> bool:
        return bool(self.ready or self.later)


class Line:
    """The groups of one queue."""

    __slots__ = ("_jobs", "groups")

    def __init__(self, jobs: dict[str, QueuedJob]) -> None:
        self._jobs = jobs
        self.groups: dict[str, dict[Labels, Group]] = {}

    def group(self, kind: str, labels: Labels) -> Group:
        """Return the group of a kind and labels, a new one if need be."""
        by_labels = self.groups.get(kind)
        if by_labels is None:
            by_labels = self.groups[kind] = {}
        group = by_labels.get(labels)
        if group is None:
            group = by_labels[labels] = Group(self._jobs)
        return group

    def open_to(self, kinds: frozenset[str] | None, labels: Labels) -> list[Group]:
        """Return the groups that a worker with these kinds and labels may take from; empty ones are dropped."""
        found: list[Group] = []
        for kind in list(self.groups) if kinds is None else self.groups.keys() & kinds:
            by_labels = self.groups[kind]
            for required in [required for required, group in by_labels.items() if not group]:
                del by_labels[required]
            if not by_labels:
                del self.groups[kind]
            found.extend(group for required, group in by_labels.items() if required <= labels)
        return found

    def all(self) -> Iterator[Group]:
        """Yield every group."""
        for by_labels in self.groups.values():
            yield from by_labels.values()
