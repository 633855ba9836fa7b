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

JOBS_IN_A_PART: Final = 1000
BYTES_IN_A_PART: Final = 4 * 1024 * 1024

PUBLISH_LIMIT: Final = 120.0
"""Seconds for the call that makes a large batch visible."""


@attrs.define(eq=False)
class Part:
    """Jobs that travel together, and the groups that they refer to by place.

    Attributes:
        weight: The bytes of their payloads.
        ids: Of each job in turn, or None if the answer tells it.
        plain: Runs of jobs that are due at once and have no more about them than their options: group, priority, number
            of attempts, and columns of ids, payloads and options.
        rows: The other jobs.
    """

    weight: int = 0
    ids: list[str | None] = attrs.field(factory=list["str | None"])
    plain: list[tuple[int, int, int, list[str], list[str], list[str | None]]] = attrs.field(factory=list[Any])
    rows: list[tuple[Any, ...]] = attrs.field(factory=list[tuple[Any, ...]])
    _groups: dict[tuple[str, str, tuple[str, ...]], int] = attrs.field(
        factory=dict[tuple[str, str, tuple[str, ...]], int]
    )

    def add(self, request: EnqueueRequest) -> None:
        """Add a job."""
        place = self._place(request)
        self.weight += len(request.payload_json)
        if not _is_plain(request):
            self.ids.append(None)
            self.rows.append(_row(request, place))
            return
        job_id, options = new_id(), options_text(request)
        run = self.plain[-1] if self.plain else None
        if run is None or run[:3] != (place, request.priority, request.max_attempts):
            run = (place, request.priority, request.max_attempts, list[str](), list[str](), list["str | None"]())
            self.plain.append(run)
        self.ids.append(job_id)
        run[3].append(job_id)
        run[4].append(request.payload_json.decode())
        run[5].append(options)

    def add_row(self, request: EnqueueRequest) -> None:
        """Add a job about which the answer is to tell, plain or not."""
        self.rows.append(_row(request, self._place(request)))

    @property
    def texts(self) -> list[str]:
        """The groups, in the order of their places."""
        return [json_text((queue, kind, sorted(set(labels)))) for queue, kind, labels in self._groups]

    @property
    def words(self) -> tuple[list[str], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """What the script is told."""
        return self.texts, self.rows, list(self.plain)

    def _place(self, request: EnqueueRequest) -> int:
        key = (request.queue, request.kind, request.required_labels)
        return self._groups.setdefault(key, len(self._groups) + 1)


def _is_plain(request: EnqueueRequest) -> bool:
    return not (
        request.delay
        or request.run_at is not None
        or request.expires_at is not None
        or request.unique_key is not None
        or request.workflow_id is not None
        or request.tenant_id is not None
        or request.depends_on
        or request.job_id is not None
    )


def _row(request: EnqueueRequest, place: int) -> tuple[Any, ...]:
    return (
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


def parts(requests: Sequence[EnqueueRequest]) -> Iterator[Part]:
    """Yield the requests in parts of a size that no server minds."""
    part = Part()
    for request in requests:
        if part.ids and (len(part.ids) >= JOBS_IN_A_PART or part.weight >= BYTES_IN_A_PART):
            yield part
            part = Part()
        part.add(request)
    if part.ids:
        yield part


def enqueue_part(part: Part, requests: Sequence[EnqueueRequest]) -> Operation[list[EnqueueOutcome]]:
    """Add the jobs of one part, all or none."""
    return Operation(
        ("enqueue", *part.words),
        lambda answer: _outcomes(answer, requests, part.ids),
        grows=True,
    )


def stage(token: str, part: Part) -> Operation[None]:
    """Keep a part of a batch until the batch is published."""
    return attrs.evolve(done("stage", token, *part.words), grows=True)


def unstage(token: str) -> Operation[None]:
    """Forget the parts of a batch that will not be published."""
    return done("unstage", token)


def publish(token: str, staged: Sequence[Part], requests: Sequence[EnqueueRequest]) -> Operation[list[EnqueueOutcome]]:
    """Add the jobs of the staged parts, all or none."""
    ids = [job_id for part in staged for job_id in part.ids]
    return Operation(
        ("publish", token, len(staged)),
        lambda answer: _outcomes(answer, requests, ids),
        grows=True,
        limit=PUBLISH_LIMIT,
    )


def rows_of(requests: Sequence[EnqueueRequest]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return a few requests as groups and rows."""
    part = Part()
    for request in requests:
        part.add_row(request)
    return part.texts, part.rows


def _outcomes(answer: Answer, requests: Sequence[EnqueueRequest], ids: Sequence[str | None]) -> list[EnqueueOutcome]:
    match answer.result:
        case ["added", outcomes]:
            told = iter(outcomes)
            return [EnqueueOutcome(*next(told)) if job_id is None else EnqueueOutcome(job_id, False) for job_id in ids]
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
