"""Ack: tell somebody how each run ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import frozen

from workerctx.errors import AckFailed, Snooze, Throttled
from workerctx.lifecycle.groups import collapse
from workerctx.service.layers.catch import as_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request

_log: Final = logging.getLogger("workerctx")


class Acknowledge(Protocol):
    """Is told how a run ended."""

    def __call__(self, request: Request, output: Any, error: Exception | None, /) -> Awaitable[object]:
        """Take note of the output, or of the error if there is one."""
        ...


@frozen(eq=False)
class Ack:
    """Calls `acknowledge` once at the end of each run, with its output or its error.

    It is part of the run: a shutdown waits for it, and the job is finished only afterwards. A run that was put off
    (`Snooze`, `Throttled`) or cancelled has no end to be told of.

    If `acknowledge` fails, no error is lost. After a success the run fails with `AckFailed`, so the handler should
    bear to run twice. After an error that error goes on, because it decides what becomes of the job; it carries the
    second one as a note, and the second one is logged.

    Args:
        acknowledge: An async function ``(request, output, error)``; one of the last two is None.
    """

    acknowledge: Acknowledge

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, and tell.

        Raises:
            AckFailed: The run succeeded and could not be acknowledged.
            HandlerCrashed: It left with something that is no `Exception`.

        Cancellation: a run that is cancelled during the acknowledgement counts as not finished.
        """
        try:
            output = await call_next(request)
        except Exception as exc:
            if not isinstance(collapse(exc), Snooze | Throttled):
                await self._tell_failure(request, exc)
            raise
        except BaseException as exc:
            crashed = as_failure(exc)
            if crashed is None:
                raise
            await self._tell_failure(request, crashed)
            raise crashed from exc
        try:
            await self.acknowledge(request, output, None)
        except Exception as why:
            raise AckFailed(request.kind, output, why) from why
        return output

    async def _tell_failure(self, request: Request, error: Exception) -> None:
        try:
            await self.acknowledge(request, None, error)
        except Exception as why:  # noqa: BLE001 - it is kept with the error that goes on
            error.add_note(f"besides, it could not be acknowledged: {why!r}")
            _log.exception("the failure of %s could not be acknowledged", request.kind)
