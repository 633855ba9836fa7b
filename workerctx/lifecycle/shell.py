"""The shell around the machine: performs what transitions ask for, and sees a drain through to its end.

Everything that decides about the end of a worker's life happens in `settle`, on the worker's own loop; calls from
elsewhere change the machine and post `settle` there.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
from attrs import define, field

from workerctx.errors import InvalidTransition, WorkerFailed
from workerctx.lifecycle import events
from workerctx.lifecycle.herald import Herald
from workerctx.lifecycle.home import Home
from workerctx.lifecycle.latch import Latch
from workerctx.lifecycle.ledger import Ledger
from workerctx.lifecycle.overdue import report_overdue
from workerctx.lifecycle.state import Change, Effect, Machine, Snapshot, Step, earlier

if TYPE_CHECKING:
    from collections.abc import Generator

    from workerctx.lifecycle.host import Host
    from workerctx.lifecycle.signals import Outbox
    from workerctx.lifecycle.spawned import SpawnedTask, SpawnedWork

_log = logging.getLogger("workerctx")

OnChildFailure = Literal["forward", "contain"]

UNWINDING = 1.0
"""Seconds that scopes cancelled at the deadline have to unwind before what is still in is reported."""

_ranks: Final = count()
"""Tells which worker started before which; taking the next number is atomic."""


@define(eq=False)
class Shell:
    """One worker's inner life; `WorkerContext` is the face that it shows.

    Threads: the transitions may be called from any thread and from a signal handler.
    """

    machine: Machine
    outbox: Outbox
    grace: float | None
    """Seconds that a stop lets accepted work go on; None for ever."""
    max_tasks: int | None
    parent: Shell | None = None
    own_grace: bool = True
    """Whether `grace` bounds a stop of the parent too, being this worker's own."""
    on_failure: OnChildFailure = "forward"
    """Whether the parent fails with this worker or only hears of it."""
    ledger: Ledger = field(init=False)
    host: Host | None = field(default=None, init=False)
    children: dict[Shell, int] = field(factory=dict["Shell", int], init=False)
    """Children that have not finished, each with its rank in the order of starting."""
    spawned: dict[SpawnedTask[Any], SpawnedWork[Any]] = field(
        factory=dict["SpawnedTask[Any]", "SpawnedWork[Any]"], init=False
    )
    """Spawned tasks that have not ended, oldest first."""
    scopes: dict[anyio.CancelScope, None] = field(factory=dict[anyio.CancelScope, None], init=False)
    """Scopes of others that are cancelled at the deadline."""
    deadline: float = field(default=math.inf, init=False)
    """When the drain ends, in seconds of the loop's clock."""
    overdue: bool = field(default=False, init=False)
    """Whether the deadline passed before the work had ended."""
    released: bool = field(default=False, init=False)
    """Whether those who wait for the end may go on."""
    started: Latch = field(init=False)
    stopping: Latch = field(init=False)
    quiet: Latch = field(init=False)
    finished: Latch = field(init=False)
    _idle_stop: bool = field(default=False, init=False)
    _draining: bool = field(default=False, init=False)
    _reported: bool = field(default=False, init=False)
    _herald: Herald = field(init=False)

    def __attrs_post_init__(self) -> None:
        machine = self.machine
        self._herald = Herald(machine, self.outbox)
        self.ledger = Ledger(machine, self.outbox, self._look, self.max_tasks)
        self.started = Latch(lambda: machine.snapshot.started or machine.snapshot.stopping)
        self.stopping = Latch(lambda: machine.snapshot.stopping)
        self.quiet = Latch(lambda: self.is_quiet)
        self.finished = Latch(lambda: self.released)

    @property
    def is_quiet(self) -> bool:
        """Whether no task and no child is in."""
        return not self.ledger.count and not self.children

    def start(self) -> None:
        """PENDING to RUNNING, with this event loop as home."""
        outbox = self.outbox
        before = outbox.home
        # Ahead of the transition: another thread's next one must find the loop that listeners run on.
        outbox.home = before or Home.current()
        try:
            step = self.machine.start(time.monotonic())
        except InvalidTransition:
            outbox.home = before
            raise
        if self.parent is not None:
            self.parent.adopt(self)
        self._perform(step)
        if self._idle_stop:
            self._look()

    def adopt(self, child: Shell) -> None:
        """Count a child that was made, or that has just started, in; a stopped worker stops it at once."""
        self.children[child] = next(_ranks)
        now = self.machine.snapshot
        if now.stopping:
            child.stop_with_parent(now.reason, now.deadline)
        if child.released:
            self.children.pop(child, None)

    def pause(self, reason: str | None) -> None:
        """RUNNING to PAUSED."""
        self._perform(self.machine.pause(time.monotonic(), reason))

    def resume(self) -> None:
        """PAUSED to RUNNING."""
        self._perform(self.machine.resume(time.monotonic()))

    def stop(self, reason: str | None, deadline: float | None, failure: BaseException | None = None) -> bool:
        """Any state to STOPPED; True if this call did it. `deadline` is in `time.monotonic()` seconds."""
        step = self.machine.stop(time.monotonic(), reason, deadline, failure)
        if step.snapshot is None:
            return False
        # The stack goes on when a listener breaks one of the stops, and pops the last child first.
        with ExitStack() as stops:
            for child in sorted(self.children, key=lambda child: self.children.get(child, 0)):
                stops.callback(child.stop_with_parent, reason, deadline)
            self._perform(step)
        return step.snapshot.change is Change.STOP

    def stop_with_parent(self, reason: str | None, deadline: float | None) -> None:
        """Stop because the parent was stopped, by its deadline or by this worker's own grace if that is shorter."""
        own = None if self.grace is None or not self.own_grace else time.monotonic() + self.grace
        self.stop(reason, earlier(own, deadline))

    def stop_within(self, reason: str | None, grace: float | None) -> bool:
        """Stop, with a deadline `grace` seconds from now; None for no deadline."""
        return self.stop(reason, None if grace is None else time.monotonic() + grace)

    def fail(self, error: BaseException) -> bool:
        """Stop because the infrastructure failed, cancelling what is owned at once; True if this failure counts."""
        if self._is_known(error):
            return False
        try:
            self.stop(f"failed: {error!r}", time.monotonic(), error)
        finally:
            counts = self.machine.snapshot.failure is error
            if counts and self.parent is not None:
                self._tell_parent(self.parent, error)
        if not counts:
            _log.error("worker %r had failed or finished before this failure", self.machine.name, exc_info=error)
        return counts

    def stop_when_idle(self) -> None:
        """Stop as soon as no task is in, but not before the start."""
        self._idle_stop = True
        self._look()

    async def wait_quiet(self, latch: Latch) -> None:
        """Wait on `quiet` or `finished`; whoever waits at home also sees to it that an overdue drain is reported."""
        while not latch.holds():
            home = self.outbox.home
            if home is not None and home.is_current():
                await self._wait_patiently(latch)
            else:
                await latch.wait()

    async def _wait_patiently(self, latch: Latch) -> None:
        patience = self._patience
        with anyio.CancelScope(deadline=patience):
            await latch.wait(lambda: self._patience < patience)
        if anyio.current_time() >= self._patience:
            self._reported = True
            if not self.is_quiet:
                self.overdue = True
                report_overdue(self)

    @contextmanager
    def bounding(self, scope: anyio.CancelScope) -> Generator[None]:
        """Cancel `scope` at the deadline, while inside this context manager."""
        scope.deadline = min(scope.deadline, self.deadline)
        self.scopes[scope] = None
        try:
            yield
        finally:
            del self.scopes[scope]

    def settle(self) -> None:
        """See how far the drain is and take the next step of it.

        Threads: on the home loop, or anywhere once that is gone.
        """
        self.ledger.attentive = True
        now = self.machine.snapshot
        if not now.stopping:
            if self._idle_stop and now.started and self.is_quiet:
                self.stop_within("idle", self.grace)
            elif not self._idle_stop:
                self.ledger.attentive = bool(self.ledger.room.waiting)
            return
        self._bound(now)
        if not self.is_quiet:
            self._draining = True
            return
        self.quiet.wake()
        if self.host is None:
            here = Home.current()
            self.overdue |= self._draining and here is not None and here.now() >= self.deadline
            try:
                self.finish()
            finally:
                self.release()

    @property
    def _patience(self) -> float:
        """When work that is still in counts as work that nobody cancels; never again after that was looked into."""
        if self._reported:
            return math.inf
        return self.deadline + (UNWINDING if self.scopes else 0.0)

    def finish(self) -> None:
        """End the worker's life: nothing of it runs any more."""
        self._perform(self.machine.finish(time.monotonic(), overdue=self.overdue))

    def release(self) -> None:
        """Let everybody go on who waits for the end."""
        if self.machine.snapshot.finished and not self.released:
            self.released = True
            if undelivered := self.outbox.hang_up():
                _log.warning(
                    "worker %r ended before its async listeners had taken %d events", self.machine.name, undelivered
                )
            self.finished.wake()
            if self.parent is not None:
                self.parent.children.pop(self, None)
                self.parent._look()  # noqa: SLF001 - its own kind

    def abandon(self) -> None:
        """Stop for good without a word: after a fork this is the child process's copy."""
        started = self.machine.snapshot.started
        self.outbox.reset(silent=started)
        if started:
            self.machine.stop(time.monotonic(), "the process forked", None)
            self.machine.finish(time.monotonic(), overdue=not self.is_quiet)
            self.released = True

    def _is_known(self, error: BaseException) -> bool:
        known = self.machine.snapshot.failure
        return known is not None and (error is known or (isinstance(error, WorkerFailed) and error.__cause__ is known))

    def _tell_parent(self, parent: Shell, error: BaseException) -> None:
        if self.on_failure == "forward":
            parent.fail(error)
            return
        _log.error("child %r of worker %r failed", self.machine.name, parent.machine.name, exc_info=error)
        if parent.outbox.audience(events.Error):
            sequence = parent.machine.snapshot.sequence
            parent.outbox.put([events.Error(sequence=sequence, name=self.machine.name, seconds=0.0, error=error)])
            parent.outbox.flush()

    def _look(self) -> None:
        """Have `settle` called on the home loop, or here if there is none."""
        home = self.outbox.home
        if home is None or not home.post(self._settle_posted):
            self.settle()

    def _settle_posted(self) -> None:
        try:
            self.ledger.fold()
            self.settle()
        except BaseException as exc:  # noqa: BLE001 - a callback of the loop has nobody to raise to
            self.fail(exc)

    def _bound(self, now: Snapshot) -> None:
        home = self.outbox.home
        if now.deadline is None or home is None or not home.is_current():
            return
        # Counted from the call, not from now: the loop may have been busy since.
        left = max(0.0, now.deadline - time.monotonic())
        deadline = min(self.deadline, home.now() + left)
        if deadline == self.deadline:
            return
        self.deadline = deadline
        for scope in self.scopes:
            scope.deadline = min(scope.deadline, deadline)
        if self.host is not None:
            self.host.bound(deadline)
        self.quiet.wake()
        self.finished.wake()

    def _perform(self, step: Step) -> None:
        made = step.snapshot
        if made is None:
            return
        if Effect.ANNOUNCE in step.effects:
            self._herald.tell(made)
        if Effect.WAKE in step.effects:
            for latch in (self.ledger.gate, self.started, self.stopping, self.ledger.room):
                latch.wake()
        if Effect.FINISH in step.effects:
            try:
                self._perform(self.machine.finish(time.monotonic()))
            finally:
                self.release()
        if Effect.BOUND in step.effects:
            self._look()
        if Effect.ANNOUNCE in step.effects:
            self.outbox.flush()
