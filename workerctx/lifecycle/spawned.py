"""Tasks that a worker owns: spawned into its task group, counted, named, cancelled at its deadline."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Awaitable, Coroutine, Generator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from workerctx.errors import TaskCancelled
from workerctx.lifecycle.latch import Latch
from workerctx.lifecycle.tracked import Tracked, close_awaitable

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import TaskHandle

    from workerctx.lifecycle.ledger import Ledger

T_co = TypeVar("T_co", covariant=True)

_log = logging.getLogger("workerctx")

_COROUTINE: type[object] = CoroutineType


class SpawnedTask(Awaitable[T_co], Generic[T_co]):
    """The handle of a spawned task; made by `WorkerContext.spawn`.

    Awaiting it returns the task's result or raises what the task raised, as often as wanted and from any event loop.

    Cancellation: cancelling a waiter does not touch the task.
    """

    __slots__ = (
        "__weakref__",
        "_began",
        "_done",
        "_failure",
        "_handle",
        "_latch",
        "_result",
        "essential",
        "name",
    )

    _result: T_co

    def __init__(self, name: str, *, essential: bool) -> None:
        self.name = name
        self.essential = essential
        self._began = time.monotonic()
        self._done = False
        self._failure: BaseException | None = None
        self._latch: Latch | None = None
        self._handle: weakref.ref[TaskHandle[None]] | None = None

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Wait for the task.

        Raises:
            TaskCancelled: the task was cancelled before it had a result.
        """
        return self._wait().__await__()

    async def _wait(self) -> T_co:
        if self._latch is None:
            self._latch = Latch(lambda: self._done)
        await self._latch.wait()
        if self._failure is not None:
            raise self._failure
        return self._result

    def cancel(self) -> None:
        """Cancel the task; harmless once it has ended.

        Threads: the worker's event loop only.
        """
        handle = None if self._handle is None else self._handle()
        if handle is not None:
            handle.cancel()

    @property
    def age(self) -> float:
        """Seconds since the task was spawned."""
        return time.monotonic() - self._began

    @property
    def done(self) -> bool:
        """Whether the task has ended."""
        return self._done

    def attach(self, handle: TaskHandle[None]) -> None:
        """Remember what cancels the task."""
        # Weakly: the group's handle keeps the coroutine, whose end is what tells us of a task that never took a step.
        self._handle = weakref.ref(handle)

    def succeed(self, result: T_co) -> None:  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues] - set once by its runner
        """Record the result."""
        self._result = result
        self._end()

    def fail(self, error: BaseException) -> None:
        """Record what the task raised."""
        self._failure = error
        self._end()

    def _end(self) -> None:
        self._done = True
        if self._latch is not None:
            self._latch.wake()

    def __repr__(self) -> str:
        return f"<SpawnedTask {self.name!r} {'ended' if self._done else 'running'}>"


class SpawnedWork(Tracked[T_co]):
    """The counted side of a spawned task."""

    __slots__ = ("_task", "_tasks")

    def __init__(
        self,
        ledger: Ledger,
        inner: Awaitable[T_co],
        task: SpawnedTask[T_co],
        tasks: dict[SpawnedTask[Any], None],
    ) -> None:
        super().__init__(ledger, inner)
        self._task = task
        self._tasks = tasks
        tasks[task] = None

    def __del__(self) -> None:
        # Only a native cancellation before the task's first step gets here without having begun.
        if not self.running:
            self.close()
            self.forget()
            self._task.fail(_cancelled(self._task))

    @property
    def label(self) -> str:
        """The name that the task was spawned under."""
        return self._task.name

    def forget(self) -> None:
        """Take the task off the list of running ones."""
        self._tasks.pop(self._task, None)


async def run(
    task: SpawnedTask[T_co], work: SpawnedWork[T_co], on_essential_failure: Callable[[BaseException], object]
) -> None:
    """Run a spawned task to its end and record it."""
    try:
        result = await work
    except Exception as exc:  # noqa: BLE001 - kept in the handle, logged, told to listeners
        task.fail(exc)
        _log.error("task %r of worker %r failed", task.name, work.ledger.machine.name, exc_info=exc)
        if task.essential:
            on_essential_failure(exc)
    except anyio.get_cancelled_exc_class():
        task.fail(_cancelled(task))
        # A native cancellation of this one task would take the whole group down; no scope asked for that.
        if anyio.current_effective_deadline() == -float("inf"):
            raise
    except BaseException as exc:
        task.fail(exc)
        raise
    else:
        task.succeed(result)
    finally:
        work.forget()


def coroutine_of(func: Callable[..., Coroutine[Any, Any, T_co]], args: tuple[Any, ...]) -> Coroutine[Any, Any, T_co]:
    """Call `func` and insist on a coroutine.

    Raises:
        TypeError: `func` is a coroutine already, or does not make one.
    """
    given: object = func
    if not callable(given):
        close_awaitable(given)
        raise TypeError(f"spawn() takes a function and its arguments, not {given!r}: write spawn(func, *args)")
    work = func(*args)
    # The exact type first: asking the abstract class costs as much as the rest of a spawn.
    if type(work) is not _COROUTINE and not isinstance(work, Coroutine):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"spawn() needs an async function, but {func!r} returned {work!r}: wrap it in one")
    return work


def _cancelled(task: SpawnedTask[Any]) -> TaskCancelled:
    return TaskCancelled(
        f"task {task.name!r} was cancelled before it had a result: spawn it again if it is still wanted"
    )
