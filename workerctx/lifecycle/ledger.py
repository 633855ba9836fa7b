"""Who is in: the count of a worker's tasks, and the gate in front of them.

The numbers are plain integers that only the worker's own event loop changes, so counting needs no lock. What another
thread may do, the garbage collector dropping a tracked task, goes through a deque. The decision that a drain is
complete is taken on the same loop, so no task can slip in between.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from attrs import define, field

from workerctx.errors import NotAccepting
from workerctx.lifecycle.home import Home
from workerctx.lifecycle.latch import Latch
from workerctx.lifecycle.state import Machine, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.lifecycle.signals import Outbox

_FOLD_EVERY = 1024
_HELD = frozenset({WorkerState.PENDING, WorkerState.PAUSED})


@define(eq=False)
class Ledger:
    """Counts the tasks of one worker.

    Args:
        machine: the worker's state.
        outbox: where the tasks' events go.
        on_empty: called, in any thread, when the last task has left while somebody wants to know, and now and then.
        max_tasks: how many tasks make it full; None for no limit.
    """

    machine: Machine
    outbox: Outbox
    _on_empty: Callable[[], None]
    max_tasks: int | None
    entered: int = field(default=0, init=False)
    left: int = field(default=0, init=False)
    attentive: bool = field(default=False, init=False)
    """Whether somebody wants to know when tasks leave."""
    gate: Latch = field(init=False)
    """Holds while work may begin."""
    room: Latch = field(init=False)
    """Holds while the worker is not full, and for ever once it is stopping."""
    _dropped: deque[None] = field(factory=deque[None], init=False)

    def __attrs_post_init__(self) -> None:
        self.gate = Latch(lambda: self.machine.snapshot.state not in _HELD)
        self.room = Latch(lambda: not self.full or self.machine.snapshot.stopping)

    @property
    def count(self) -> int:
        """How many tasks are in."""
        return self.entered - self.left - len(self._dropped)

    @property
    def sequence(self) -> int:
        """The number of the worker's latest transition."""
        return self.machine.snapshot.sequence

    @property
    def full(self) -> bool:
        """Whether `max_tasks` are in."""
        return self.max_tasks is not None and self.count >= self.max_tasks

    def leave(self) -> None:
        """Tell those who want to know that a task has left."""
        if not self.count:
            self._on_empty()
        if self.room.waiting:
            self.room.wake()

    def drop(self) -> None:
        """Count out a task that was closed or collected, in whatever thread that happened."""
        self._dropped.append(None)
        if self.attentive or self.machine.snapshot.stopping:
            self.leave()
        elif not len(self._dropped) % _FOLD_EVERY:
            self._on_empty()

    def fold(self) -> None:
        """Count the dropped tasks among those that left, so that they take no memory.

        Threads: the worker's event loop only.
        """
        while self._dropped:
            self._dropped.popleft()
            self.left += 1

    def adopt_home(self) -> None:
        """Make this event loop the worker's home if it was started where there was none."""
        if self.outbox.home is None and self.machine.snapshot.started:
            self.outbox.home = Home.current()

    async def pass_gate(self, label: str) -> None:
        """Wait until work may begin.

        Raises:
            NotAccepting: the worker was stopped before it ever ran.
        """
        if not self.gate.holds():
            await self.gate.wait()
        self.adopt_home()
        now = self.machine.snapshot
        if now.stopping and not now.started:
            raise NotAccepting(
                f"worker {self.machine.name!r} was stopped before it started, so {label} was closed without running:"
                " start the worker before you stop it, or hand the work to another one"
            )
