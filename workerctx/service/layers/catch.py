"""Catch: whatever a handler leaves with is the failure of its job, and of nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, cast

import anyio
from attrs import frozen

from workerctx.errors import HandlerCrashed
from workerctx.lifecycle.groups import is_cancelled_here
from workerctx.service.describe import describe
from workerctx.service.layers.order import LayerRole

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request


def as_failure(error: BaseException) -> Exception | None:
    """Return what a job failed with, or None if the error is none of its business and has to pass.

    An `Exception` is returned as it is, alone in a group without the group. `SystemExit` and its like become
    `HandlerCrashed`, and so does a cancellation that no scope around the caller asked for. What passes:
    `KeyboardInterrupt`, also in a group; `GeneratorExit`, with which Python ends an abandoned coroutine; and a
    cancellation of a scope that is open where this is called.

    Args:
        error: Caught by the caller, which runs on an event loop.
    """
    error = _alone(error)
    if isinstance(error, Exception):
        return error
    if holds(error, KeyboardInterrupt, GeneratorExit):
        return None
    if holds(error, anyio.get_cancelled_exc_class()):
        if is_cancelled_here():
            return None
        _forget_native_cancel()
        crashed = HandlerCrashed(
            "the handler left with a cancellation that no scope around it asked for: "
            "it cancelled itself, or awaited something that was cancelled"
        )
    else:
        return crash_of(error)
    crashed.__cause__ = error
    return crashed


def crash_of(error: BaseException) -> HandlerCrashed:
    """Return the failure of a job whose handler left with `SystemExit` or its like."""
    if isinstance(error, SystemExit):
        crashed = HandlerCrashed(f"the handler called sys.exit({error.code!r}): raise an exception to fail a job")
    else:
        told = describe(error)
        words = "no message" if told.message == told.kind else told.message
        crashed = HandlerCrashed(f"the handler left with {type(error).__name__}: {words}")
    crashed.__cause__ = error
    return crashed


@frozen(eq=False)
class Catch:
    """Turns whatever a handler leaves with into an `Exception`, see `as_failure`; in a test, say, or inside a retry.

    A worker does the same around every job by itself.

    Args:
        handler: Makes the exception to raise from what was caught and is no `Exception`; the default is
            `HandlerCrashed`.
    """

    role: ClassVar[LayerRole] = LayerRole.CATCH

    handler: Callable[[Request, BaseException], Exception] | None = None

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, contained.

        Raises:
            HandlerCrashed: It left with something that is no `Exception`. Besides, whatever it raises.

        Cancellation: passes.
        """
        try:
            return await call_next(request)
        except Exception:
            raise
        except BaseException as exc:
            failure = as_failure(exc)
            if failure is None:
                raise
            if self.handler is not None and isinstance(failure, HandlerCrashed):
                failure = self.handler(request, exc)
            raise failure from exc


def _members(error: BaseException) -> tuple[BaseException, ...]:
    return cast("BaseExceptionGroup[BaseException]", error).exceptions if isinstance(error, BaseExceptionGroup) else ()


def _alone(error: BaseException) -> BaseException:
    members = _members(error)
    return _alone(members[0]) if len(members) == 1 else error


def holds(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Tell whether the error is one of these kinds, or a group with one of them inside."""
    return isinstance(error, kinds) or any(holds(member, *kinds) for member in _members(error))


def _forget_native_cancel() -> None:
    """Undo the requests to cancel this task that a handler made by `asyncio.Task.cancel`, so that they end with it."""
    if anyio.get_cancelled_exc_class() is not asyncio.CancelledError:
        return
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
