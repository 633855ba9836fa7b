"""Names and attributes of spans: the semantic conventions for messaging, and what only jobs have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workerctx.service.layers import Try

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.util.types import AttributeValue

    from workerctx import EnqueueRequest, JobCtx
    from workerctx.service import Request


def of_requests(requests: Sequence[EnqueueRequest]) -> tuple[str, dict[str, AttributeValue]]:
    """Return the name and the attributes of the span around an enqueueing."""
    kinds, queues = {each.kind for each in requests}, {each.queue for each in requests}
    attributes = _of_operation("send")
    if len(queues) == 1:
        (attributes["messaging.destination.name"],) = queues
    if len(requests) > 1:
        attributes["messaging.batch.message_count"] = len(requests)
    if len(kinds) > 1:
        return "send jobs", attributes
    (kind,) = kinds
    attributes["workerctx.job.kind"] = kind
    return f"send {kind}", attributes


def of_run(ctx: JobCtx, request: Request) -> tuple[str, dict[str, AttributeValue]]:
    """Return the name and the attributes of the span around a run."""
    job = ctx.job
    attributes = _of_operation("process")
    attributes["messaging.destination.name"] = job.queue
    attributes["messaging.message.id"] = job.id
    attributes["workerctx.job.kind"] = job.kind
    attributes["workerctx.job.attempt"] = job.attempt
    attributes["workerctx.job.max_attempts"] = job.max_attempts
    attempt = request.data.get(Try)
    if attempt is not None:
        attributes["workerctx.job.try"] = attempt.number
    for name, value in (("workflow", job.workflow_id), ("tenant", job.tenant_id)):
        if value is not None:
            attributes[f"workerctx.{name}.id"] = value
    if ctx.site.worker is not None:
        attributes["messaging.client.id"] = ctx.site.worker.name
    return f"process {job.kind}", attributes


def _of_operation(operation: str) -> dict[str, AttributeValue]:
    return {
        "messaging.system": "workerctx",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
