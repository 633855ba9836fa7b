"""Which jobs a command means: by their ids, or by what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from workerctx.errors import CommandError
from workerctx.queue import JobState  # noqa: TC001 - cyclopts reads the annotations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from workerctx.queue import JobPage, QueuedJob, Storage

_PAGE = 500


@Parameter(name="*", group="Which jobs")
@attrs.frozen
class Filters:
    """Conditions that all have to hold."""

    state: Annotated[JobState | None, Parameter(help="In this state.")] = None
    kind: Annotated[str | None, Parameter(help="Of this kind.")] = None
    queue: Annotated[str | None, Parameter(name=["--queue", "-q"], help="In this queue.")] = None
    tenant: Annotated[str | None, Parameter(help="Of this tenant.")] = None
    workflow: Annotated[str | None, Parameter(help="Of this workflow.")] = None
    unique_key: Annotated[str | None, Parameter(help="With this unique key.")] = None

    @property
    def is_empty(self) -> bool:
        """Whether every job fits."""
        return all(value is None for value in attrs.astuple(self))

    async def page(self, storage: Storage, limit: int, cursor: str | None) -> JobPage:
        """Return a page of the jobs that fit, in order of their ids."""
        return await storage.jobs.list(
            state=self.state,
            kind=self.kind,
            queue=self.queue,
            tenant_id=self.tenant,
            workflow_id=self.workflow,
            unique_key=self.unique_key,
            limit=limit,
            cursor=cursor,
        )

    async def every(self, storage: Storage, cursor: str | None = None) -> AsyncIterator[QueuedJob]:
        """Go through all jobs that fit, a page at a time."""
        while True:
            page = await self.page(storage, _PAGE, cursor)
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return


@attrs.frozen
class Selection:
    """The jobs that a command is about to touch.

    Attributes:
        ids: Of these; or
        filters: those that fit.
        yes: Whether nobody needs to be asked.
    """

    ids: tuple[str, ...]
    filters: Filters
    yes: bool

    async def resolve(self, storage: Storage, verb: str, states: Collection[JobState]) -> list[str]:
        """Return the ids given, or those of the jobs that fit and are in one of the states.

        Raises:
            CommandError: Neither ids nor filters are given, or both, or a state in which the command does nothing.
        """
        if bool(self.ids) != self.filters.is_empty:
            raise CommandError(f"say which jobs to {verb}: either their ids, or filters such as --kind and --queue")
        if self.ids:
            return list(dict.fromkeys(self.ids))
        if self.filters.state is not None and self.filters.state not in states:
            raise CommandError(f"there is nothing to {verb} in jobs that are {self.filters.state}")
        return [job.id async for job in self.filters.every(storage) if job.state in states]
