"""Handlers that run by the clock: what ``@jobs.schedule`` remembers until a worker starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from workerctx.queue import Misfire, Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workerctx.service.handler import JobHandler
    from workerctx.service.options import Seconds


@frozen(eq=False)
class Declaration:
    """A schedule of a handler; it becomes a `Schedule` when the handler's final kind and queue are known.

    Attributes:
        handler: whose jobs are enqueued.
        name: of the schedule; None takes the handler's kind.
        args: positional arguments of each job.
        kwargs: keyword arguments of each job.
    """

    handler: JobHandler[..., Any]
    cron: str | None
    every: Seconds | None
    timezone: str
    misfire: Misfire
    name: str | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def schedule(self) -> Schedule:
        """Return the schedule as a store takes it.

        Raises:
            InvalidRequest: the expression, the zone or the interval is not valid.
            InvalidArguments: the arguments do not fit the handler's signature.
        """
        return Schedule(
            name=self.name or self.handler.kind,
            request=self.handler.request(*self.args, **self.kwargs),
            cron=self.cron,
            every=self.every,
            timezone=self.timezone,
            misfire=self.misfire,
        )
