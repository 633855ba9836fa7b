"""Moving from and to a memory store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.lowlevel
import attrs

from workerctx.queue import transitions
from workerctx.queue.cargo import (
    BATCH_BYTES,
    BATCH_SIZE,
    HISTORY,
    Arrived,
    Batch,
    Settings,
    check_absent,
    check_target,
    key_held,
)
from workerctx.queue.ids import new_id
from workerctx.queue.memory import steering
from workerctx.queue.memory.limits import Bucket
from workerctx.queue.model import JobState
from workerctx.queue.retry import as_backoff

if TYPE_CHECKING:
    from workerctx.queue.memory.change import Change
    from workerctx.queue.memory.session import Session
    from workerctx.queue.model import QueuedJob


@attrs.define(eq=False)
class MemoryMoving:
    """`Moving` in memory; see there for what each method promises."""

    _session: Session
    _namespace: str

    async def identity(self) -> str:
        """Return a text that names this namespace of this store."""
        await anyio.lowlevel.checkpoint()
        self._session.check_open()
        return f"{self._session.store.id}/{self._namespace}"

    async def take_out(self, target: str, *, limit: int = BATCH_SIZE, history: bool = False) -> Batch | None:
        """Take records out of the live tables into the outbox."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            store = self._session.store
            if store.outbox is not None:
                return check_target(store.outbox, target)
            jobs = _leaving(change, limit, history=history)
            for job in jobs:
                as_backoff(job.retry)
            if not jobs and not store.schedules:
                return None
            schedules = tuple(store.schedules.values())
            store.outbox = Batch(id=new_id(), target=target, jobs=jobs, schedules=schedules)
            for job in jobs:
                change.graph.forget(job.id)
                change.table.drop(job)
            store.schedules.clear()
            return store.outbox

    async def outbox(self) -> Batch | None:
        """Return the batch that is in the outbox."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            return self._session.store.outbox

    async def put_in(self, batch: Batch) -> Arrived:
        """Add the records of a batch."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            store = self._session.store
            if batch.id in store.received:
                return Arrived(again=True)
            check_absent(job.id for job in batch.jobs if job.id in change.table.jobs)
            store.received.add(batch.id)
            cancelled = _enter(change, batch)
            for schedule in batch.schedules:
                known = store.schedules.get(schedule.name)
                store.schedules[schedule.name] = schedule if known is None else known.joined(schedule)
            return Arrived(jobs=len(batch.jobs), schedules=len(batch.schedules), cancelled=cancelled)

    async def clear_out(self, batch_id: str) -> None:
        """Forget a batch that has arrived."""
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            outbox = self._session.store.outbox
            if outbox is not None and outbox.id == batch_id:
                self._session.store.outbox = None

    async def settings(self) -> Settings:
        """Return what must hold on both sides."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            table = change.table
            return Settings(
                limits=[bucket.in_use for _, bucket in sorted(self._session.store.buckets.items())],
                pauses={
                    queue: table.paused[queue] for queue in list(table.paused) if table.is_paused(queue, change.now)
                },
                workflows=frozenset(table.cancelled_workflows),
            )

    async def adopt(self, settings: Settings) -> None:
        """Let the settings of another store hold here too."""
        await anyio.lowlevel.checkpoint()
        with self._session.change() as change:
            for each in settings.limits:
                bucket = self._session.store.buckets.setdefault(each.limit.scope, Bucket(each.limit))
                bucket.fill(each, change.now)
            for queue, until in settings.pauses.items():
                known = change.table.paused.get(queue, until)
                longer = None if until is None or known is None else max(until, known)
                steering.pause(change, queue, longer, cancel_running=False)
            for workflow_id in sorted(settings.workflows):
                steering.cancel_workflow(change, workflow_id)


def _leaving(change: Change, limit: int, *, history: bool) -> list[QueuedJob]:
    """Return about as many jobs as wanted that can go, each with those it cannot be parted from."""
    table = change.table
    # Those that are blocked are found by those that they wait for.
    waits = {JobState.BLOCKED, JobState.RUNNING} if history else {JobState.BLOCKED, JobState.RUNNING, *HISTORY}
    staying: set[str] = set()
    leaving: dict[str, QueuedJob] = {}
    size = 0
    for job in list(table.jobs.values()):
        if len(leaving) >= limit or size >= BATCH_BYTES:
            break
        if job.state in waits or job.id in leaving or job.id in staying:
            continue
        family = _family(change, job)
        if any(each.state is JobState.RUNNING or each.id in staying for each in family):
            staying.update(each.id for each in family)
        else:
            leaving.update((each.id, table.snapshot(each)) for each in family)
            size += sum(len(each.payload_json) + len(each.result_json or b"") for each in family)
    return list(leaving.values())


def _family(change: Change, job: QueuedJob) -> list[QueuedJob]:
    """Return a job, those it depends on and those that wait for it, and theirs."""
    table = change.table
    if not job.depends_on and not table.children(job.id):
        return [job]
    found = {job.id: job}
    left = [job]
    while left:
        one = left.pop()
        for name in (*one.depends_on, *table.children(one.id)):
            relative = table.jobs.get(name)
            if relative is not None and name not in found:
                found[name] = relative
                left.append(relative)
    return list(found.values())


def _enter(change: Change, batch: Batch) -> dict[str, str]:
    """Add the jobs of a batch, and return those that had to be cancelled, with the reason."""
    table, graph = change.table, change.graph
    states = {job.id: job.state for job in batch.jobs}
    refused: list[QueuedJob] = []
    reasons: dict[str, str] = {}
    for job in sorted(batch.jobs, key=lambda job: job.id):
        reason = None if job.state.is_final else _reason(change, job)
        waits_for = {
            parent for parent in job.depends_on if parent in states and not states[parent].is_final
        } | graph.unfinished_parents(job)
        arrived = transitions.arrive(job, change.now, waiting=bool(waits_for), reason=reason)
        if reason is not None:
            reasons[job.id] = reason
            refused.append(arrived)
            change.end(arrived)
        elif arrived.state in (JobState.QUEUED, JobState.SCHEDULED):
            change.make_ready(arrived)
        else:
            table.put(arrived)
            if arrived.state is JobState.BLOCKED:
                graph.wait_for(arrived, waits_for)
    for job in refused:
        reasons.update((each.id, transitions.reason_of(each)) for each in change.settle(job))
    return reasons


def _reason(change: Change, job: QueuedJob) -> str | None:
    table = change.table
    if job.workflow_id is not None and job.workflow_id in table.cancelled_workflows:
        return transitions.workflow_cancelled(job.workflow_id)
    holder = None if job.unique_key is None else table.unique.get(job.unique_key)
    return None if job.unique_key is None or holder is None else key_held(job.unique_key, holder)
