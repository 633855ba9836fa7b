"""The registry of workers, and the commands that wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from workerctx.errors import WorkerNotFound
from workerctx.queue.sql.rows import from_micros, json_text, to_micros
from workerctx.queue.transitions import check_wait
from workerctx.queue.workers import WorkerCommand, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.batching import Batcher
    from workerctx.queue.sql.transaction import Transaction


_decode_info = msgspec.json.Decoder(WorkerInfo).decode
_decode_commands = msgspec.json.Decoder(list[WorkerCommand]).decode


class SqlWorkers:
    """`Workers` in a table; see there for what each method promises."""

    def __init__(self, writer: Batcher[Transaction], reader: Batcher[Transaction]) -> None:
        self._writer = writer
        self._reader = reader

    async def register(self, worker: WorkerInfo) -> None:
        """Add or replace a worker."""

        def do(tx: Transaction) -> None:
            info = json_text(replace(worker, started_at=tx.seconds))
            tx.run(tx.sql.register, tx.ns, worker.id, info, tx.now, worker.state, worker.in_flight)

        await self._writer.call(do)

    async def heartbeat(self, worker_id: str, *, state: str = "running", in_flight: int = 0) -> Sequence[WorkerCommand]:
        """Say that a worker lives, and fetch its commands."""

        def do(tx: Transaction) -> list[WorkerCommand]:
            commands = _commands(tx, worker_id)
            tx.run(tx.sql.heartbeat, tx.now, state, in_flight, tx.ns, worker_id)
            return commands

        return await self._writer.call(do)

    async def send(self, worker_id: str, command: WorkerCommand) -> None:
        """Send a command to a worker."""

        def do(tx: Transaction) -> None:
            commands = [*_commands(tx, worker_id), WorkerCommand(command)]
            tx.run(tx.sql.send, json_text(commands), tx.ns, worker_id)

        await self._writer.call(do)

    async def deregister(self, worker_id: str) -> None:
        """Remove a worker."""
        await self._writer.call(lambda tx: tx.run(tx.sql.deregister, tx.ns, worker_id))

    async def reap(self, older_than: float) -> Sequence[WorkerInfo]:
        """Remove and return silent workers."""
        check_wait(older_than, "older_than")

        def do(tx: Transaction) -> list[WorkerInfo]:
            silent = [_worker(row) for row in tx.rows(tx.sql.silent, tx.ns, tx.now - to_micros(older_than))]
            for worker in silent:
                tx.run(tx.sql.deregister, tx.ns, worker.id)
            return silent

        return await self._writer.call(do)

    async def list(self) -> Sequence[WorkerInfo]:
        """Return the workers, by id."""
        return await self._reader.call(lambda tx: [_worker(row) for row in tx.rows(tx.sql.list_workers, tx.ns)])


def _commands(tx: Transaction, worker_id: str) -> list[WorkerCommand]:
    stored = tx.value(tx.sql.commands, tx.ns, worker_id)
    if stored is None:
        raise WorkerNotFound(worker_id)
    return _decode_commands(stored)


def _worker(row: tuple[str, int, str, int]) -> WorkerInfo:
    info, heartbeat_at, state, in_flight = row
    return replace(_decode_info(info), heartbeat_at=from_micros(heartbeat_at), state=state, in_flight=in_flight)
