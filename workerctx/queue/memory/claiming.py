"""Taking jobs: the best of every queue's groups, with a share for each queue."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from workerctx.errors import InvalidRequest
from workerctx.queue import transitions
from workerctx.queue.ids import new_id
from workerctx.queue.memory.line import PROMOTED_AT_ONCE
from workerctx.queue.memory.table import Held
from workerctx.queue.model import Lease
from workerctx.queue.request import as_names

if TYPE_CHECKING:
    from workerctx.queue.finish import ClaimRequest
    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.line import Group, Place
    from workerctx.queue.model import Claimed, QueuedJob
    from workerctx.queue.turns import Turns


def claim(change: Change, wanted: ClaimRequest, turns: Turns) -> list[Claimed]:
    """Take up to ``wanted.limit`` jobs, the best ones of each queue, the queues by turns."""
    check_claim(wanted)
    kinds = None if wanted.kinds is None else frozenset(wanted.kinds)
    labels = frozenset(wanted.labels)
    heads: dict[str, Heads] = {}
    for queue in wanted.queues:
        if queue in change.table.lines and not change.table.is_paused(queue, change.now):
            found = Heads(change, change.table.lines[queue].open_to(kinds, labels), wanted.limit)
            if found:
                heads[queue] = found
    claimed: list[Claimed] = []
    while heads and len(claimed) < wanted.limit:
        queue = turns.next(heads)
        job = heads[queue].pop()
        if not heads[queue]:
            del heads[queue]
        if transitions.is_poison(job):
            change.close(transitions.poisoned(job, change.now))
        else:
            claimed.append(_grant(change, job, wanted))
    return claimed


def check_claim(wanted: ClaimRequest) -> None:
    """Refuse a claim that cannot be meant.

    Raises:
        InvalidRequest: The lease has no length, the limit is below 1, or no queue is named.
    """
    check_ttl("lease_ttl", wanted.lease_ttl)
    if wanted.limit < 1:
        raise InvalidRequest(f"a claim takes at least 1 job, got limit={wanted.limit}")
    as_names(wanted.labels)
    if not as_names(wanted.queues):
        raise InvalidRequest("a claim needs at least one queue to look into")
    if wanted.kinds is not None:
        as_names(wanted.kinds)


def check_ttl(what: str, seconds: float) -> None:
    """Refuse the length of a lease that is not a positive number of seconds.

    Raises:
        InvalidRequest: It is not.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidRequest(f"{what} must be more than 0 seconds, got {seconds}")


class Heads:
    """The groups of one queue that a worker may take from, merged into one order."""

    __slots__ = ("_change", "_heap")

    def __init__(self, change: Change, groups: list[Group], limit: int) -> None:
        self._change = change
        promoted = max(limit, PROMOTED_AT_ONCE)
        self._heap: list[tuple[Place, int, Group]] = []
        for number, group in enumerate(groups):
            if group.later:
                group.promote(change.now, change.table.promote, promoted)
            place = group.head()
            if place is not None:
                self._heap.append((place, number, group))
        heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def pop(self) -> QueuedJob:
        """Take the best job out of its group."""
        place, number, group = self._heap[0]
        group.pop()
        following = group.head()
        if following is None:
            heappop(self._heap)
        else:
            heapreplace(self._heap, (following, number, group))
        return self._change.table.jobs[place[2]]


def _grant(change: Change, job: QueuedJob, wanted: ClaimRequest) -> Claimed:
    table, now = change.table, change.now
    lease = Lease(new_id(), job.id, wanted.worker_id, now, wanted.lease_ttl, now + wanted.lease_ttl)
    running = transitions.claim(job, worker_id=wanted.worker_id, lease_id=lease.id, began=wanted.began, now=now)
    table.put(running)
    table.hold(lease.id, Held(job.id, wanted.worker_id, now, lease.expires_at, wanted.began))
    run = table.snapshot(running, attempt=job.attempt + 1)
    if change.heard:
        change.events.append(transitions.started(run, now))
    return run, lease
