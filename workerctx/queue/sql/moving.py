"""Moving from and to a SQL store: the outbox is a table, and so is the list of the batches that came."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from workerctx.queue.cargo import BATCH_SIZE, Arrived, Batch, Settings
from workerctx.queue.sql import limits, steering
from workerctx.queue.sql.arriving import put_in
from workerctx.queue.sql.leaving import outbox, take_out
from workerctx.queue.sql.rows import optional_micros, optional_seconds
from workerctx.queue.sql.schedules import definition_text

if TYPE_CHECKING:
    from workerctx.queue.batching import Batcher
    from workerctx.queue.sql.transaction import Transaction


@attrs.define(eq=False)
class SqlMoving:
    """`Moving` in tables; see there for what each method promises."""

    _writer: Batcher[Transaction]
    _reader: Batcher[Transaction]
    _namespace: str

    async def identity(self) -> str:
        """Return a text that names this namespace of this store."""
        store_id = await self._reader.call(lambda tx: tx.value(tx.sql.store_id))
        return f"{store_id}/{self._namespace}"

    async def take_out(self, target: str, *, limit: int = BATCH_SIZE, history: bool = False) -> Batch | None:
        """Take records out of the live tables into the outbox."""
        return await self._writer.call(lambda tx: take_out(tx, target, limit, history=history))

    async def outbox(self) -> Batch | None:
        """Return the batch that is in the outbox."""
        return await self._reader.call(outbox)

    async def put_in(self, batch: Batch) -> Arrived:
        """Add the records of a batch."""
        definitions = [definition_text(schedule) for schedule in batch.schedules]
        return await self._writer.call(lambda tx: put_in(tx, batch, definitions))

    async def clear_out(self, batch_id: str) -> None:
        """Forget a batch that has arrived."""
        await self._writer.call(lambda tx: tx.run(tx.sql.clear_out, tx.ns, batch_id))

    async def settings(self) -> Settings:
        """Return what must hold on both sides."""
        return await self._reader.call(_settings)

    async def adopt(self, settings: Settings) -> None:
        """Let the settings of another store hold here too."""
        await self._writer.call(lambda tx: _adopt(tx, settings))


def _settings(tx: Transaction) -> Settings:
    pauses = {queue: until for queue, until in tx.rows(tx.sql.pauses, tx.ns) if until is None or until > tx.now}
    return Settings(
        limits=[limits.in_use(row) for row in tx.rows(tx.sql.limits_in_use, tx.ns)],
        pauses={queue: optional_seconds(until) for queue, until in pauses.items()},
        workflows=frozenset(workflow for (workflow,) in tx.rows(tx.sql.stopped_workflows, tx.ns)),
    )


def _adopt(tx: Transaction, settings: Settings) -> None:
    for each in settings.limits:
        limits.adopt(tx, each)
    for queue, until in settings.pauses.items():
        tx.run(tx.sql.adopt_pause, tx.ns, queue, optional_micros(until))
        tx.ready.add(queue)
    for workflow_id in sorted(settings.workflows):
        steering.cancel_workflow(tx, workflow_id)
