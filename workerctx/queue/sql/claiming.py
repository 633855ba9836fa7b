"""Handing out jobs: the heads of the groups that fit the worker, promoted, merged and leased in a few statements."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from workerctx.queue import transitions
from workerctx.queue.sql.merging import Merging
from workerctx.queue.sql.rows import to_lease
from workerctx.queue.sql.searching import Search, Share
from workerctx.queue.sql.settling import cancel_expired, write_back
from workerctx.queue.turns import ClaimOrder, take_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.finish import ClaimRequest
    from workerctx.queue.model import Claimed
    from workerctx.queue.sql.rows import JobRow
    from workerctx.queue.sql.transaction import Transaction

PROMOTED_AT_ONCE: Final = 1000
"""How many due jobs of a group become claimable in one claim; a larger crowd takes several."""

_ROUNDS: Final = 10
"""How often one claim looks again because what it found was not fit to run."""

Portion: TypeAlias = "tuple[str | None, list[int]]"
"""Groups of one queue that share a limit: a limited kind, or None for all the others; and their numbers."""


class Candidate(NamedTuple):
    """A job that could be handed out.

    Attributes:
        seq: Its row.
        unfit: Whether it has to be finished instead.
        grp: The number of its group.
    """

    seq: int
    unfit: int
    grp: int


class Claim(Merging[ClaimOrder, "list[Claimed]"]):
    """Take jobs; claims of workers that look for the same share one search."""

    rank = 3

    @classmethod
    def together(cls, tx: Transaction, arguments: Sequence[ClaimOrder]) -> Sequence[list[Claimed] | QueueError]:
        """Serve the claims in order."""
        shares = [Share(order.request, order.request.limit) for order in arguments]
        alike: defaultdict[object, list[int]] = defaultdict(list)
        for index, order in enumerate(arguments):
            alike[_sought(order.request) or index].append(index)
        for indexes in alike.values():
            _serve(tx, arguments[indexes[0]], [shares[index] for index in indexes])
        return [share.claimed for share in shares]


def claim(tx: Transaction, order: ClaimOrder) -> list[Claimed]:
    """Take jobs."""
    (claimed,) = Claim.together(tx, [order])
    assert isinstance(claimed, list)
    return claimed


def pick(tx: Transaction, search: Search) -> list[Candidate]:
    """Return the jobs to take, best first; those that are unfit stand in the place that they would have had."""
    limit = search.limit
    heads = {queue: _candidates(tx, search, groups, limit) for queue, groups in search.lines.items()}
    return take_turns(search.turns, heads, limit, room=search.room, kind_of=lambda job: tx.group(job.grp).kind)


def portions(tx: Transaction, search: Search, groups: Sequence[int]) -> list[Portion]:
    """Return the groups of a queue by what limits them, without those that are full."""
    if not search.room:
        return [(None, list(groups))]
    found: defaultdict[str | None, list[int]] = defaultdict(list)
    for number in groups:
        kind = tx.group(number).kind
        if search.room.get(kind) != 0:
            found[kind if kind in search.room else None].append(number)
    return list(found.items())


def _serve(tx: Transaction, order: ClaimOrder, shares: Sequence[Share]) -> None:
    """Lease the best jobs; what may not run any more is finished on the way."""
    lines = _fitting_groups(tx, order.request)
    if not lines:
        return
    tx.promote([number for groups in lines.values() for number in groups], PROMOTED_AT_ONCE)
    search = Search(lines, order.turns, dict(order.request.kind_limits), shares)
    for _ in range(_ROUNDS):
        taken = tx.take(search)
        _deal(tx, search, taken.rows)
        if not taken.unfit:
            break
        _finish_unfit(tx, taken.unfit)


def _sought(request: ClaimRequest) -> object:
    """Return what a worker looks for, equal for claims that can share a search; None for one that cannot."""
    if request.kind_limits:
        return None
    kinds = None if request.kinds is None else frozenset(request.kinds)
    return tuple(request.queues), tuple(request.weights.items()), kinds, frozenset(request.labels)


def _fitting_groups(tx: Transaction, request: ClaimRequest) -> dict[str, list[int]]:
    """Return the numbers of the groups that the worker may take from, by queue in its order."""
    tx.groups.refresh(tx)
    paused = tx.paused_queues()
    kinds = None if request.kinds is None else frozenset(request.kinds)
    labels = frozenset(request.labels)
    full = {kind for kind, room in request.kind_limits.items() if not room}
    lines: dict[str, list[int]] = {}
    for queue in request.queues:
        if queue in paused:
            continue
        fitting = [
            number
            for number, group in tx.groups.of(queue).items()
            if (kinds is None or group.kind in kinds) and group.kind not in full and group.labels <= labels
        ]
        if fitting:
            lines[queue] = fitting
    return lines


def _candidates(tx: Transaction, search: Search, groups: Sequence[int], limit: int) -> list[Candidate]:
    """Return the best jobs of one queue, best first; of a limited kind no more than there is room for."""
    if not search.room:
        found = tx.array(tx.sql.candidates, tx.now, tx.numbers(groups), limit, limit)
        return [Candidate(seq, unfit, grp) for seq, unfit, grp in found]
    ranked: list[tuple[int, int, int, int, int]] = []
    for limited, numbers in portions(tx, search, groups):
        most = limit if limited is None else min(limit, search.room[limited])
        found = tx.array(tx.sql.ranked_candidates, tx.now, tx.numbers(numbers), most, most)
        ranked += [(priority, run_at, seq, unfit, grp) for seq, unfit, grp, priority, run_at in found]
    ranked.sort()
    return [Candidate(seq, unfit, grp) for _, _, seq, unfit, grp in ranked[:limit]]


def _finish_unfit(tx: Transaction, seqs: Sequence[int]) -> None:
    """End jobs that came to the head of their group and may not run; and, with them, others that are too late."""
    changed = dict(cancel_expired(tx))
    rows = [row for seq, row in tx.job_rows(seqs).items() if seq not in changed]
    for row, job in zip(rows, tx.jobs(rows), strict=True):
        if transitions.is_poison(job):
            changed[row.seq] = transitions.poisoned(job, tx.seconds)
        else:
            changed[row.seq] = transitions.cancel(job, transitions.EXPIRED, tx.seconds)
    if tx.listening:
        tx.events.extend(transitions.ending(job, tx.seconds) for job in changed.values())
    write_back(tx, list(changed.items()))


def _deal(tx: Transaction, search: Search, rows: Sequence[JobRow]) -> None:
    """Hand the leased rows out to the claims."""
    dealt = iter(rows)
    for share in search.shares:
        mine = list(islice(dealt, share.room))
        share.room -= len(mine)
        if not share.request.began:
            # The worker is told the number of the run to come; it counts once the run has begun.
            for row in mine:
                row.attempt += 1
        for row, job in zip(mine, tx.jobs(mine), strict=True):
            if job.kind in search.room:
                search.room[job.kind] -= 1
            if tx.listening:
                tx.events.append(transitions.started(job, tx.seconds))
            share.claimed.append((job, to_lease(row, share.request.lease_ttl)))
