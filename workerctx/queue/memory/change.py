"""One transaction: the lock while it lasts, and what has to be told once it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import attrs

from workerctx.queue import transitions

if TYPE_CHECKING:
    from workerctx.queue.broadcast import Broadcast
    from workerctx.queue.events import JobEvent
    from workerctx.queue.memory.graph import Graph
    from workerctx.queue.memory.table import Table
    from workerctx.queue.memory.wakeups import Alarms
    from workerctx.queue.model import QueuedJob


@attrs.define(eq=False)
class Change:
    """A context manager around everything that changes a table together.

    Nothing in it waits, so it is atomic for whoever takes the same lock; each operation validates before it applies.

    Attributes:
        table: What is changed.
        graph: The dependencies of its jobs.
        now: Store time of the whole change.
        heard: Whether events are wanted, and so worth building.
        events: What happened, if that is wanted.
    """

    table: Table
    graph: Graph
    now: float
    _alarms: Alarms
    _broadcast: Broadcast
    heard: bool
    events: list[JobEvent] = attrs.field(factory=list["JobEvent"], init=False)
    _woken: set[str] = attrs.field(factory=set[str], init=False)
    _finished: bool = attrs.field(default=False, init=False)

    def __enter__(self) -> Self:
        self.table.lock.acquire()
        try:
            self._expire()
        except BaseException:
            self.table.lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an error: a refused operation changed nothing, but jobs may have expired before it.
        self.table.lock.release()
        if self._woken or self._finished:
            self._alarms.ring(self._woken, finished=self._finished)
        if self.events:
            self._broadcast.publish(self.events)

    def make_ready(self, job: QueuedJob) -> None:
        """Store a job that waits only for its time and a worker, and say so."""
        self.table.put(job)
        self._woken.add(job.queue)
        if self.heard:
            self.events.append(transitions.ready(job, self.now))

    def give_back(self, job: QueuedJob) -> None:
        """Store a job that waits again, without an event."""
        self.table.put(job)
        self._woken.add(job.queue)

    def wake(self, queue: str) -> None:
        """Wake who waits for jobs of a queue, once the change is over."""
        self._woken.add(queue)

    def close(self, job: QueuedJob) -> None:
        """Store a job that has come to its end, say so, and let the jobs that wait for it go on."""
        self.graph.forget(job.id)
        self.end(job)
        self.settle(job)

    def settle(self, ended: QueuedJob, *, word: str | None = None) -> list[QueuedJob]:
        """Let the jobs that wait for an ended one go on, or cancel and return them; see `Graph.settle`."""
        cancelled: list[QueuedJob] = []
        for job in self.graph.settle(ended, self.now, word=word):
            if job.state.is_final:
                cancelled.append(job)
                self.end(job)
            else:
                self.make_ready(job)
        return cancelled

    def end(self, job: QueuedJob) -> None:
        """Store a job that has come to its end, and say so."""
        self.table.put(job)
        self._finished = True
        if self.heard:
            self.events.append(transitions.ending(job, self.now))

    def _expire(self) -> None:
        for job in self.table.take_expired(self.now):
            self.close(transitions.cancel(job, transitions.EXPIRED, self.now))
