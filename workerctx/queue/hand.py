"""The thread behind a `Batcher`: takes calls in batches, has an engine perform them, wakes the callers."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from workerctx.errors import InvalidRequest, StoreBusy, StoreFull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerctx.lifecycle.home import Home

PENDING, TAKEN, DONE, WITHDRAWN = range(4)

R = TypeVar("R")


class Call(Generic[R]):
    """One thing to be done, and what came of it.

    Attributes:
        operation: What to do, for the `Engine` to call.
        orphan: Makes the operation that undoes a result which nobody waits for any more.
        result: What came of it, if there is no error.
        error: Why it failed.
        given_up: Why nobody waits for the engine any more; what that makes of it afterwards does not count.
    """

    __slots__ = ("_wake", "abandoned", "error", "given_up", "home", "operation", "orphan", "result", "state")

    def __init__(
        self, operation: Any, orphan: Callable[[R], Any] | None, home: Home | None, wake: Callable[[], object] | None
    ) -> None:
        self.operation: Any = operation
        self.orphan: Callable[[R], Any] | None = orphan
        self.home: Home | None = home
        self._wake = wake
        self.state: int = PENDING
        self.abandoned: bool = False
        self.result: R | None = None
        self.error: BaseException | None = None
        self.given_up: BaseException | None = None

    @property
    def failure(self) -> BaseException | None:
        """Why there is no result; None if there is one."""
        return self.given_up or self.error

    def wake(self) -> None:
        """Let its caller go on; on the caller's loop, or in the batcher's thread for a caller that is a thread."""
        if self._wake is not None:
            self._wake()


class Engine(Protocol):
    """What performs calls: a connection, and what it gives to the operations.

    Threads: everything but `interrupt` is called from one thread of its own.
    """

    def perform(self, calls: Sequence[Call[Any]]) -> None:
        """Do the calls in one transaction; set the result or error of each.

        An exception from here becomes the error of every call: nothing was written. The engine is closed then,
        unless it says `StoreBusy` or `StoreFull`, and a new one is made for the next batch.
        """
        ...

    def interrupt(self) -> None:
        """Make a `perform` that is under way fail soon, if it can be done."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Hand:
    """One thread with one engine; replaced as a whole when it hangs.

    Attributes:
        inbox: Calls to perform; None ends the thread.
        opened: Set once the engine is open, or could not be opened.
        failure: Why it could not.
        pid: The process in which the thread lives.
        thread: The thread.
    """

    def __init__(
        self,
        lock: threading.Lock,
        max_batch: int,
        make_engine: Callable[[], Engine],
        undo: Callable[[Call[Any]], object],
    ) -> None:
        self.inbox: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self.opened: threading.Event = threading.Event()
        self.failure: BaseException | None = None
        self.pid: int = os.getpid()
        self.thread: threading.Thread
        self._lock = lock
        self._max_batch = max_batch
        self._make_engine = make_engine
        self._undo = undo
        self._engine: Engine | None = None
        self._batch: list[Call[Any]] = []
        self._since: float | None = None
        self._given_up = False

    def seconds_left(self, limit: float) -> float:
        """Return in how many seconds a batch, that under way if there is one, will have taken ``limit`` seconds."""
        since = self._since
        return limit if since is None else since + limit - time.monotonic()

    def give_up(self, error: BaseException) -> None:
        """Fail the batch under way; the thread closes its connection if it ever comes back."""
        with self._lock:
            self._given_up = True
            batch, self._batch = self._batch, []
            for call in batch:
                call.state, call.given_up = DONE, error
        if self._engine is not None:
            self._engine.interrupt()
        wake_all(batch)

    def run(self) -> None:
        """Open the engine and serve the inbox until a None comes or the hand is given up."""
        try:
            self._engine = self._make_engine()
        except BaseException as exc:  # noqa: BLE001 - handed to whoever opens the batcher
            self.failure = exc
        self.opened.set()
        try:
            while not self._given_up and self._turn():
                pass
        finally:
            self._drop_engine()

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _turn(self) -> bool:
        """Perform one batch; False once the batcher is closed."""
        first = self.inbox.get()
        if first is None:
            return False
        found = [first]
        closing = False
        while len(found) < self._max_batch:
            try:
                call = self.inbox.get_nowait()
            except Empty:
                break
            if call is None:
                closing = True
                break
            found.append(call)
        with self._lock:
            batch = [call for call in found if call.state == PENDING]
            for call in batch:
                call.state = TAKEN
            self._batch = batch
            self._since = time.monotonic()
        self._perform(batch)
        return not closing

    def _perform(self, batch: list[Call[Any]]) -> None:
        try:
            if self._engine is None:
                self._engine = self._make_engine()
            if batch:
                self._engine.perform(batch)
        except BaseException as exc:  # noqa: BLE001 - every caller gets it
            if not isinstance(exc, (StoreBusy, StoreFull)):
                # A connection that failed is not trusted again; the next batch opens another one.
                self._drop_engine()
            for call in batch:
                call.result, call.error = None, exc
        with self._lock:
            self._since = None
            if self._given_up:
                return
            self._batch = []
            for call in batch:
                call.state = DONE
            orphans = [call for call in batch if call.abandoned]
        wake_all(batch)
        for call in orphans:
            self._undo(call)


def together_or_apart(calls: Sequence[Call[Any]], perform: Callable[[Sequence[Call[Any]]], None]) -> None:
    """Perform calls that change nothing, or each for itself if one of them asks for what cannot be.

    Raises:
        InvalidRequest: There is one call, and it does.
    """
    try:
        perform(calls)
    except InvalidRequest:
        if len(calls) == 1:
            raise
        for call in calls:
            try:
                perform([call])
            except InvalidRequest as exc:
                call.result, call.error = None, exc


def wake_all(calls: Sequence[Call[Any]]) -> None:
    """Wake the callers, with one message to each event loop."""
    by_loop: defaultdict[int, list[Call[Any]]] = defaultdict(list)
    for call in calls:
        if call.home is None:
            call.wake()
        else:
            by_loop[id(call.home.native)].append(call)
    for waiting in by_loop.values():
        home = waiting[0].home
        assert home is not None

        def wake(waiting: list[Call[Any]] = waiting) -> None:
            for call in waiting:
                call.wake()

        home.post(wake)
