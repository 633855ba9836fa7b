"""Faults: calls of a real store that fail, take long or hang."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
from attrs import define, field, frozen

from workerctx.errors import InvalidRequest, StoreUnavailable
from workerctx.lifecycle.latch import Latch
from workerctx.queue.request import as_seconds
from workerctx.testing.guarded import METHODS, guarded
from workerctx.testing.view import seen_through

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    from workerctx.queue import Storage
    from workerctx.queue.request import Seconds
    from workerctx.service import JobRegistry

T = TypeVar("T")


@frozen(eq=False)
class StoreCall:
    """A call of a store.

    Attributes:
        method: Part and name: ``jobs.claim_many``, ``rate_limits.acquire``, ``renewer.renew``, ``wakeups.wait``,
            ``now``, ``open``.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@define(eq=False)
class Fault:
    """What happens to some calls until it is lifted: by `lift`, or at the end of ``with faults.fail("jobs.*"):``.

    Attributes:
        seconds: How long they wait; None until it is lifted.
        error: What they raise.
        answer_lost: Whether they are performed all the same.
        calls: Those that met it, oldest first.
    """

    _patterns: tuple[str, ...]
    _skip: int
    _times: int | None
    _when: Callable[[StoreCall], bool] | None
    seconds: float | None = 0.0
    error: Exception | None = None
    answer_lost: bool = False
    calls: list[StoreCall] = field(factory=list[StoreCall], init=False)
    _over: threading.Event = field(factory=threading.Event, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _lifted: Latch = field(init=False)
    _news: Latch = field(factory=lambda: Latch(lambda: False), init=False)

    def __attrs_post_init__(self) -> None:
        self._lifted = Latch(self._over.is_set)

    def lift(self) -> None:
        """End it: calls are served again, and those that hang go on. Twice is harmless.

        Threads: any.
        """
        self._over.set()
        self._lifted.wake()

    async def met(self, count: int = 1) -> None:
        """Wait until so many calls have met it.

        Cancellation: leaves nothing behind.
        """
        await self._news.wait(lambda: len(self.calls) >= count)

    def takes(self, call: StoreCall) -> bool:
        """Tell whether it happens to this call, and take note of it. Belongs to `Faults`."""
        if self._over.is_set() or not any(fnmatchcase(call.method, pattern) for pattern in self._patterns):
            return False
        if self._when is not None and not self._when(call):
            return False
        with self._lock:
            if self._skip > 0:
                self._skip -= 1
                return False
            if self._times is not None and len(self.calls) >= self._times:
                return False
            self.calls.append(call)
        self._news.wake()
        return True

    async def before(self) -> None:
        """Do to an async call what happens before the store gets it."""
        if self.seconds != 0.0:
            with anyio.move_on_after(self.seconds):
                await self._lifted.wait()
        elif self.error is not None and not self.answer_lost:
            await anyio.lowlevel.checkpoint()
            raise self.error

    def before_sync(self) -> None:
        """Do the same to a call of a thread, which it blocks."""
        if self.seconds != 0.0:
            self._over.wait(self.seconds)
        elif self.error is not None and not self.answer_lost:
            raise self.error

    def after(self) -> None:
        """Do to a call what happens when the store has performed it."""
        if self.error is not None and self.answer_lost:
            raise self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.lift()


@define(eq=False)
class Faults:
    """Puts faults between users of a real store and the store.

    ``storage = faults.wrap(connect(url))`` for a storage, ``with faults.inject(jobs):`` for a registry and its worker
    loops. Without a fault, every call reaches the store as it is.

    The methods say which calls: ``fail("jobs.claim_many")``, with ``*`` for any letters: ``fail("jobs.*",
    "renewer.*")``; none means every call. Closing always works. Of several faults that a call meets, the oldest comes
    first.
    """

    _faults: list[Fault] = field(factory=list[Fault], init=False)

    def wrap(self, storage: Storage) -> Storage:
        """Return a storage whose calls meet the faults."""
        return guarded(storage, self)

    @contextmanager
    def inject(self, jobs: JobRegistry) -> Generator[Self]:
        """Let a registry see its store through the faults inside the block, whether it is open or not.

        Its handlers and worker loops see the same. The end of the block lifts every fault.
        """
        with seen_through(jobs, self.wrap):
            try:
                yield self
            finally:
                self.lift()

    def fail(
        self,
        *methods: str,
        error: Exception | None = None,
        skip: int = 0,
        times: int | None = None,
        when: Callable[[StoreCall], bool] | None = None,
        answer_lost: bool = False,
    ) -> Fault:
        """Let calls fail.

        Args:
            methods: Which; see the class.
            error: What they raise; None is a `StoreUnavailable`.
            skip: How many calls are served before.
            times: How many fail; None for all until it is lifted. The third call alone: ``skip=2, times=1``.
            when: Only calls for which it returns true. May be called from any thread.
            answer_lost: The store performs the call, and then it fails: the caller cannot know.

        Raises:
            InvalidRequest: No call of a store has such a name.
        """
        error = StoreUnavailable("the test let this call fail") if error is None else error
        return self._add(Fault(_checked(methods), skip, times, when, error=error, answer_lost=answer_lost))

    def delay(
        self,
        *methods: str,
        seconds: Seconds,
        skip: int = 0,
        times: int | None = None,
        when: Callable[[StoreCall], bool] | None = None,
    ) -> Fault:
        """Let calls wait for some seconds (or a timedelta) of the event loop's clock before the store gets them.

        Lifting it ends the wait. The other arguments are those of `fail`.

        Raises:
            InvalidRequest: No call of a store has such a name, or the seconds are negative.
        """
        wait = as_seconds(seconds)
        if not wait >= 0:
            raise InvalidRequest(f"a call waits for 0 or more seconds, got {seconds}")
        return self._add(Fault(_checked(methods), skip, times, when, seconds=wait))

    def hang(
        self,
        *methods: str,
        skip: int = 0,
        times: int | None = None,
        when: Callable[[StoreCall], bool] | None = None,
    ) -> Fault:
        """Let calls hang until the fault is lifted or they are cancelled; the store gets them afterwards.

        The arguments are those of `fail`. A hung call of ``renewer`` blocks the thread that renews leases.

        Raises:
            InvalidRequest: No call of a store has such a name.
        """
        return self._add(Fault(_checked(methods), skip, times, when, seconds=None))

    def lift(self) -> None:
        """Lift every fault.

        Threads: any.
        """
        for fault in self._faults:
            fault.lift()

    async def serve(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], perform: Callable[[], Awaitable[T]]
    ) -> T:
        """Perform an async call of the store, unless a fault prevents it. Belongs to the wrapped storage."""
        met = self._met(method, args, kwargs)
        for fault in met:
            await fault.before()
        answer = await perform()
        for fault in met:
            fault.after()
        return answer

    def serve_sync(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], perform: Callable[[], T]) -> T:
        """Do the same with a sync call. Belongs to the wrapped storage."""
        met = self._met(method, args, kwargs)
        for fault in met:
            fault.before_sync()
        answer = perform()
        for fault in met:
            fault.after()
        return answer

    def _met(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Fault]:
        call = StoreCall(method, args, kwargs)
        return [fault for fault in tuple(self._faults) if fault.takes(call)]

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault


def _checked(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if not any(fnmatchcase(method, pattern) for method in METHODS):
            raise InvalidRequest(f"no call of a store is named {pattern!r}; there are {', '.join(sorted(METHODS))}")
    return patterns or ("*",)
