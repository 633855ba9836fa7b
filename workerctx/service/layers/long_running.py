"""Long running: a handler's operations, side by side, each with its own limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from attrs import define, field, frozen

from workerctx.errors import NotAccepting, OperationTimeout, TaskCancelled
from workerctx.lifecycle import WorkerContext
from workerctx.service.layers.catch import as_failure
from workerctx.service.options import optional_positive_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from anyio.abc import TaskGroup

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request

T = TypeVar("T")


@define(eq=False)
class Operation(Generic[T]):
    """Something that a handler started; await it for its result.

    Attributes:
        name: For messages.
    """

    name: str
    _outcome: list[T] = field(factory=list[T], init=False)
    _error: Exception | None = field(default=None, init=False)
    _seen: bool = field(default=False, init=False)
    _ended: anyio.Event = field(factory=anyio.Event, init=False)

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    @property
    def unseen_error(self) -> Exception | None:
        """What it failed with, unless somebody awaited it."""
        return None if self._seen else self._error

    def __await__(self) -> Generator[Any, Any, T]:
        return self.result().__await__()

    async def result(self) -> T:
        """Return its result once it has ended.

        Raises:
            OperationTimeout: It ran too long. Besides, whatever it raised.
            TaskCancelled: The run of the handler was cancelled, or failed, before it ended.

        Cancellation: does not touch it.
        """
        await self.ended()
        self._seen = True
        if self._error is not None:
            raise self._error
        if not self._outcome:
            raise TaskCancelled(f"{self.name} was cancelled together with the handler that started it")
        return self._outcome[0]

    async def ended(self) -> None:
        """Return once it has ended, however that was.

        Cancellation: does not touch it.
        """
        await self._ended.wait()

    async def perform(self, call: Callable[[], Awaitable[T]], worker: WorkerContext | None) -> None:
        """Run it to its end, counted by the worker. Belongs to `Operations`."""
        try:
            self._outcome.append(await _counted(call, worker))
        except BaseException as exc:
            self._error = as_failure(exc)
            if self._error is None:
                raise
        finally:
            self._ended.set()


@define(eq=False)
class Operations:
    """What a handler starts its operations with: injected, ``operations: Operations = injected()``."""

    _group: TaskGroup
    _worker: WorkerContext | None
    _max_duration: float | None
    _started: list[Operation[Any]] = field(factory=list[Operation[Any]], init=False)

    def start(self, function: Callable[..., Awaitable[T]], *args: Any, name: str | None = None) -> Operation[T]:
        """Start an operation beside the handler; while the worker is paused it waits for the worker to be resumed.

        Args:
            function: Async.
            args: Its arguments.
            name: For messages; None takes the function's.
        """
        operation: Operation[T] = Operation(name or str(getattr(function, "__qualname__", function)))
        self._started.append(operation)

        async def bounded() -> T:
            limit = math.inf if self._max_duration is None else self._max_duration
            with anyio.CancelScope(deadline=anyio.current_time() + limit):
                return await function(*args)
            raise OperationTimeout(
                f"{operation.name} ran longer than {limit:g} s and was cancelled: allow it more time, or split it"
            )

        self._group.start_soon(operation.perform, bounded, self._worker, name=operation.name)
        return operation

    async def wait(self) -> None:
        """Return once all operations have ended, those among them that others start meanwhile.

        Cancellation: does not touch them.
        """
        for operation in self._started:  # grows while this waits
            await operation.ended()

    def unseen_errors(self) -> list[Exception]:
        """Return the errors of the operations that nobody awaited."""
        return [operation.unseen_error for operation in self._started if operation.unseen_error is not None]


@frozen(eq=False)
class LongRunning:
    """Lets a handler start operations beside itself; the job is done when all of them are.

    The handler asks for `Operations` by annotation. Each operation is counted by the worker, so that its shutdown
    waits for it, and bounded by itself: one that takes too long fails alone, with `OperationTimeout`. The job's own
    timeout still bounds all of it.

    An operation that fails tells whoever awaits it; if nobody does, the run fails with its error, or with a group of
    several. If the handler raises, or the run is cancelled, so are its operations.

    Args:
        max_duration: Seconds, or a timedelta, for each operation; None for any time.

    Raises:
        ValueError: It is not above 0.
    """

    max_duration: float | None = field(default=None, converter=optional_positive_seconds)

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, and wait for its operations."""
        output: Any = None
        failures: list[Exception] = []
        group = anyio.create_task_group()
        operations = Operations(group, request.data.get(WorkerContext), self.max_duration)
        request.data.insert(Operations, operations)
        async with group:
            try:
                output = await call_next(request)
                await operations.wait()
            except Exception as exc:  # noqa: BLE001 - raised below, outside of the group, so that it leaves bare
                failures.append(exc)
                group.cancel_scope.cancel()
        if not failures:
            failures = operations.unseen_errors()
        if len(failures) > 1:
            raise ExceptionGroup(f"several operations of {request.kind} failed", failures)
        if failures:
            raise failures[0]
        return output


async def _counted(call: Callable[[], Awaitable[T]], worker: WorkerContext | None) -> T:
    if worker is None:
        return await call()
    try:
        tracked = worker.track(call())
    except NotAccepting:  # a job that was accepted may go on with its work while the worker drains
        return await call()
    return await tracked
