"""Keeping leases: renewals, the mark that a run has begun, and the progress of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workerctx.errors import LeaseExpired, LeaseLost
from workerctx.queue.model import CancelReason, Lease, Renewed
from workerctx.queue.sql.rows import MICROSECONDS, lease_id, lease_pairs, split_lease, to_lease, to_micros

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workerctx.queue.sql.transaction import Transaction


def renew(tx: Transaction, leases: Sequence[str], extend_by: float) -> Renewed:
    """Let leases run for ``extend_by`` seconds from now; those that ran out are lost."""
    pairs = lease_pairs(leases)
    tx.run(tx.sql.renew, tx.now + to_micros(extend_by), pairs, tx.ns, tx.now)
    held = {lease_id(claim, seq): cancel for seq, claim, cancel in tx.array(tx.sql.held, pairs, tx.ns, tx.now)}
    return Renewed(
        lost=tuple(lease for lease in leases if lease not in held),
        cancelled={lease: CancelReason(reason) for lease, reason in held.items() if reason is not None},
    )


def renew_one(tx: Transaction, lease: str, extend_by: float) -> Lease:
    """Let a lease run for ``extend_by`` seconds from now.

    Raises:
        LeaseExpired: It ran out already.
        LeaseLost: It was finished or reaped.
    """
    claim_id, seq = split_lease(lease)
    row = tx.job_rows([seq]).get(seq)
    if row is None or row.state != "running" or row.claim_id != claim_id:
        raise LeaseLost(lease)
    assert row.lease_expires is not None
    if row.lease_expires < tx.now:
        raise LeaseExpired(lease)
    row.lease_expires = tx.now + to_micros(extend_by)
    tx.run(tx.sql.renew, row.lease_expires, lease_pairs([lease]), tx.ns, tx.now)
    granted = to_lease(row, extend_by)
    return Lease(granted.id, granted.job_id, granted.worker_id, tx.seconds, extend_by, row.lease_expires / MICROSECONDS)


def begin_runs(tx: Transaction, leases: Iterable[str]) -> None:
    """Note that runs have begun, so that a crash uses up an attempt."""
    tx.run(tx.sql.begin_runs, lease_pairs(leases), tx.ns)


def set_progress(tx: Transaction, lease: str, progress: str) -> None:
    """Store how far a run is.

    Raises:
        LeaseLost: The lease does not hold the job any more.
    """
    claim_id, seq = split_lease(lease)
    if not tx.run(tx.sql.set_progress, progress, seq, claim_id, tx.ns):
        raise LeaseLost(lease)
