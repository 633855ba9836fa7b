"""Tasks that a worker owns: spawned into its task group, counted, named, cancelled at its deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Coroutine, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

import anyio
import anyio.lowlevel

from workerctx.errors import TaskCancelled
from workerctx.lifecycle.groups import is_cancelled_here
from workerctx.lifecycle.latch import Latch
from workerctx.lifecycle.tracked import Tracked, close_coroutine

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from anyio import TaskHandle
    from anyio.abc import TaskGroup

    from workerctx.lifecycle.ledger import Ledger
    from workerctx.lifecycle.shell import Shell

T_co = TypeVar("T_co", covariant=True)

_log = logging.getLogger("workerctx")

_COROUTINE: type[object] = CoroutineType


class _Life(TypedDict, Generic[T_co], total=False):
    latch: Latch
    end: tuple[T_co | None, BaseException | None, TracebackType | None]


class SpawnedTask(Awaitable[T_co], Generic[T_co]):
    """The handle of a spawned task; made by `WorkerContext.spawn`.

    Awaiting it returns the task's result or raises what the task raised, as often as wanted and from any event loop.

    Cancellation: cancelling a waiter does not touch the task.
    """

    __slots__ = ("__weakref__", "_began", "_handle", "_life", "essential", "name")

    def __init__(self, name: str, *, essential: bool) -> None:
        self.name: str = name
        self.essential: bool = essential
        self._began = time.monotonic()
        self._life: _Life[T_co] = {}
        self._handle: TaskHandle[None] | None = None

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Wait for the task.

        Raises:
            TaskCancelled: the task was cancelled before it had a result.
        """
        return self._wait().__await__()

    async def _wait(self) -> T_co:
        if self.done:
            await anyio.lowlevel.checkpoint()
        else:
            # Most handles are never awaited. setdefault is atomic: all waiters share one latch.
            await self._life.setdefault("latch", _until_end(self._life)).wait()
        end = self._life.get("end")
        assert end is not None
        result, failure, traceback = end
        if failure is not None:
            try:
                raise failure.with_traceback(traceback)  # or it would grow with each waiter
            finally:
                del end, failure, traceback, self  # they would hold each other through the traceback
        return result  # type: ignore[return-value] # pyright: ignore[reportReturnType] - without a failure there is one

    def cancel(self) -> None:
        """Cancel the task; harmless once it has ended.

        Threads: the worker's event loop only.
        """
        if self._handle is not None:
            self._handle.cancel()

    @property
    def age(self) -> float:
        """Seconds since the task was spawned."""
        return time.monotonic() - self._began

    @property
    def done(self) -> bool:
        """Whether the task has ended."""
        return "end" in self._life

    def attach(self, handle: TaskHandle[None]) -> None:
        """Remember what cancels the task."""
        self._handle = handle

    def end(self, result: T_co | None, failure: BaseException | None) -> None:  # pyright: ignore[reportGeneralTypeIssues] - set once by its runner
        """Record the result, or what the task raised."""
        self._handle = None
        self._life["end"] = (result, failure, None if failure is None else failure.__traceback__)
        # Those who come now see the end for themselves.
        latch = self._life.pop("latch", None)
        if latch is not None:
            latch.wake()

    def never_ran(self) -> None:
        """Record that the task was cancelled before its first step."""
        if self._handle is not None:
            self._handle.coro.close()
        self.end(None, cancelled(self))

    def __repr__(self) -> str:
        return f"<SpawnedTask {self.name!r} {'ended' if self.done else 'running'}>"


class SpawnedWork(Tracked[T_co]):
    """The counted side of a spawned task."""

    __slots__ = ("_name",)

    def __init__(self, ledger: Ledger, inner: Awaitable[T_co], name: str) -> None:
        super().__init__(ledger, inner)
        self._name = name

    @property
    def label(self) -> str:
        """The name that the task was spawned under."""
        return self._name


def _until_end(life: _Life[Any]) -> Latch:
    return Latch(lambda: "end" in life)


def begin(shell: Shell, task: SpawnedTask[T_co], group: TaskGroup, work: Coroutine[Any, Any, T_co]) -> None:
    """Count a spawned task and start it; nothing is left of one that the event loop cannot make."""
    shell.ledger.entered += 1
    shell.spawned[task] = counted = SpawnedWork(shell.ledger, work, task.name)
    running = run(shell, task, counted)
    try:
        task.attach(group.create_task(running, name=task.name))
    except BaseException:  # such as in a callback that the event loop calls outside of any task
        running.close()
        del shell.spawned[task]
        counted.close()
        raise


async def run(shell: Shell, task: SpawnedTask[T_co], work: SpawnedWork[T_co]) -> None:
    """Run a spawned task to its end and record it."""
    try:
        result = await work
    except Exception as exc:  # noqa: BLE001 - kept in the handle, logged, told to listeners
        _log.error("task %r of worker %r failed", task.name, shell.machine.name, exc_info=exc)
        task.end(None, exc)
        if task.essential:
            shell.fail(exc)
    except anyio.get_cancelled_exc_class():
        task.end(None, cancelled(task))
        # A native cancellation of this one task would take the whole group down; no scope asked for that.
        if is_cancelled_here():
            raise
    except BaseException as exc:
        task.end(None, exc)
        shell.fail(exc)
        raise
    else:
        task.end(result, None)
    finally:
        shell.spawned.pop(task, None)
        del task, work  # a failure's traceback would hold them, and the handle the failure


def reap(shell: Shell) -> None:
    """Account for tasks that ended before their first step, as native cancellations make them; the group is over."""
    for task, work in list(shell.spawned.items()):
        work.close()
        task.never_ran()
        shell.spawned.pop(task, None)


def coroutine_of(func: Callable[..., Coroutine[Any, Any, T_co]], args: tuple[Any, ...]) -> Coroutine[Any, Any, T_co]:
    """Call `func` and insist on a coroutine.

    Raises:
        TypeError: `func` is a coroutine already, or does not make one.
    """
    given: object = func
    if not callable(given):
        close_coroutine(given)
        raise TypeError(f"spawn() takes a function and its arguments, not {given!r}: write spawn(func, *args)")
    work = func(*args)
    # The exact type first: asking the abstract class takes a noticeable part of a spawn.
    if type(work) is not _COROUTINE and not isinstance(work, Coroutine):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers exist
        raise TypeError(f"spawn() needs an async function, but {func!r} returned {work!r}: wrap it in one")
    return work


def cancelled(task: SpawnedTask[Any]) -> TaskCancelled:
    """Make the error for those who await a task that was cancelled."""
    return TaskCancelled(
        f"task {task.name!r} was cancelled before it had a result: spawn it again if it is still wanted"
    )
