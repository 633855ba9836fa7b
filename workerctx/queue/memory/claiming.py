"""Taking jobs: the best of every queue's groups, with a share for each queue."""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING

from workerctx.queue import transitions
from workerctx.queue.ids import new_id
from workerctx.queue.memory.line import PROMOTED_AT_ONCE
from workerctx.queue.memory.table import Held
from workerctx.queue.model import Lease

if TYPE_CHECKING:
    from workerctx.queue.finish import ClaimRequest
    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.line import Group, Place
    from workerctx.queue.model import Claimed, QueuedJob
    from workerctx.queue.turns import ClaimOrder


def claim(change: Change, order: ClaimOrder) -> list[Claimed]:
    """Take up to as many jobs as wanted, the best ones of each queue, the queues by turns."""
    wanted, turns = order.request, order.turns
    kinds = None if wanted.kinds is None else frozenset(wanted.kinds)
    labels = frozenset(wanted.labels)
    heads: dict[str, Heads] = {}
    for queue in wanted.queues:
        if queue in change.table.lines and not change.table.is_paused(queue, change.now):
            found = Heads(change, change.table.lines[queue].open_to(kinds, labels), wanted.limit)
            heads[queue] = found
    room = dict(wanted.kind_limits)
    for kind in [kind for kind, left in room.items() if not left]:
        _drop(heads, kind)
    heads = {queue: found for queue, found in heads.items() if found}
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
            if job.kind in room:
                room[job.kind] -= 1
                if not room[job.kind]:
                    _drop(heads, job.kind)
    return claimed


def _drop(heads: dict[str, Heads], kind: str) -> None:
    """Take nothing more of a kind."""
    for queue, found in list(heads.items()):
        found.drop(kind)
        if not found:
            del heads[queue]


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

    def drop(self, kind: str) -> None:
        """Forget the groups of a kind."""
        jobs = self._change.table.jobs
        self._heap = [head for head in self._heap if jobs[head[0][2]].kind != kind]
        heapify(self._heap)

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
