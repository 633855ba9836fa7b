"""A job that was enqueued, in the hands of whoever wants its result."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs

from workerctx.queue.events import JobEvent, Lagged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from workerctx.queue.jobqueue import JobQueue
    from workerctx.queue.model import JobState, QueuedJob


@attrs.frozen
class JobHandle:
    """One job, by id.

    Attributes:
        id: The job's id.
        deduped: Whether enqueueing met an active job with the same unique key.
    """

    _jobs: JobQueue = attrs.field(repr=False, eq=False)
    id: str
    deduped: bool = False

    async def result(self, timeout: float | None = None) -> Any:
        """Wait until the job has finished and return its outputs.

        Args:
            timeout: Seconds; None waits without end.

        Raises:
            JobNotFound: It was deleted.
            JobFailed: It is dead.
            JobCancelled: It was cancelled.
            TimeoutError: It had not finished in time.
        """
        return await self._jobs.result(self.id, timeout=timeout)

    async def get(self) -> QueuedJob:
        """Return the job as it is now.

        Raises:
            JobNotFound: It was deleted.
        """
        return await self._jobs.get(self.id)

    async def status(self) -> JobState:
        """Return the job's state.

        Raises:
            JobNotFound: It was deleted.
        """
        return (await self.get()).state

    async def cancel(self) -> bool:
        """Cancel the job; False if it had already finished.

        Raises:
            JobNotFound: It was deleted.
        """
        return await self._jobs.cancel(self.id)

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[AsyncIterator[JobEvent | Lagged]]:
        """Yield an iterator over the job's events from now on, as far as they happen through this Storage."""
        async with self._jobs.subscribe() as stream, aclosing(_only(stream, self.id)) as events:
            yield events


async def _only(stream: AsyncIterator[JobEvent | Lagged], job_id: str) -> AsyncGenerator[JobEvent | Lagged]:
    async for event in stream:
        if isinstance(event, Lagged) or event.job_id == job_id:
            yield event
