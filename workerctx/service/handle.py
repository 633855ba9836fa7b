"""Handles of jobs that a typed handler enqueued: their result has the handler's return type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

from attrs import field, frozen

from workerctx.queue import JobHandle

if TYPE_CHECKING:
    from workerctx.queue import JobState, QueuedJob
    from workerctx.service.payload import Result
    from workerctx.service.sync import SyncJobs

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


@frozen
class SyncJobHandle(Generic[R]):
    """A job in the hands of plain sync code; each method blocks the calling thread."""

    _handle: JobHandle
    _sync: SyncJobs = field(repr=False, eq=False)

    @property
    def id(self) -> str:
        """The job's id."""
        return self._handle.id

    @property
    def deduped(self) -> bool:
        """Whether enqueueing met an active job with the same unique key."""
        return self._handle.deduped

    def result(self, timeout: float | None = None) -> R:
        """Do `JobHandle.result`."""
        return cast("R", self._sync.run(self._handle.result, timeout))

    def get(self) -> QueuedJob:
        """Do `JobHandle.get`."""
        return self._sync.run(self._handle.get)

    def status(self) -> JobState:
        """Do `JobHandle.status`."""
        return self._sync.run(self._handle.status)

    def cancel(self) -> bool:
        """Do `JobHandle.cancel`."""
        return self._sync.run(self._handle.cancel)
