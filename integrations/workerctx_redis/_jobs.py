"""The job queue in Redis: each call is an operation, handed to the line."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs

from workerctx.errors import JobNotFound, LeaseExpired, LeaseLost, StoreClosed
from workerctx.queue.hand import Call
from workerctx.queue.ids import new_id
from workerctx.queue.model import CancelReason, JobPage, JobState, Lease, QueueInfo, Renewed
from workerctx.queue.skeleton import JobQueueSkeleton, refuse_connection
from workerctx.queue.sql.rows import MICROSECONDS, from_micros, optional_micros, optional_seconds, to_micros
from workerctx_redis import _adding as adding
from workerctx_redis import _operations as operations
from workerctx_redis._operations import Answer, Operation, done
from workerctx_redis._records import split_lease, to_event, to_job

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from workerctx.errors import QueueError
    from workerctx.queue.broadcast import Broadcast
    from workerctx.queue.events import JobEvent, Lagged
    from workerctx.queue.finish import ClaimRequest, Finish
    from workerctx.queue.jobqueue import Wakeups
    from workerctx.queue.model import Claimed, EnqueueOutcome, QueuedJob
    from workerctx.queue.prepared import Prepared
    from workerctx.queue.request import EnqueueRequest
    from workerctx.queue.skeleton import JobFilter
    from workerctx.queue.turns import ClaimOrder
    from workerctx_redis._line import Line
    from workerctx_redis._wakeups import WakeupHub

SHOWN_AT_ONCE: Final = 500
"""How many jobs of a listing travel in one answer."""

LARGEST_CALL: Final = 64 * 1024 * 1024
"""How many bytes of finishes travel together; a server takes no more than 512 MiB, unless it is told otherwise."""


@attrs.define(eq=False)
class RedisJobs(JobQueueSkeleton):
    """`JobQueue` in Redis; see there for what each method promises."""

    _line: Line
    _broadcast: Broadcast
    _hub: WakeupHub

    # Adding -----------------------------------------------------------------

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Add one job."""
        return (await self.enqueue_bulk((request,), connection=connection))[0]

    async def enqueue_bulk(
        self, requests: Iterable[EnqueueRequest], *, connection: Any = None
    ) -> Sequence[EnqueueOutcome]:
        """Add many jobs, all or none."""
        refuse_connection("Redis", connection)
        batch = tuple(requests)
        parts = list(adding.parts(batch))
        if not parts:
            return []
        if len(parts) == 1:
            return await self._line.call(adding.enqueue_part(parts[0], batch))
        token = new_id()
        try:
            for part in parts:
                await self._line.call(adding.stage(token, part))
            return await self._line.call(adding.publish(token, parts, batch))
        except BaseException:
            # A server that is full needs the room at once; where this does not arrive, the parts vanish by themselves.
            with suppress(StoreClosed):
                self._line.post(Call(adding.unstage(token), None, None, None))
            raise

    # Working ----------------------------------------------------------------

    async def _claim(self, order: ClaimOrder) -> Sequence[Claimed]:
        return await self._line.call(operations.claim(order), operations.give_back)

    def prepare_claim(self, request: ClaimRequest) -> Prepared[Sequence[Claimed]]:
        """Return a claim to be begun by the next wake-up."""
        return self._line.prepare(operations.claim(self._rota.order(request)), operations.give_back)

    async def finish_many(
        self, finishes: Sequence[Finish], *, began: Collection[str] = ()
    ) -> Sequence[QueueError | None]:
        """Finish many leases, each for itself."""
        if not finishes and not began:
            return []
        operation = operations.finish(finishes, began)
        if _is_too_large(operation, finishes):
            middle = len(finishes) // 2
            return [
                *await self.finish_many(finishes[:middle], began=began),
                *await self.finish_many(finishes[middle:]),
            ]
        return await self._line.call(operation)

    async def _finish(self, finish: Finish) -> None:
        await self._line.call(operations.finish_one(finish))

    async def _finish_and_claim(
        self, finishes: Sequence[Finish], began: Collection[str], order: ClaimOrder
    ) -> tuple[Sequence[QueueError | None], Sequence[Claimed]]:
        operation = operations.finish_and_claim(finishes, began, order)
        if _is_too_large(operation, finishes):
            return await self.finish_many(finishes, began=began), await self._claim(order)
        return await self._line.call(operation, lambda both: operations.give_back(both[1]))

    async def _renew_lease(self, lease_id: str, extend_by: float) -> Lease:
        found, now = await self._line.call(
            Operation(
                ("renew", operations.lease_runs([lease_id]), to_micros(extend_by)),
                lambda answer: (answer.result[0], answer.now),
            )
        )
        match found:
            case ["renewed", _, worker_id]:
                granted = now / MICROSECONDS
                expires = (now + to_micros(extend_by)) / MICROSECONDS
                return Lease(lease_id, split_lease(lease_id)[0], worker_id, granted, extend_by, expires)
            case ["expired"]:
                raise LeaseExpired(lease_id)
            case _:
                raise LeaseLost(lease_id)

    async def _renew_leases(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        return await self._line.call(renewal(lease_ids, extend_by))

    async def _set_progress(self, lease_id: str, stored: bytes) -> None:
        words = ("progress", *split_lease(lease_id), stored.decode())
        if not await self._line.call(Operation(words, _result)):
            raise LeaseLost(lease_id)

    async def reap_expired_leases(self) -> Sequence[JobEvent]:
        """Take jobs away from leases that ran out."""
        events: list[JobEvent] = []
        more = True
        while more:
            reaped, more = await self._line.call(Operation(("reap",), _events))
            events += reaped
        return events

    # Steering ---------------------------------------------------------------

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job, or ask its worker to stop it."""
        return await self._line.call(operations.on_job("cancel", job_id))

    async def cancel_workflow(self, workflow_id: str) -> int:
        """Cancel a workflow's jobs, and those to come."""
        token = new_id()
        count: int | None = await self._line.call(Operation(("cancel_workflow", workflow_id, token), _number_or_none))
        if count is not None:
            return count
        # Whoever calls deals with the next part of a crowd, so this one may be cancelled.
        while True:
            count, is_all = await self._line.call(Operation(("stopped", token), _result))
            if is_all or count is None:
                return count or 0

    async def clear_workflow(self, workflow_id: str) -> None:
        """Let a cancelled workflow accept jobs again."""
        await self._line.call(done("clear_workflow", workflow_id))

    async def is_cancelled(self, job_id: str) -> bool:
        """Return whether a job is cancelled or should stop for a user."""
        return await self._line.call(operations.on_job("is_cancelled", job_id))

    async def _pause(self, queue: str, until: float | None, *, cancel_running: bool) -> None:
        await self._line.call(done("pause", queue, optional_micros(until), cancel_running))

    async def _resume(self, queue: str) -> None:
        await self._line.call(done("resume", queue))

    async def retry(self, job_id: str) -> None:
        """Put a dead or cancelled job back."""
        await self._line.call(operations.on_job("retry", job_id, "only dead and cancelled jobs can be put back"))

    async def delete(self, job_id: str) -> None:
        """Remove a job that is not running."""
        await self._line.call(operations.on_job("delete", job_id, "cancel it and wait until it has stopped"))

    async def _prune(self, retention: float, states: frozenset[JobState], limit: int) -> int:
        removed = 0
        for state in sorted(states):
            offset: int | None = 0
            while offset is not None and removed < limit:
                words = ("prune", state, to_micros(retention), limit - removed, offset)
                count, offset = await self._line.call(Operation(words, _count_and_offset))
                removed += count
        return removed

    # Looking ----------------------------------------------------------------

    async def get(self, job_id: str) -> QueuedJob:
        """Return a job."""
        return await self._line.call(_get(job_id))

    def _prepare_get(self, job_id: str) -> Prepared[QueuedJob]:
        return self._line.prepare(_get(job_id))

    async def _page(self, wanted: JobFilter, limit: int, cursor: str | None) -> JobPage:
        filters = {name: value for name, value in attrs.asdict(wanted).items() if value is not None}
        found: list[QueuedJob] = []
        after: str | None = cursor or ""
        # One more than wanted, to know whether there is a following page.
        while after is not None and len(found) <= limit:
            words = ("page", filters, after, min(limit + 1 - len(found), SHOWN_AT_ONCE))
            jobs, after = await self._line.call(Operation(words, _jobs_and_cursor))
            found += jobs
        jobs = found[:limit]
        return JobPage(tuple(jobs), jobs[-1].id if len(found) > limit else None)

    async def counts(self, *, queue: str | None = None) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        totals = dict.fromkeys(JobState, 0)
        for state, name, count in await self._line.call(Operation(("counts",), _result)):
            if queue is None or name == queue:
                totals[JobState(state)] += count
        return totals

    async def queues(self) -> Sequence[QueueInfo]:
        """Return every queue that holds jobs or is paused."""
        rows, pauses = await self._line.call(Operation(("queues",), _result))
        paused: dict[str, int | None] = {name: until or None for name, until in pauses}
        found: dict[str, dict[JobState, int]] = {name: {} for name in paused}
        for state, name, count in rows:
            if count:
                found.setdefault(name, {})[JobState(state)] = count
        return [
            QueueInfo(name=name, paused=name in paused, paused_until=optional_seconds(paused.get(name)), counts=counts)
            for name, counts in sorted(found.items())
        ]

    # Being told -------------------------------------------------------------

    def subscribe(self, *, capacity: int = 1024) -> AbstractAsyncContextManager[AsyncIterator[JobEvent | Lagged]]:
        """Return the events of what is done through this Storage object."""
        return self._broadcast.subscribe(capacity)

    @asynccontextmanager
    async def wakeups(
        self, queues: Collection[str] | None = None, *, finished: bool = False
    ) -> AsyncGenerator[Wakeups]:
        """Return a waiter that is woken when jobs may have become claimable."""
        chosen = None if queues is None else frozenset(queues)

        async def next_due() -> float | None:
            words = ("next_due", None if chosen is None else sorted(chosen))
            return await self._line.call(Operation(words, _seconds_until))

        async with self._hub.wait_for(self._line, chosen, finished=finished, next_due=next_due) as waiter:
            yield waiter

    async def _wake(self, queue: str | None) -> None:
        """Wake who waits for jobs."""
        await self._line.call(done("wake", queue))


def _is_too_large(operation: Operation[Any], finishes: Sequence[Finish]) -> bool:
    return len(operation.encoded) > LARGEST_CALL and len(finishes) > 1


def renewal(lease_ids: Sequence[str], extend_by: float) -> Operation[Renewed]:
    """Let many leases run on."""

    def read(answer: Answer) -> Renewed:
        lost: list[str] = []
        cancelled: dict[str, CancelReason] = {}
        for lease, (word, *details) in zip(lease_ids, answer.result, strict=True):
            if word != "renewed":
                lost.append(lease)
            elif details[0]:
                cancelled[lease] = CancelReason(details[0])
        return Renewed(tuple(lost), cancelled)

    return Operation(("renew", operations.lease_runs(lease_ids), to_micros(extend_by)), read)


def _result(answer: Answer) -> Any:
    return answer.result


def _number_or_none(answer: Answer) -> int | None:
    return None if answer.result is False else answer.result


def _count_and_offset(answer: Answer) -> tuple[int, int | None]:
    count, offset = answer.result
    return count, None if offset is False else offset


def _get(job_id: str) -> Operation[QueuedJob]:
    """Look at a job."""

    def read(answer: Answer) -> QueuedJob:
        if not answer.result:
            raise JobNotFound(job_id)
        return _shown(answer.result, answer)[0]

    return Operation(("get", job_id), read)


def _shown(columns: Sequence[Sequence[Any]], answer: Answer) -> list[QueuedJob]:
    return [to_job(row, answer.groups, answer.now) for row in zip(*columns, strict=True)]


def _jobs_and_cursor(answer: Answer) -> tuple[list[QueuedJob], str | None]:
    columns, cursor = answer.result
    return _shown(columns, answer), cursor or None


def _events(answer: Answer) -> tuple[list[JobEvent], bool]:
    rows, more = answer.result
    return [to_event(row, answer.groups, answer.now) for row in rows], more


def _seconds_until(answer: Answer) -> float | None:
    return from_micros(answer.result - answer.now) if answer.result else None
