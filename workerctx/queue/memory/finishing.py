"""The end of leases: finished by their worker, renewed, or run out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from workerctx.errors import LeaseExpired, LeaseLost, QueueError, UnknownScope
from workerctx.queue import transitions
from workerctx.queue.finish import CompleteLease, FailLease, ThrottleLease
from workerctx.queue.model import CancelReason, Lease, Renewed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from workerctx.queue.finish import Finish
    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.limits import Buckets
    from workerctx.queue.model import QueuedJob


def begin(change: Change, lease_ids: Collection[str]) -> None:
    """Note that the runs of prefetched jobs have begun; unknown leases are ignored."""
    for lease_id in lease_ids:
        held = change.table.held.get(lease_id)
        if held is not None and not held.began:
            held.began = True
            job = change.table.jobs[held.job_id]
            change.table.amend(replace(job, attempt=job.attempt + 1))


def finish(change: Change, finishes: Iterable[Finish], buckets: Buckets) -> list[QueueError | None]:
    """Finish leases, each for itself, and return what went wrong with each."""
    outcomes: list[QueueError | None] = []
    for how in finishes:
        try:
            finish_one(change, how, buckets)
        except QueueError as exc:
            outcomes.append(exc)
        else:
            outcomes.append(None)
    return outcomes


def finish_one(change: Change, how: Finish, buckets: Buckets) -> None:
    """Finish one lease.

    Raises:
        LeaseLost: It does not hold its job any more.
        InvalidRequest: A wait is no number of seconds.
        UnknownScope: A throttle names a limit that nobody configured.
    """
    table, now = change.table, change.now
    transitions.check_finish(how)
    held = table.held.get(how.lease_id)
    if held is None:
        raise LeaseLost(how.lease_id)
    if isinstance(how, ThrottleLease) and how.scope is not None:
        if how.scope not in buckets:
            raise UnknownScope(how.scope)
        buckets[how.scope].drain(how.retry_after, now)
    table.let_go(how.lease_id)
    job = transitions.finish(table.jobs[held.job_id], how, began=held.began, now=now)
    if job.state.is_final:
        change.close(job)
        return
    change.give_back(job)
    if change.heard:
        ended = isinstance(how, (CompleteLease, FailLease))
        change.events.append(transitions.ending(job, now) if ended else transitions.given_back(job, now))


def renew(change: Change, lease_id: str, extend_by: float) -> Lease:
    """Let a lease run for some seconds from now.

    Raises:
        LeaseExpired: It ran out already.
        LeaseLost: It does not hold its job any more.
    """
    held = change.table.held.get(lease_id)
    if held is None:
        raise LeaseLost(lease_id)
    if held.expires_at < change.now:
        raise LeaseExpired(lease_id)
    change.table.extend(held, change.now + extend_by)
    return Lease(lease_id, held.job_id, held.worker_id, change.now, extend_by, held.expires_at)


def renew_all(change: Change, lease_ids: Sequence[str], extend_by: float) -> Renewed:
    """Renew leases and return which are lost and which jobs should stop."""
    lost: list[str] = []
    cancelled: dict[str, CancelReason] = {}
    for lease_id in lease_ids:
        try:
            renew(change, lease_id, extend_by)
        except LeaseLost:
            lost.append(lease_id)
            continue
        reason = _job_of(change, lease_id).cancel_requested
        if reason is not None:
            cancelled[lease_id] = reason
    return Renewed(tuple(lost), cancelled)


def progress(change: Change, lease_id: str, value: object) -> None:
    """Store how far a running job is.

    Raises:
        LeaseLost: The lease does not hold its job any more.
    """
    if lease_id not in change.table.held:
        raise LeaseLost(lease_id)
    change.table.amend(replace(_job_of(change, lease_id), progress=value))


def reap(change: Change) -> None:
    """Take jobs away from the leases that ran out."""
    table, now = change.table, change.now
    for lease_id in table.expired_leases(now):
        held = table.let_go(lease_id)
        running = table.jobs[held.job_id]
        if change.heard:
            change.events.append(transitions.lease_expired(running, now))
        job = transitions.expire_lease(running, began=held.began, now=now)
        if job.state.is_final:
            change.close(job)
        elif held.began:
            change.give_back(job)
            if change.heard:
                change.events.append(transitions.ending(job, now))
        else:
            change.make_ready(job)


def _job_of(change: Change, lease_id: str) -> QueuedJob:
    return change.table.jobs[change.table.held[lease_id].job_id]
