"""Every job of a namespace, and the indexes that follow from the jobs: one way in, so that they always agree."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from copy import deepcopy
from heapq import heapify, heappop, heappush
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Final

import attrs
from msgspec.structs import replace

from workerctx.lifecycle.latch import Latch
from workerctx.queue.codec import decode_json
from workerctx.queue.memory.line import Line
from workerctx.queue.model import FINAL_STATES, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from workerctx.queue.memory.line import Group, Labels
    from workerctx.queue.model import QueuedJob

_WAITING: Final = frozenset({JobState.QUEUED, JobState.SCHEDULED})
_SWEEP_FROM: Final = 1024
_NO_LABELS: Final[Labels] = frozenset()


@attrs.define(eq=False)
class Held:
    """A live lease.

    Attributes:
        job_id: The job it holds.
        worker_id: Who claimed it.
        expires_at: Store time.
        began: Whether the run began, so that its attempt is counted in the job.
    """

    job_id: str
    worker_id: str
    granted_at: float
    expires_at: float
    began: bool


class Table:
    """The jobs, as immutable records; `put` replaces one and moves it through the indexes.

    Threads: hold ``lock`` around every use.
    """

    def __init__(self) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.jobs: dict[str, QueuedJob] = {}
        self.held: dict[str, Held] = {}
        self.lines: dict[str, Line] = {}
        self.unique: dict[str, str] = {}
        self.workflows: dict[str, dict[str, None]] = {}
        self.cancelled_workflows: set[str] = set()
        self.paused: dict[str, float | None] = {}
        self._children: dict[str, dict[str, None]] = {}
        self._watchers: dict[str, list[Latch]] = {}
        self._counts: dict[str, dict[JobState, int]] = {}
        self._expiring: list[tuple[float, str]] = []
        self._first_expiry = math.inf
        self._sweep_expiring_at = _SWEEP_FROM
        self._finished: dict[JobState, dict[str, None]] = {state: {} for state in FINAL_STATES}

    # Writing ----------------------------------------------------------------

    def put(self, job: QueuedJob) -> None:
        """Add a job or replace its record."""
        old = self.jobs.get(job.id)
        self.jobs[job.id] = job
        state = job.state
        counts = self._counts.get(job.queue)
        if counts is None:
            counts = self._counts[job.queue] = dict.fromkeys(JobState, 0)
        counts[state] += 1
        if old is None:
            if job.workflow_id is not None:
                self.workflows.setdefault(job.workflow_id, {})[job.id] = None
        else:
            counts[old.state] -= 1
            if old.state in FINAL_STATES:
                del self._finished[old.state][job.id]
            # A claimed job's place was dropped by the claim; any other change leaves a void place behind.
            if old.state in _WAITING and state is not JobState.RUNNING:
                self.group_of(old).leave()
        if state in FINAL_STATES:
            self._close(job)
        else:
            if state in _WAITING:
                self.group_of(job).push(job)
            if old is None or old.state in FINAL_STATES:
                self._open(job)
            if job.expires_at is not None and state is not JobState.RUNNING:
                self._expire_later(job.id, job.expires_at)

    def amend(self, job: QueuedJob) -> None:
        """Replace a record in which nothing changed that an index looks at."""
        self.jobs[job.id] = job

    def promote(self, job: QueuedJob) -> QueuedJob:
        """Turn a scheduled job that has left its place into a queued one, and return it."""
        due = replace(job, state=JobState.QUEUED)
        self.jobs[job.id] = due
        counts = self._counts[job.queue]
        counts[JobState.SCHEDULED] -= 1
        counts[JobState.QUEUED] += 1
        return due

    def drop(self, job: QueuedJob) -> None:
        """Remove a job that is not running."""
        del self.jobs[job.id]
        self._counts[job.queue][job.state] -= 1
        if job.state in _WAITING:
            self.group_of(job).leave()
        elif job.state in FINAL_STATES:
            del self._finished[job.state][job.id]
        if job.unique_key is not None and self.unique.get(job.unique_key) == job.id:
            del self.unique[job.unique_key]
        if job.workflow_id is not None:
            members = self.workflows[job.workflow_id]
            del members[job.id]
            if not members:
                del self.workflows[job.workflow_id]
        self._part(job)
        self._tell_watchers(job.id)

    def _open(self, job: QueuedJob) -> None:
        if job.unique_key is not None:
            self.unique[job.unique_key] = job.id
        for parent_id in job.depends_on:
            self._children.setdefault(parent_id, {})[job.id] = None

    def _part(self, job: QueuedJob) -> None:
        for parent_id in job.depends_on:
            siblings = self._children.get(parent_id)
            if siblings is not None:
                siblings.pop(job.id, None)
                if not siblings:
                    del self._children[parent_id]

    def _close(self, job: QueuedJob) -> None:
        self._finished[job.state][job.id] = None
        self._part(job)
        if job.unique_key is not None and self.unique.get(job.unique_key) == job.id:
            del self.unique[job.unique_key]
        self._tell_watchers(job.id)

    def _tell_watchers(self, job_id: str) -> None:
        for latch in self._watchers.get(job_id, ()):
            latch.wake()

    @contextmanager
    def watch(self, job_id: str, holds: Callable[[], bool]) -> Generator[Latch]:
        """Yield a latch that is woken when the job ends or is removed."""
        latch = Latch(holds)
        with self.lock:
            self._watchers.setdefault(job_id, []).append(latch)
        try:
            yield latch
        finally:
            with self.lock:
                watchers = self._watchers[job_id]
                watchers.remove(latch)
                if not watchers:
                    del self._watchers[job_id]

    # Leases -----------------------------------------------------------------

    def hold(self, lease_id: str, held: Held) -> None:
        """Add a live lease."""
        self.held[lease_id] = held
        self._first_expiry = min(self._first_expiry, held.expires_at)

    def extend(self, held: Held, expires_at: float) -> None:
        """Let a lease expire at another time."""
        held.expires_at = expires_at
        self._first_expiry = min(self._first_expiry, expires_at)

    def let_go(self, lease_id: str) -> Held:
        """Remove a live lease and return it."""
        return self.held.pop(lease_id)

    def expired_leases(self, now: float) -> list[str]:
        """Return the leases that have run out, the earliest first."""
        if self._first_expiry >= now:
            return []
        expired = [(held.expires_at, lease_id) for lease_id, held in self.held.items() if held.expires_at < now]
        # An earlier bound only costs a look; renewals and finishes need not touch it.
        self._first_expiry = min(
            (held.expires_at for held in self.held.values() if held.expires_at >= now), default=math.inf
        )
        return [lease_id for _, lease_id in sorted(expired)]

    # Reading ----------------------------------------------------------------

    def line(self, queue: str) -> Line:
        """Return the line of a queue, a new one if need be."""
        line = self.lines.get(queue)
        if line is None:
            line = self.lines[queue] = Line(self.jobs)
        return line

    def group_of(self, job: QueuedJob) -> Group:
        """Return the group in which a job waits."""
        labels = frozenset(job.required_labels) if job.required_labels else _NO_LABELS
        try:
            return self.lines[job.queue].groups[job.kind][labels]
        except KeyError:
            return self.line(job.queue).group(job.kind, labels)

    def snapshot(self, job: QueuedJob, **changes: int) -> QueuedJob:
        """Return a record for a caller, who may do with its mappings what he likes."""
        return replace(
            job,
            headers=dict(job.headers),
            progress=None if job.progress is None else deepcopy(job.progress),
            upstream_outputs=self._outputs_for(job) if job.depends_on else {},
            **changes,
        )

    def _outputs_for(self, job: QueuedJob) -> dict[str, Any]:
        return {
            parent.id: decode_json(parent.result_json)
            for parent in map(self.jobs.get, job.depends_on)
            if parent is not None and parent.result_json is not None
        }

    def children(self, job_id: str) -> Collection[str]:
        """Return the jobs that depend on a job and have not ended."""
        return self._children.get(job_id, ())

    def counts(self, queue: str | None = None) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        if queue is not None:
            return dict(self._counts.get(queue) or dict.fromkeys(JobState, 0))
        each = self._counts.values()
        return {state: sum(counts[state] for counts in each) for state in JobState}

    def next_moment(self, queues: frozenset[str] | None, after: float) -> float | None:
        """Return the first time later than ``after`` when a job becomes due or a pause ends."""
        lines = self.lines if queues is None else self.lines.keys() & queues
        moments = [group.later[0][0] for name in lines for group in self.lines[name].all() if group.later]
        moments += [until for name, until in self.paused.items() if until is not None and name in lines]
        return min((moment for moment in moments if moment > after), default=None)

    def is_paused(self, queue: str, now: float) -> bool:
        """Return whether a queue is paused; a pause that is over is forgotten."""
        if queue not in self.paused:
            return False
        until = self.paused[queue]
        if until is None or until > now:
            return True
        del self.paused[queue]
        return False

    def queue_names(self) -> set[str]:
        """Return the queues that hold jobs or are paused."""
        return {name for name, counts in self._counts.items() if any(counts.values())} | self.paused.keys()

    def promote_all(self, now: float) -> None:
        """Promote every job that is due."""
        for line in self.lines.values():
            for group in line.all():
                group.promote(now, self.promote, len(self.jobs))

    def take_expired(self, now: float) -> Iterator[QueuedJob]:
        """Yield the jobs whose time to run by has passed and that are not running."""
        expiring = self._expiring
        while expiring and expiring[0][0] <= now:
            place = heappop(expiring)
            if self._expires(place):
                yield self.jobs[place[1]]

    def oldest_finished(self, state: JobState, before: float, limit: int) -> list[QueuedJob]:
        """Return up to ``limit`` jobs that finished before a moment and that nobody needs, oldest first."""

        def is_older(job: QueuedJob) -> bool:
            return job.finished_at is not None and job.finished_at < before

        older = takewhile(is_older, map(self.jobs.__getitem__, self._finished[state]))
        return list(islice((job for job in older if job.id not in self._children), limit))

    def _expire_later(self, job_id: str, moment: float) -> None:
        heappush(self._expiring, (moment, job_id))
        if len(self._expiring) > self._sweep_expiring_at:
            # Jobs that ran or went away in time leave their places behind.
            self._expiring[:] = [place for place in self._expiring if self._expires(place)]
            heapify(self._expiring)
            self._sweep_expiring_at = max(_SWEEP_FROM, 2 * len(self._expiring))

    def _expires(self, place: tuple[float, str]) -> bool:
        job = self.jobs.get(place[1])
        return (
            job is not None
            and job.expires_at == place[0]
            and job.state is not JobState.RUNNING
            and job.state not in FINAL_STATES
        )
