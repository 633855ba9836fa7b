"""The registry of workers, and the commands that wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import msgspec
from msgspec.structs import replace

from workerctx.errors import WorkerNotFound
from workerctx.queue.codec import encode_json
from workerctx.queue.sql.rows import from_micros, to_micros
from workerctx.queue.transitions import check_wait
from workerctx.queue.workers import WorkerCommand, WorkerInfo
from workerctx_redis._operations import Answer, Operation, done

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx_redis._line import Line

_decode_info = msgspec.json.Decoder(WorkerInfo).decode


@attrs.define(eq=False)
class RedisWorkers:
    """`Workers` in Redis; see there for what each method promises."""

    _line: Line

    async def register(self, worker: WorkerInfo) -> None:
        """Add or replace a worker."""
        info = encode_json(worker, "worker").decode()
        await self._line.call(done("register", worker.id, info, worker.state, worker.in_flight))

    async def heartbeat(self, worker_id: str, *, state: str = "running", in_flight: int = 0) -> Sequence[WorkerCommand]:
        """Say that a worker lives, and fetch its commands."""
        words = ("heartbeat", worker_id, state, in_flight)
        commands = await self._line.call(Operation(words, _result))
        if commands is False:
            raise WorkerNotFound(worker_id)
        return [WorkerCommand(command) for command in commands]

    async def send(self, worker_id: str, command: WorkerCommand) -> None:
        """Send a command to a worker."""
        if not await self._line.call(Operation(("send", worker_id, WorkerCommand(command).value), _result)):
            raise WorkerNotFound(worker_id)

    async def deregister(self, worker_id: str) -> None:
        """Remove a worker."""
        await self._line.call(done("deregister", worker_id))

    async def reap(self, older_than: float) -> Sequence[WorkerInfo]:
        """Remove and return silent workers."""
        check_wait(older_than, "older_than")
        return await self._line.call(Operation(("silent", to_micros(older_than)), _workers))

    async def list(self) -> Sequence[WorkerInfo]:
        """Return the workers, by id."""
        return await self._line.call(Operation(("workers",), _workers))


def _result(answer: Answer) -> Any:
    return answer.result


def _workers(answer: Answer) -> list[WorkerInfo]:
    found = [
        replace(
            _decode_info(info),
            state=state,
            in_flight=in_flight,
            started_at=from_micros(started_at),
            heartbeat_at=from_micros(heartbeat_at),
        )
        for info, state, in_flight, started_at, heartbeat_at in answer.result
    ]
    return sorted(found, key=lambda worker: worker.id)
