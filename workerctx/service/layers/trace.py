"""Trace: a log record, and a span if wanted, around each run."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final

from attrs import frozen

from workerctx.service.jobctx import TRACE_HEADERS, JobCtx
from workerctx.service.layers.order import LayerRole
from workerctx.service.layers.retry import Try

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request

_log: Final = logging.getLogger("workerctx.trace")


@frozen(eq=False)
class Trace:
    """Logs the begin and the end of each run, with kind, job id, attempt, seconds and trace headers in ``extra``.

    Inside of a `Retry` it logs each try, with its number.

    Args:
        level: Of the records; that of a failed run is ERROR.
        make_span: Returns a sync context manager that is entered around the run, such as a span of a tracing
            library; the trace headers of the job are in ``request.data.require(JobCtx).job.headers``.
    """

    role: ClassVar[LayerRole] = LayerRole.TRACE

    level: int = logging.DEBUG
    make_span: Callable[[Request], AbstractContextManager[object]] | None = None

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, and log."""
        log, began = _log.isEnabledFor(self.level), monotonic()
        output: Any = None
        failures: list[BaseException] = []
        with nullcontext() if self.make_span is None else self.make_span(request):
            if log:
                fields = _fields(request)
                _log.log(self.level, "%s begins", _title(fields), extra=fields)
            try:
                output = await call_next(request)
            except BaseException as exc:
                failures.append(exc)
                fields = _fields(request) | {"seconds": monotonic() - began, "error": type(exc).__name__}
                level = logging.ERROR if isinstance(exc, Exception) else self.level
                _log.log(level, "%s left after %.3f s with %r", _title(fields), fields["seconds"], exc, extra=fields)
                raise
            if log:
                fields = _fields(request) | {"seconds": monotonic() - began}
                _log.log(self.level, "%s done in %.3f s", _title(fields), fields["seconds"], extra=fields)
        if failures:  # the span swallowed it, which must not make a failed job look like a success
            raise failures[0]
        return output


def _title(fields: dict[str, Any]) -> str:
    again = f", try {fields['try']}" if "try" in fields else ""
    return f"job {fields['kind']} {fields['job_id']} (run {fields['attempt']}{again})"


def _fields(request: Request) -> dict[str, Any]:
    ctx = request.data.get(JobCtx)
    if ctx is None:
        return {"kind": request.kind, "job_id": None, "attempt": None}
    trace: dict[str, Any] = {name: ctx.job.headers[name] for name in TRACE_HEADERS if name in ctx.job.headers}
    attempt = request.data.get(Try)
    if attempt is not None:
        trace["try"] = attempt.number
    return {"kind": ctx.kind, "job_id": ctx.job_id, "attempt": ctx.attempt, **trace}
