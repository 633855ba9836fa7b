"""Moving from and to Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from workerctx.queue.cargo import (
    BATCH_BYTES,
    BATCH_SIZE,
    Arrived,
    Batch,
    Settings,
    check_absent,
    check_target,
)
from workerctx.queue.codec import decode_json
from workerctx.queue.ids import new_id
from workerctx.queue.limits import LimitInUse, RateLimit
from workerctx.queue.model import JobState
from workerctx.queue.sql.rows import from_micros, json_text, optional_micros, optional_seconds, options_text, to_micros
from workerctx.queue.sql.schedules import definition_text, read_schedule
from workerctx_redis._adding import PUBLISH_LIMIT
from workerctx_redis._operations import Answer, Operation, done
from workerctx_redis._records import from_outbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.model import QueuedJob
    from workerctx.queue.schedule import Schedule
    from workerctx_redis._jobs import RedisJobs
    from workerctx_redis._line import Line

_decode_entry = msgspec.json.Decoder(list[Any]).decode
_WAITING = frozenset({JobState.QUEUED, JobState.SCHEDULED, JobState.BLOCKED})


@attrs.define(eq=False)
class RedisMoving:
    """`Moving` in Redis; see there for what each method promises."""

    _line: Line
    _jobs: RedisJobs

    async def identity(self) -> str:
        """Return a text that names this namespace of this store."""
        return await self._line.call(Operation(("identity", new_id()), lambda answer: str(answer.result)))

    async def take_out(self, target: str, *, limit: int = BATCH_SIZE, history: bool = False) -> Batch | None:
        """Take records out of the live keys into the outbox."""
        words = ("take_out", new_id(), target, limit, BATCH_BYTES, history)
        found = await self._line.call(Operation(words, _batch, grows=True, limit=PUBLISH_LIMIT))
        return None if found is None else check_target(found, target)

    async def outbox(self) -> Batch | None:
        """Return the batch that is in the outbox."""
        return await self._line.call(Operation(("outbox",), _batch))

    async def put_in(self, batch: Batch) -> Arrived:
        """Add the records of a batch."""
        texts, rows = _rows(batch.jobs)
        schedules = [_schedule_row(schedule) for schedule in batch.schedules]

        def read(answer: Answer) -> Arrived:
            word, *rest = answer.result
            if word == "again":
                return Arrived(again=True)
            if word == "taken":
                check_absent(*rest)
            return Arrived(jobs=len(rows), schedules=len(schedules), cancelled=dict(*rest))

        words = ("put_in", batch.id, texts, rows, schedules)
        return await self._line.call(Operation(words, read, grows=True, limit=PUBLISH_LIMIT))

    async def clear_out(self, batch_id: str) -> None:
        """Forget a batch that has arrived."""
        await self._line.call(done("clear_out", batch_id))

    async def settings(self) -> Settings:
        """Return what must hold on both sides."""
        return await self._line.call(Operation(("settings",), _settings))

    async def adopt(self, settings: Settings) -> None:
        """Let the settings of another store hold here too."""
        limits = [
            (
                each.limit.scope,
                each.limit.capacity,
                float(each.limit.per),
                to_micros(each.full_until),
                to_micros(each.closed_until),
            )
            for each in settings.limits
        ]
        pauses = [(queue, optional_micros(until)) for queue, until in settings.pauses.items()]
        await self._line.call(attrs.evolve(done("adopt", limits, pauses), grows=True))
        for workflow_id in sorted(settings.workflows):
            await self._jobs.cancel_workflow(workflow_id)


def _batch(answer: Answer) -> Batch | None:
    if not answer.result:
        return None
    (_, batch_id, target), *entries = map(_decode_entry, answer.result)
    jobs: list[QueuedJob] = []
    schedules: list[Schedule] = []
    for word, *entry in entries:
        if word == "job":
            jobs.append(from_outbox(entry, answer.now))
        else:
            name, definition, enabled, next_fire_at, last_fired_at = entry
            schedules.append(
                read_schedule((name, enabled, definition, decode_json(next_fire_at), decode_json(last_fired_at)))
            )
    return Batch(id=batch_id, target=target, jobs=jobs, schedules=schedules)


def _rows(jobs: Sequence[QueuedJob]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return jobs as groups and rows."""
    groups: dict[str, int] = {}
    rows: list[tuple[Any, ...]] = []
    for job in sorted(jobs, key=lambda job: job.id):
        text = json_text((job.queue, job.kind, sorted(set(job.required_labels))))
        errors = b"\n".join(map(msgspec.json.encode, job.error_history)).decode()
        rows.append(
            (
                job.id,
                groups.setdefault(text, len(groups) + 1),
                job.payload_json.decode(),
                options_text(job),
                "waiting" if job.state in _WAITING else job.state.value,
                job.priority,
                to_micros(job.run_at),
                to_micros(job.created_at),
                job.attempt,
                job.max_attempts,
                job.deliveries,
                optional_micros(job.expires_at),
                job.unique_key,
                job.workflow_id,
                job.tenant_id,
                job.worker_id,
                optional_micros(job.claimed_at),
                optional_micros(job.finished_at),
                errors or None,
                None if job.progress is None else json_text(job.progress),
                None if job.result_json in (None, b"null") else job.result_json.decode(),
            )
        )
    return list(groups), rows


def _schedule_row(schedule: Schedule) -> tuple[Any, ...]:
    return (
        schedule.name,
        definition_text(schedule),
        json_text(schedule.timing),
        schedule.enabled,
        optional_micros(schedule.next_fire_at) or False,
        optional_micros(schedule.last_fired_at) or False,
    )


def _settings(answer: Answer) -> Settings:
    fields, pauses, workflows = answer.result
    return Settings(
        limits=[
            _in_use(scope, *decode_json(text)) for scope, text in sorted(zip(fields[::2], fields[1::2], strict=True))
        ],
        pauses={queue: optional_seconds(until or None) for queue, until in pauses},
        workflows=frozenset(workflows),
    )


def _in_use(scope: str, capacity: int, per: float, tat: int, closed_until: int = 0) -> LimitInUse:
    return LimitInUse(RateLimit(scope, capacity, per), from_micros(tat), from_micros(closed_until))
