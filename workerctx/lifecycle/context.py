"""`WorkerContext`: one worker, as its users see it."""

from __future__ import annotations

import inspect
import sys
import warnings
import weakref
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.lowlevel

from workerctx.errors import NotAccepting
from workerctx.lifecycle import forks
from workerctx.lifecycle.control import OWN_GRACE, OwnGrace, WorkerControl, seconds_of
from workerctx.lifecycle.home import Home
from workerctx.lifecycle.host import Host
from workerctx.lifecycle.pulling import UntilStopped
from workerctx.lifecycle.shell import OnChildFailure, Shell
from workerctx.lifecycle.signals import Outbox
from workerctx.lifecycle.spawned import SpawnedTask, begin, coroutine_of
from workerctx.lifecycle.state import Machine, WorkerState
from workerctx.lifecycle.tracked import Tracked, close_coroutine, label_of
from workerctx.lifecycle.waiting import refuse_self_await, wait_finished

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from datetime import timedelta
    from types import TracebackType

    from workerctx.lifecycle.carried import CarriesData
    from workerctx.lifecycle.events import Event
    from workerctx.lifecycle.shutdown import Shutdown

T = TypeVar("T")

_RUNNING = WorkerState.RUNNING
_COROUTINE: type[object] = CoroutineType


class WorkerContext(WorkerControl):
    """An awaitable worker: it counts tasks, holds new ones back while paused, drains on stop, tells its listeners.

    ``async with ctx`` hosts it: it starts, and leaving the block stops it and waits until everything it accepted has
    ended, at the latest until the deadline, when it cancels what it owns. `start` alone gives an unhosted context: it
    tracks, waits and tells sync listeners, but owns no tasks. ``await ctx`` waits for the end of its life.

    Args:
        name: for people and logs.
        grace: seconds, or a timedelta, that a stop lets accepted work go on; 0 cancels at once, None waits for ever.
        max_tasks: how many tasks may be in before `until_stopped` stops pulling; None for no limit.
        service: what the worker serves, for people and logs.
        shutdown: a token that stops this worker when it is set.

    Raises:
        ValueError: a negative `grace`, or a `max_tasks` below 1.

    Threads: every sync method but `track`, `spawn`, `child` and `tell` may be called from any thread, from another
        event loop and from a signal handler. Listeners run on the worker's own loop: that of `start` or ``async with``.
    """

    def __init__(
        self,
        name: str = "worker",
        *,
        grace: float | timedelta | None = 30.0,
        max_tasks: int | None = None,
        service: str | None = None,
        shutdown: Shutdown | None = None,
    ) -> None:
        if max_tasks is not None and max_tasks < 1:
            raise ValueError(f"max_tasks must be at least 1, not {max_tasks}: leave it out for no limit")
        this: weakref.ref[WorkerContext] = weakref.ref(self)

        def crashed(error: BaseException) -> None:
            context = this()
            if context is not None:
                context.fail(error)

        outbox = Outbox(this, crashed)
        shell = Shell(Machine(name), outbox, grace=seconds_of(grace), max_tasks=max_tasks)
        super().__init__(shell, service, shutdown)
        self._hosting: AbstractAsyncContextManager[WorkerContext] | None = None
        forks.remember(self._shell)
        if shutdown is not None:
            shutdown.attach(self)

    @classmethod
    def from_request(cls, request: CarriesData) -> Self:
        """Return the worker that a request carries in its typed data.

        Raises:
            MissingData: it carries none.
        """
        return request.data.require(cls)

    # Work

    def track(self, awaitable: Awaitable[T]) -> Tracked[T]:
        """Count a coroutine, future or other awaitable until it ends; await what this returns.

        Accepted from the start; while the worker is pending or paused it is held before it begins.

        Raises:
            NotAccepting: the worker is stopped; a coroutine is closed.
            TypeError: not an awaitable.

        Threads: the worker's event loop only.
        """
        shell = self._shell
        now = shell.machine.tip
        ledger = shell.ledger
        if (
            now.following
            or now.state is not _RUNNING
            or type(awaitable) is not _COROUTINE
            or ledger.outbox.home is None
        ):
            awaitable = self._admit(awaitable)
        ledger.entered += 1
        return Tracked(ledger, awaitable)

    def spawn(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        name: str | None = None,
        essential: bool = False,
    ) -> SpawnedTask[T]:
        """Run ``func(*args)`` as a task of the worker's own: tracked, named, cancelled at the deadline.

        If it raises, that is an `Error` event, is logged, and is raised to whoever awaits the handle.

        Args:
            func: an async function.
            args: its positional arguments.
            name: for people and logs; the function's name by default.
            essential: whether its failure fails the worker.

        Raises:
            InvalidTransition: the worker is not hosted.
            NotAccepting: the worker is stopped.
            TypeError: `func` is not an async function.

        Threads: the worker's event loop only.
        """
        shell = self._shell
        host = shell.host
        now = shell.machine.tip
        if host is None or ((now.following or now.state is not _RUNNING) and shell.machine.snapshot.stopping):
            close_coroutine(func)
            raise self._refusal("spawn in", label_of(func))
        work = coroutine_of(func, args)
        task: SpawnedTask[T] = SpawnedTask(name or label_of(func), essential=essential)
        begin(shell, task, host.work, work)
        return task

    def child(
        self,
        name: str,
        *,
        grace: float | timedelta | OwnGrace | None = OWN_GRACE,
        max_tasks: int | None = None,
        service: str | None = None,
        on_failure: OnChildFailure = "forward",
    ) -> WorkerContext:
        """Make a worker that stops when this one stops and that this one waits for; enter or start it yourself.

        Args:
            name: for people and logs.
            grace: seconds, or a timedelta; when this worker is stopped, the earlier of its deadline and this grace
                counts. This worker's own by default.
            max_tasks: as for `WorkerContext`.
            service: as for `WorkerContext`.
            on_failure: ``forward``: the child's failure fails the parent; ``contain``: the parent reports it as an
                `Error` event.

        Raises:
            InvalidTransition: this worker is not hosted. The child of a stopped worker is made, and is stopped.

        Threads: the worker's event loop only.
        """
        shell = self._shell
        if shell.host is None:
            raise self._refusal("make a child of", name)
        made = WorkerContext(
            name, grace=shell.grace if grace is OWN_GRACE else grace, max_tasks=max_tasks, service=service
        )
        inner = made._shell
        inner.parent = shell
        inner.own_grace = grace is not OWN_GRACE
        inner.on_failure = on_failure
        shell.adopt(inner)
        return made

    def cancel_at_deadline(self, scope: anyio.CancelScope) -> AbstractContextManager[None]:
        """Cancel `scope` at the worker's deadline, while inside the context manager that this returns.

        For work that is tracked here and runs in a task of somebody else, such as a server's: the deadline then ends
        it as it ends the worker's own tasks.

        Threads: the worker's event loop only.
        """
        return self._shell.bounding(scope)

    # Telling

    def hears(self, event_type: type[Event]) -> bool:
        """Tell whether anybody listens for events of this type; if not, there is no need to make one."""
        return self._shell.outbox.audience(event_type)

    def tell(self, event: Event) -> None:
        """Do `emit` where there are very many events: without the search for the worker's event loop.

        Threads: the worker's event loop only, and no signal handler.
        """
        self._shell.outbox.send(event)

    # Waiting

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until the worker is stopped and all its tasks have ended.

        In the body of its own ``async with`` this returns before the worker has finished; elsewhere, after.

        Raises:
            WorkerFailed: its infrastructure failed.
            SelfAwait: one of its own tasks or listeners awaits it.

        Cancellation: never touches the worker.
        """
        refuse_self_await(self._shell)
        return wait_finished(self._shell).__await__()

    async def wait_started(self) -> None:
        """Return once the worker was started, or stopped without a start.

        Cancellation: never touches the worker.
        """
        await self._shell.started.wait()

    async def wait_stopping(self) -> None:
        """Return once a stop was asked for.

        Cancellation: never touches the worker.
        """
        await self._shell.stopping.wait()

    async def sleep(self, seconds: float) -> bool:
        """Sleep, but no longer than until a stop is asked for.

        Returns:
            Whether it slept in full.
        """
        with anyio.move_on_after(seconds):
            await self._shell.stopping.wait()
            return False
        return True

    def until_stopped(self, source: AsyncIterable[T]) -> UntilStopped[T]:
        """Iterate over `source` until a stop is asked for.

        Nothing is pulled while the worker is paused or `max_tasks` are in. At stop the pending pull is cancelled, so
        the source must not lose an item when that happens.
        """
        return UntilStopped(self._shell.ledger, self._shell.stopping, source)

    # Inside

    async def __aenter__(self) -> Self:
        """Host the worker, and start it if it is pending.

        Raises:
            InvalidTransition: it is stopped, entered already, or was started on another event loop.
        """
        shell = self._shell
        if shell.machine.snapshot.stopping:
            raise shell.machine.refuse("enter")
        if shell.host is not None:
            raise shell.machine.refuse("enter", "it is entered already, make another worker")
        here = Home(anyio.lowlevel.current_token().native_token)
        if shell.outbox.home is not None and shell.outbox.home.native is not here.native:
            raise shell.machine.refuse("enter", "it was started on another event loop, so enter it there")
        shell.outbox.home = here
        shell.host = Host(self, shell, here)
        self._hosting = shell.host.run()
        await self._hosting.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        """Stop and drain the worker.

        Raises:
            WorkerFailed: its infrastructure failed; what the body raises leaves as it is.

        Cancellation: stops it with grace 0 and is raised again when what the worker owns has unwound.
        """
        hosting, self._hosting = self._hosting, None
        if hosting is None:
            raise self._shell.machine.refuse("leave", "it was not entered")
        return await hosting.__aexit__(kind, exc, tb)

    def _admit(self, awaitable: Awaitable[T]) -> Awaitable[T]:
        if self._shell.machine.snapshot.stopping:
            label = label_of(awaitable)
            close_coroutine(awaitable)
            raise self._not_accepting(label)
        self._shell.ledger.adopt_home()
        if hasattr(awaitable, "__await__"):
            return awaitable
        if inspect.isawaitable(awaitable):  # an old generator-based coroutine
            return _awaiting(awaitable)
        raise TypeError(f"track() takes a coroutine or another awaitable, not {awaitable!r}: call the function")

    def _refusal(self, operation: str, label: str) -> Exception:
        if self._shell.machine.snapshot.stopping:
            return self._not_accepting(label)
        return self._shell.machine.refuse(operation, "it has no task group yet, so enter it: async with ctx")

    def _not_accepting(self, label: str) -> NotAccepting:
        now = self._shell.machine.snapshot
        because = f" ({now.reason})" if now.reason else ""
        return NotAccepting(
            f"worker {self.name!r} takes no more work, it is {'finished' if now.finished else 'stopping'}{because}:"
            f" {label} was not run, hand it to another worker"
        )

    def __del__(self) -> None:
        shell: Shell | None = getattr(self, "_shell", None)
        if shell is None or sys.is_finalizing():
            return
        now = shell.machine.snapshot
        if now.started and not now.finished:
            warnings.warn(
                f"worker {self.name!r} was dropped while {now.state.value}: stop it and await it, or use async with",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )


async def _awaiting(awaitable: Awaitable[T]) -> T:
    return await awaitable
