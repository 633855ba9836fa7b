"""The side of a worker that can be read: everything a listener can learn can also be polled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from attrs import frozen

from workerctx.lifecycle.state import Outcome, WorkerState

if TYPE_CHECKING:
    from workerctx.lifecycle.shell import Shell
    from workerctx.lifecycle.shutdown import Shutdown


@frozen
class RunningTask:
    """A spawned task as `WorkerContext.running` lists it.

    Attributes:
        name: what it was spawned as.
        age: seconds since it was spawned.
    """

    name: str
    age: float


@frozen
class WorkerStatistics:
    """What a worker has done so far.

    Attributes:
        tasks: how many tasks are in now.
        accepted: how many tasks were accepted since the worker was made.
        children: how many child workers have not finished.
        elapsed: seconds since the worker was made.
    """

    name: str
    state: WorkerState
    outcome: Outcome | None
    reason: str | None
    tasks: int
    accepted: int
    children: int
    elapsed: float


class WorkerView:
    """The properties of a `WorkerContext`.

    Threads: all of them may be read from any thread.
    """

    def __init__(self, shell: Shell, service: str | None, shutdown: Shutdown | None) -> None:
        self._shell = shell
        self._shutdown = shutdown
        self._service = service
        self._born = time.monotonic()
        self._troubles: dict[str, str] = {}

    @property
    def name(self) -> str:
        """What the worker is called."""
        return self._shell.machine.name

    @property
    def service(self) -> str | None:
        """What the worker serves, as it was told."""
        return self._service

    @property
    def state(self) -> WorkerState:
        """PENDING, RUNNING, PAUSED or STOPPED."""
        return self._shell.machine.snapshot.state

    @property
    def outcome(self) -> Outcome | None:
        """How the worker's life ended; None until it has."""
        return self._shell.machine.snapshot.outcome

    @property
    def reason(self) -> str | None:
        """Why the worker was stopped, or is paused."""
        return self._shell.machine.snapshot.reason

    @property
    def failure(self) -> BaseException | None:
        """What broke the worker, if something did."""
        return self._shell.machine.snapshot.failure

    @property
    def grace(self) -> float | None:
        """Seconds that a stop lets accepted work go on; None for ever."""
        return self._shell.grace

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline of a stop, 0 once it has passed; None before a stop, or without a deadline."""
        deadline = self._shell.machine.snapshot.deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    @property
    def task_count(self) -> int:
        """How many tasks, tracked and spawned, are in."""
        return self._shell.ledger.count

    @property
    def has_pending_tasks(self) -> bool:
        """Whether any task is in."""
        return self._shell.ledger.count > 0

    @property
    def running(self) -> tuple[RunningTask, ...]:
        """The spawned tasks that are in, oldest first; tracked ones are only counted."""
        return tuple(RunningTask(task.name, task.age) for task in list(self._shell.spawned))

    @property
    def is_pending(self) -> bool:
        """Whether it was neither started nor stopped."""
        return self.state is WorkerState.PENDING

    @property
    def is_running(self) -> bool:
        """Whether it is started and neither paused nor stopped."""
        return self.state is WorkerState.RUNNING

    @property
    def is_paused(self) -> bool:
        """Whether it holds new work back; a paused worker is not shutting down."""
        return self.state is WorkerState.PAUSED

    @property
    def is_stopped(self) -> bool:
        """Whether a stop was asked for; work may still be draining."""
        return self.state is WorkerState.STOPPED

    @property
    def is_shutting_down(self) -> bool:
        """Whether it is stopped, by itself or by its `Shutdown` token."""
        return self.is_stopped or (self._shutdown is not None and self._shutdown.is_set)

    @property
    def is_finished(self) -> bool:
        """Whether its life is over: stopped, drained, `outcome` known."""
        return self._shell.machine.snapshot.finished

    @property
    def is_ready(self) -> bool:
        """Whether it could take work now; `ready_reason` says why not."""
        return self.state is WorkerState.RUNNING and not self._troubles

    @property
    def ready_reason(self) -> str:
        """Why the worker is ready or is not, for people and probes."""
        now = self._shell.machine.snapshot
        because = f": {now.reason}" if now.reason else ""
        troubles = "; ".join(list(self._troubles.values()))  # copied at once, as any thread may change them
        match now.state:
            case WorkerState.PENDING:
                return troubles or "not started yet"
            case WorkerState.RUNNING:
                return troubles or "running"
            case WorkerState.PAUSED:
                return f"paused{because}"
            case WorkerState.STOPPED:
                return f"{'finished' if now.finished else 'stopping'}{because}"

    @property
    def is_alive(self) -> bool:
        """Whether nothing is wrong that only a restart would mend; `alive_reason` says what is."""
        now = self._shell.machine.snapshot
        return now.failure is None and not now.finished

    @property
    def alive_reason(self) -> str:
        """Why the worker counts as alive or does not, for people and probes."""
        now = self._shell.machine.snapshot
        if now.failure is not None:
            return f"failed: {now.failure!r}"
        return f"finished: {now.outcome.value}" if now.outcome is not None else now.state.value

    def statistics(self) -> WorkerStatistics:
        """Return the worker's figures at this moment."""
        now = self._shell.machine.snapshot
        return WorkerStatistics(
            name=self.name,
            state=now.state,
            outcome=now.outcome,
            reason=now.reason,
            tasks=self._shell.ledger.count,
            accepted=self._shell.ledger.entered,
            children=len(self._shell.children),
            elapsed=time.monotonic() - self._born,
        )

    def __repr__(self) -> str:
        now = self._shell.machine.snapshot
        tasks = self.task_count
        parts = [f"{type(self).__name__} {self.name!r}", now.state.value, f"{tasks} task{'' if tasks == 1 else 's'}"]
        if now.outcome is not None:
            parts.append(now.outcome.value)
        elif now.stopping:
            left = self.time_left
            parts.append("no deadline" if left is None else f"{left:.1f} s left")
        return f"<{', '.join(parts)}>"
