"""Requests on their way into the store, in parts if there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from workerctx.errors import InvalidRequest, StoreUnavailable
from workerctx.queue.ids import new_id
from workerctx.queue.model import EnqueueOutcome
from workerctx.queue.sql.rows import json_text, optional_micros, options_text, to_micros
from workerctx_redis._operations import Operation, done

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workerctx.queue.request import EnqueueRequest
    from workerctx_redis._operations import Answer

ROWS_IN_A_PART: Final = 1000
BYTES_IN_A_PART: Final = 4 * 1024 * 1024

PUBLISH_LIMIT: Final = 120.0
"""Seconds for the call that makes a large batch visible."""


@attrs.define(eq=False)
class Part:
    """Rows that travel together, and the groups that they refer to by place."""

    rows: list[tuple[Any, ...]] = attrs.field(factory=list[tuple[Any, ...]])
    weight: int = 0
    _groups: dict[tuple[str, str, tuple[str, ...]], int] = attrs.field(
        factory=dict[tuple[str, str, tuple[str, ...]], int]
    )

    def add(self, request: EnqueueRequest) -> None:
        """Add a row."""
        key = (request.queue, request.kind, request.required_labels)
        place = self._groups.setdefault(key, len(self._groups) + 1)
        self.weight += len(request.payload_json)
        self.rows.append(
            (
                request.job_id or new_id(),
                place,
                request.payload_json.decode(),
                options_text(request),
                request.priority,
                optional_micros(request.run_at),
                to_micros(request.delay),
                request.max_attempts,
                optional_micros(request.expires_at),
                request.unique_key,
                request.workflow_id,
                request.tenant_id,
                request.job_id is not None,
            )
        )

    @property
    def texts(self) -> list[str]:
        """The groups, in the order of their places."""
        return [json_text((queue, kind, sorted(set(labels)))) for queue, kind, labels in self._groups]


def parts(requests: Sequence[EnqueueRequest]) -> Iterator[Part]:
    """Yield the requests in parts of a size that no server minds."""
    part = Part()
    for request in requests:
        if part.rows and (len(part.rows) >= ROWS_IN_A_PART or part.weight >= BYTES_IN_A_PART):
            yield part
            part = Part()
        part.add(request)
    if part.rows:
        yield part


def enqueue_part(part: Part, requests: Sequence[EnqueueRequest]) -> Operation[list[EnqueueOutcome]]:
    """Add the jobs of one part, all or none."""
    return Operation(
        ("enqueue", part.texts, part.rows),
        lambda answer: _outcomes(answer, requests),
        grows=True,
    )


def stage(token: str, part: Part) -> Operation[None]:
    """Keep a part of a batch until the batch is published."""
    return attrs.evolve(done("stage", token, part.texts, part.rows), grows=True)


def publish(token: str, count: int, requests: Sequence[EnqueueRequest]) -> Operation[list[EnqueueOutcome]]:
    """Add the jobs of the staged parts, all or none."""
    return Operation(
        ("publish", token, count), lambda answer: _outcomes(answer, requests), grows=True, limit=PUBLISH_LIMIT
    )


def rows_of(requests: Sequence[EnqueueRequest]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return a few requests as groups and rows."""
    part = Part()
    for request in requests:
        part.add(request)
    return part.texts, part.rows


def _outcomes(answer: Answer, requests: Sequence[EnqueueRequest]) -> list[EnqueueOutcome]:
    match answer.result:
        case ["added", outcomes]:
            return [EnqueueOutcome(job_id, deduped) for job_id, deduped in outcomes]
        case ["parent", parent]:
            kind = next((request.kind for request in requests if parent in request.depends_on), "")
            raise InvalidRequest(
                f"a job of kind {kind!r} depends on {parent!r}, which is not here: enqueue parents first, or earlier "
                "in the same batch"
            )
        case ["taken", job_id]:
            raise InvalidRequest(f"the job id {job_id!r} is taken: leave job_id out, or make one with new_id()")
        case _:
            raise StoreUnavailable("the batch took too long to send, so nothing of it was added: try again")
