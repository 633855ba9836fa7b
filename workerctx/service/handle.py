"""Handles of jobs that a typed handler enqueued: their result has the handler's return type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

from attrs import field, frozen

from workerctx.queue import JobHandle

if TYPE_CHECKING:
    from workerctx.service.payload import Result

R = TypeVar("R")


@frozen
class TypedJobHandle(JobHandle, Generic[R]):
    """A `JobHandle` whose `result` is what the handler returns.

    Attributes:
        expected: What the handler returns, by its annotation.
    """

    expected: Result = field(repr=False, eq=False, kw_only=True)

    async def result(self, timeout: float | None = None) -> R:
        """Wait until the job has finished and return what the handler returned.

        Args:
            timeout: Seconds; None waits without end.

        Raises:
            JobNotFound: It was deleted.
            JobFailed: It is dead.
            JobCancelled: It was cancelled.
            TimeoutError: It had not finished in time.

        Cancellation: touches the job in no way.
        """
        return cast("R", self.expected.restore(await super().result(timeout)))
