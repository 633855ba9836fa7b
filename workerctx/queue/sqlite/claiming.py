"""Handing out jobs: the heads of the groups that fit the worker, promoted, merged and leased in a few statements."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from workerctx.queue import transitions
from workerctx.queue.ids import new_id
from workerctx.queue.model import DELIVERY_MARGIN
from workerctx.queue.sql import json_text, to_lease, to_micros
from workerctx.queue.sqlite.engine import Merging
from workerctx.queue.sqlite.settling import cancel_expired, write_back
from workerctx.queue.turns import ClaimOrder, take_turns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.finish import ClaimRequest
    from workerctx.queue.model import Claimed
    from workerctx.queue.sqlite.transaction import Transaction

PAUSED: Final = "SELECT queue FROM workerctx_pauses WHERE ns = ? AND (until IS NULL OR until > ?)"
ANY_DUE: Final = (
    "SELECT 1 FROM json_each(?) g WHERE EXISTS (SELECT 1 FROM workerctx_jobs "
    "WHERE grp = g.value AND state = 'scheduled' AND run_at <= ?) LIMIT 1"
)
PROMOTE: Final = (
    "UPDATE workerctx_jobs SET state = 'queued' WHERE seq IN "
    "(SELECT j.seq FROM json_each(?) g CROSS JOIN workerctx_jobs j "
    "WHERE j.seq IN (SELECT h.seq FROM workerctx_jobs h WHERE h.grp = g.value AND h.state = 'scheduled' "
    "AND h.run_at <= ? ORDER BY h.run_at LIMIT ?))"
)
# Of each group no more than the limit are looked at, in the order of the index; then the best of all of them.
_CANDIDATES: Final = (
    "FROM (SELECT j.priority, j.run_at, j.seq, j.grp, "  # noqa: S608 - constants
    f"(j.expires_at IS NOT NULL AND j.expires_at <= ?) OR j.deliveries >= j.max_attempts + {DELIVERY_MARGIN} AS unfit "
    "FROM json_each(?) g CROSS JOIN workerctx_jobs j WHERE j.seq IN (SELECT h.seq FROM workerctx_jobs h "
    "WHERE h.grp = g.value AND h.state = 'queued' ORDER BY h.priority DESC, h.run_at, h.seq LIMIT ?) "
    "ORDER BY j.priority DESC, j.run_at, j.seq LIMIT ?)"
)
CANDIDATES: Final = f"SELECT json_group_array(json_array(seq, unfit)) {_CANDIDATES}"
RANKED_CANDIDATES: Final = f"SELECT json_group_array(json_array(seq, unfit, grp, -priority, run_at)) {_CANDIDATES}"
LEASE: Final = (
    "UPDATE workerctx_jobs SET state = 'running', attempt = attempt + ?, deliveries = deliveries + 1, "
    "claim_id = ?, worker_id = ?, lease_expires = ?, began = ?, claimed_at = ?, cancel = NULL "
    "WHERE seq IN (SELECT value FROM json_each(?))"
)

PROMOTED_AT_ONCE: Final = 1000
"""How many due jobs of a group become claimable in one claim; a larger crowd takes several."""

_ROUNDS: Final = 10
"""How often one claim looks again because what it found was not fit to run."""


class Candidate(NamedTuple):
    """A job that could be handed out.

    Attributes:
        seq: Its row.
        unfit: Whether it has to be finished instead.
        grp: The number of its group; 0 if nobody asked.
    """

    seq: int
    unfit: int
    grp: int = 0


class Claim(Merging[ClaimOrder, "list[Claimed]"]):
    """Take jobs; claims of workers that look for the same share one search."""

    rank = 3

    @classmethod
    def together(cls, tx: Transaction, arguments: Sequence[ClaimOrder]) -> Sequence[list[Claimed] | QueueError]:
        """Serve the claims in order."""
        outcomes: list[list[Claimed]] = [[] for _ in arguments]
        alike: dict[object, list[int]] = {}
        for index, order in enumerate(arguments):
            alike.setdefault(_sought(order.request) or index, []).append(index)
        for indexes in alike.values():
            orders = [arguments[index] for index in indexes]
            seqs = _search(tx, orders[0], sum(order.request.limit for order in orders))
            _lease(tx, seqs, orders, [outcomes[index] for index in indexes])
        return outcomes


def claim(tx: Transaction, order: ClaimOrder) -> list[Claimed]:
    """Take jobs."""
    (claimed,) = Claim.together(tx, [order])
    assert isinstance(claimed, list)
    return claimed


def _search(tx: Transaction, order: ClaimOrder, limit: int) -> list[int]:
    """Return the rows of the best jobs; what may not run any more is finished on the way."""
    lines = _fitting_groups(tx, order.request)
    if not lines:
        return []
    _promote(tx, [number for groups in lines.values() for number in groups])
    found: list[int] = []
    room = order.request.kind_limits
    for _ in range(_ROUNDS):
        heads = {queue: _candidates(tx, groups, limit, room) for queue, groups in lines.items()}
        picked = take_turns(order.turns, heads, limit, room=room, kind_of=lambda job: tx.group(job.grp).kind)
        found = [job.seq for job in picked if not job.unfit]
        unfit = [job.seq for job in picked if job.unfit]
        if not unfit:
            break
        _finish_unfit(tx, unfit)
    return found


def _sought(request: ClaimRequest) -> object:
    """Return what a worker looks for, equal for claims that can share a search; None for one that cannot."""
    if request.kind_limits:
        return None
    kinds = None if request.kinds is None else frozenset(request.kinds)
    return tuple(request.queues), tuple(request.weights.items()), kinds, frozenset(request.labels)


def _fitting_groups(tx: Transaction, request: ClaimRequest) -> dict[str, list[int]]:
    """Return the numbers of the groups that the worker may take from, by queue in its order."""
    tx.groups.refresh(tx.cursor)
    paused = {row[0] for row in tx.rows(PAUSED, tx.ns, tx.now)}
    lines: dict[str, list[int]] = {queue: [] for queue in request.queues if queue not in paused}
    kinds = None if request.kinds is None else frozenset(request.kinds)
    labels = frozenset(request.labels)
    full = {kind for kind, room in request.kind_limits.items() if not room}
    for number, group in tx.groups.by_number.items():
        line = lines.get(group.queue)
        if line is None or group.kind in full:
            continue
        if (kinds is None or group.kind in kinds) and group.labels <= labels:
            line.append(number)
    return {queue: groups for queue, groups in lines.items() if groups}


def _promote(tx: Transaction, groups: Sequence[int]) -> None:
    numbers = json_text(groups)
    if tx.row(ANY_DUE, numbers, tx.now) is not None:
        tx.run(PROMOTE, numbers, tx.now, PROMOTED_AT_ONCE)


def _candidates(tx: Transaction, groups: Sequence[int], limit: int, room: Mapping[str, int]) -> list[Candidate]:
    """Return the best jobs of one queue, best first; of a limited kind no more than there is room for."""
    if not room:
        return [Candidate(seq, unfit) for seq, unfit in tx.array(CANDIDATES, tx.now, json_text(groups), limit, limit)]
    portions: defaultdict[str | None, list[int]] = defaultdict(list)
    for number in groups:
        kind = tx.group(number).kind
        portions[kind if kind in room else None].append(number)
    ranked: list[tuple[int, int, int, int, int]] = []
    for limited, numbers in portions.items():
        most = limit if limited is None else min(limit, room[limited])
        found = tx.array(RANKED_CANDIDATES, tx.now, json_text(numbers), most, most)
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


def _lease(tx: Transaction, seqs: list[int], orders: Sequence[ClaimOrder], outcomes: Sequence[list[Claimed]]) -> None:
    """Deal the rows out to the claims and lease them."""
    claim_id = new_id()
    dealt: list[tuple[ClaimRequest, list[int], list[Claimed]]] = []
    start = 0
    for order, outcome in zip(orders, outcomes, strict=True):
        share = seqs[start : start + order.request.limit]
        start += len(share)
        if not share:
            break
        request = order.request
        expires = tx.now + to_micros(request.lease_ttl)
        began = int(request.began)
        tx.run(LEASE, began, claim_id, request.worker_id, expires, began, tx.now, json_text(share))
        dealt.append((request, share, outcome))
    if not dealt:
        return
    rows = tx.job_rows(seqs)
    for request, share, outcome in dealt:
        mine = [rows[seq] for seq in share]
        if not request.began:
            # The worker is told the number of the run to come; it counts once the run has begun.
            for row in mine:
                row.attempt += 1
        for row, job in zip(mine, tx.jobs(mine), strict=True):
            if tx.listening:
                tx.events.append(transitions.started(job, tx.seconds))
            outcome.append((job, to_lease(row, request.lease_ttl)))
