"""Hosting: what ``async with context`` does.

Two task groups, one inside the other, and their nesting is the order of shutdown: the inner one holds the body and the
spawned tasks and is cancelled at the deadline; the outer one holds the async listeners, which must still hear how the
inner one ended.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import anyio
from attrs import define, field

from workerctx.errors import WorkerFailed
from workerctx.lifecycle import signals
from workerctx.lifecycle.state import Outcome, WorkerState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from workerctx.lifecycle.context import WorkerContext
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
    work: TaskGroup = field(factory=anyio.create_task_group, init=False)
    """The body and the spawned tasks."""
    _ears: TaskGroup = field(factory=anyio.create_task_group, init=False)

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[WorkerContext]:
        """Start the worker, run the body of the ``async with``, stop and drain."""
        shell = self._shell
        try:
            async with self._ears:
                for listener in shell.outbox.listeners:
                    self.listen(listener)
                async with self._working():
                    yield self._context
                await shell.wait_quiet(shell.quiet)
                shell.finish()
                self._hush()
        except BaseException as exc:
            error = collapse(exc)
            if not isinstance(error, anyio.get_cancelled_exc_class()):
                shell.fail(error)
            if error is exc:
                raise
            raise error from error.__cause__
        finally:
            shell.host = None
            shell.settle()
            shell.release()
            self._report_undelivered()
        failed = failure_of(shell)
        if failed is not None:
            raise failed

    @asynccontextmanager
    async def _working(self) -> AsyncGenerator[None]:
        """Run the body beside the spawned tasks, and see all of them end, at the deadline at the latest."""
        shell = self._shell
        async with self.work:
            if shell.machine.snapshot.state is WorkerState.PENDING:
                shell.start()
            try:
                yield
                shell.stop_within("the body of its async with block ended", shell.grace)
                if not shell.is_quiet:
                    await shell.quiet.wait()
            except anyio.get_cancelled_exc_class():
                if not self.work.cancel_scope.cancel_called:
                    shell.stop_within("cancelled from outside", 0.0)
                    shell.overdue = True
                raise
            except BaseException as exc:
                shell.fail(exc)
                raise
        shell.overdue |= self.work.cancel_scope.cancelled_caught

    def listen(self, listener: Listener) -> None:
        """Serve an async listener; a sync one needs no serving."""
        if listener.mailbox is not None:
            self._ears.start_soon(
                signals.serve,
                self._context,
                self._shell.outbox,
                listener,
                name=f"listener {listener.function!r}",
            )

    def bound(self, deadline: float) -> None:
        """Cancel the work at `deadline`, in seconds of the loop's clock, unless that comes sooner anyway."""
        scope = self.work.cancel_scope
        scope.deadline = min(scope.deadline, deadline)

    def _hush(self) -> None:
        """Let the async listeners take what is queued for them and end."""
        self._ears.cancel_scope.deadline = max(self._shell.deadline, anyio.current_time() + LISTENER_TAIL)
        for mailbox in self._mailboxes():
            mailbox.close()

    def _report_undelivered(self) -> None:
        if undelivered := sum(len(mailbox) for mailbox in self._mailboxes()):
            _log.warning("worker %r ended before async listeners took %d events", self._context.name, undelivered)

    def _mailboxes(self) -> list[signals.Mailbox]:
        return [listener.mailbox for listener in self._shell.outbox.listeners if listener.mailbox is not None]


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


def collapse(error: BaseException) -> BaseException:
    """Unwrap exception groups of one member."""
    group: object = error
    if isinstance(group, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", group).exceptions
        if len(members) == 1:
            return collapse(members[0])
    return error
