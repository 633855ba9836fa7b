"""A graph of jobs, built at leisure and enqueued in one transaction."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from workerctx.errors import InvalidRequest
from workerctx.queue.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from workerctx.queue.jobqueue import JobQueue
    from workerctx.queue.model import EnqueueOutcome
    from workerctx.queue.request import EnqueueRequest


@attrs.define(eq=False)
class Workflow:
    """Named jobs and which of them wait for which.

    Attributes:
        id: The workflow id of its jobs.
    """

    id: str = attrs.field(factory=new_id)
    _requests: dict[str, EnqueueRequest] = attrs.field(factory=dict["str", "EnqueueRequest"], init=False, repr=False)
    _parents: dict[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]], init=False, repr=False)

    def add(self, name: str, request: EnqueueRequest, *, after: Iterable[str] = ()) -> str:
        """Add a job that waits for the jobs named in ``after``, which may be added later.

        Returns:
            The name.

        Raises:
            InvalidRequest: The name is taken.
        """
        if name in self._requests:
            raise InvalidRequest(f"workflow {self.id!r} has a job {name!r} already: choose another name")
        parents = (after,) if isinstance(after, str) else tuple(dict.fromkeys(after))
        self._requests[name] = request
        self._parents[name] = parents
        return name

    def requests(self) -> dict[str, EnqueueRequest]:
        """Return the requests by name, parents before children, with ids and dependencies filled in.

        Raises:
            InvalidRequest: A job waits for an unknown name, or for itself in a circle.
        """
        ids = {name: request.job_id or new_id() for name, request in self._requests.items()}
        return {
            name: self._requests[name].with_options(
                job_id=ids[name],
                workflow_id=self.id,
                depends_on=(
                    *self._requests[name].depends_on,
                    *(ids[parent] for parent in self._parents[name]),
                ),
            )
            for name in self._parents_first()
        }

    async def enqueue(self, jobs: JobQueue) -> Mapping[str, EnqueueOutcome]:
        """Enqueue every job in one transaction and return the outcomes by name.

        Raises:
            InvalidRequest: As `requests`, or as `JobQueue.enqueue_bulk`; then nothing was enqueued.
        """
        requests = self.requests()
        outcomes = await jobs.enqueue_bulk(requests.values())
        return dict(zip(requests, outcomes, strict=True))

    def _parents_first(self) -> list[str]:
        children: dict[str, list[str]] = {name: [] for name in self._requests}
        waiting: dict[str, int] = {}
        for name, parents in self._parents.items():
            unknown = [parent for parent in parents if parent not in children]
            if unknown:
                raise InvalidRequest(f"job {name!r} waits for unknown jobs: {', '.join(map(repr, unknown))}")
            waiting[name] = len(parents)
            for parent in parents:
                children[parent].append(name)
        ready = deque(name for name, count in waiting.items() if not count)
        order: list[str] = []
        while ready:
            name = ready.popleft()
            order.append(name)
            for child in children[name]:
                waiting[child] -= 1
                if not waiting[child]:
                    ready.append(child)
        if len(order) < len(waiting):
            circle = sorted(waiting.keys() - set(order))
            raise InvalidRequest(f"jobs wait for each other in a circle, among them: {', '.join(circle[:10])}")
        return order
