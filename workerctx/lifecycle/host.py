"""Hosting: what ``async with context`` does.

Two task groups, one inside the other, and their nesting is the order of shutdown: the inner one holds the body and the
spawned tasks and is cancelled at the deadline; the outer one holds the async listeners, which must still hear how the
inner one ended.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from attrs import define, field

from workerctx.errors import WorkerFailed
from workerctx.lifecycle import signals
from workerctx.lifecycle.groups import collapse
from workerctx.lifecycle.latch import Latch
from workerctx.lifecycle.spawned import reap
from workerctx.lifecycle.state import Outcome, WorkerState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from workerctx.lifecycle.context import WorkerContext
    from workerctx.lifecycle.home import Home
    from workerctx.lifecycle.shell import Shell
    from workerctx.lifecycle.signals import Listener

_log = logging.getLogger("workerctx")

LISTENER_TAIL = 0.25
"""Seconds that async listeners have, after the work has unwound, to hear of a deadline that has passed."""


@define(eq=False)
class Host:
    """The task groups of one entered context."""

    _context: WorkerContext
    _shell: Shell
    _home: Home
    work: TaskGroup = field(factory=anyio.create_task_group, init=False)
    """The body and the spawned tasks."""
    _ears: TaskGroup = field(factory=anyio.create_task_group, init=False)
    _served: dict[Listener, anyio.CancelScope] = field(factory=dict["Listener", anyio.CancelScope], init=False)
    """The async listeners, each in a scope that only the host cancels."""
    _arrivals: deque[Listener] = field(factory=deque["Listener"], init=False)
    _arrived: Latch = field(init=False)
    _ushering: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _deaf: Latch = field(init=False)
    """Holds while there are no async listeners."""
    _hushed: bool = field(default=False, init=False)
    _tail: anyio.CancelScope | None = field(default=None, init=False)
    """Around the wait for async listeners at the end."""
    _body: int = field(factory=lambda: anyio.get_current_task().id, init=False)

    def __attrs_post_init__(self) -> None:
        served, arrivals = self._served, self._arrivals  # not self: a cycle would keep the context from being freed
        self._arrived = Latch(lambda: bool(arrivals))
        self._deaf = Latch(lambda: not served and not arrivals)

    def is_body(self) -> bool:
        """Tell whether this is the task that runs the body of the ``async with``."""
        try:
            return anyio.get_current_task().id == self._body
        except RuntimeError:  # another loop, or a bare callback
            return False

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[WorkerContext]:
        """Start the worker, run the body of the ``async with``, stop and drain."""
        shell = self._shell
        error: BaseException | None = None
        try:
            async with self._ears:
                for listener in shell.outbox.listeners:
                    self.listen(listener)
                self._ears.start_soon(self._usher, name="usher of listeners")
                try:
                    try:
                        async with self._working():
                            yield self._context
                        await shell.wait_quiet(shell.quiet)
                        await self._end(self._shell.deadline)
                    except BaseException as exc:
                        self._note(exc)
                        await self._end(-math.inf, shielded=True)
                        raise
                finally:
                    for scope in (self._ushering, *self._served.values()):
                        scope.cancel()
        except BaseException as exc:  # noqa: BLE001 - raised below, where its context is left alone
            error = collapse(exc)
            self._note(error)
        try:
            shell.host = None
            shell.settle()
            error = error or failure_of(shell)
            if error is not None:
                raise error
        finally:
            del error

    @asynccontextmanager
    async def _working(self) -> AsyncGenerator[None]:
        """Run the body beside the spawned tasks, and see all of them end, at the deadline at the latest."""
        shell = self._shell
        try:
            async with self.work:
                scope = self.work.cancel_scope
                if shell.machine.snapshot.state is WorkerState.PENDING:
                    shell.start()
                try:
                    yield
                    if not shell.machine.snapshot.stopping:  # a stop before had its own word about the grace
                        shell.stop_within("the body of its async with block ended", shell.grace)
                    if not shell.is_quiet:
                        await shell.quiet.wait()
                except BaseException as exc:
                    if not (is_cancellation(exc) and scope.cancel_called):
                        self._note(exc)
                    raise
        finally:
            reap(shell)
        if not shell.machine.snapshot.stopping:
            # asyncio cancels a whole task group when one of its tasks is cancelled before its first step.
            _log.error("worker %r was stopped by a native cancellation of one of its tasks", shell.machine.name)
            shell.stop_within("a task was cancelled natively before it began", 0.0)
        shell.overdue |= self.work.cancel_scope.cancelled_caught

    def _note(self, error: BaseException) -> None:
        """Stop the worker for what ended it: a cancellation from outside, or a failure."""
        error = collapse(error)
        if not is_cancellation(error):
            self._shell.fail(error)
        elif not self._shell.machine.snapshot.finished:
            self._shell.overdue = True
            self._shell.stop_within("cancelled from outside", 0.0)

    def listen(self, listener: Listener) -> None:
        """Serve an async listener; a sync one needs no serving.

        Threads: any thread.
        """
        if listener.mailbox is not None and not self._hushed:
            self._arrivals.append(listener)
            self._arrived.wake()

    async def _usher(self) -> None:
        """Start a task for each async listener that arrives: a thread or a bare callback cannot do so itself."""
        with self._ushering:
            while True:
                await self._arrived.wait()
                listener = self._arrivals[0]
                if listener.mailbox is not None and not listener.mailbox.is_served:
                    listener.mailbox.is_served = True
                    # Shielded: a cancellation of the host is itself something that they are to hear of.
                    self._served[listener] = anyio.CancelScope(shield=True)
                    self._ears.start_soon(self._serve, listener, name=f"listener {listener.function!r}")
                self._arrivals.popleft()
                self._deaf.wake()

    async def _serve(self, listener: Listener) -> None:
        try:
            with self._served[listener]:
                await signals.serve(self._context, self._shell.outbox, listener)
        finally:
            del self._served[listener]
            self._deaf.wake()

    def bound(self, deadline: float) -> None:
        """Cancel the work at `deadline`, in seconds of the loop's clock, unless that comes sooner anyway."""
        scope = self.work.cancel_scope
        scope.deadline = min(scope.deadline, deadline)
        self._bound_tail(deadline)

    def _bound_tail(self, deadline: float) -> None:
        if self._tail is not None:
            self._tail.deadline = min(self._tail.deadline, max(deadline, self._home.now() + LISTENER_TAIL))

    async def _end(self, deadline: float, *, shielded: bool = False) -> None:
        """Finish if nothing is in, and let the async listeners take what is queued for them."""
        if self._shell.is_quiet:
            self._shell.finish()
        self._hushed = True
        for listener in self._shell.outbox.listeners:
            if listener.mailbox is not None:
                listener.mailbox.close()
        if not self._deaf.holds():
            with anyio.CancelScope(shield=shielded) as self._tail:
                self._bound_tail(deadline)  # later changes come by themselves
                await self._deaf.wait()


def is_cancellation(error: BaseException) -> bool:
    """Tell whether this is how the event loop cancels a task."""
    return isinstance(error, anyio.get_cancelled_exc_class())


def failure_of(shell: Shell) -> WorkerFailed | None:
    """Make the error that a failed worker raises to whoever waits for it; None if it did not fail."""
    now = shell.machine.snapshot
    if now.outcome is not Outcome.FAILED:
        return None
    error = WorkerFailed(
        f"worker {shell.machine.name!r} failed: {now.failure!r}; see __cause__, and start a new one to go on"
    )
    error.__cause__ = now.failure
    return error
