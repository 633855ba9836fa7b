"""Group commit: what many tasks ask for at the same time, one thread does in one transaction.

A store hands each call to a `Batcher`. Its thread takes whatever has piled up while the last batch was being
written, performs it, and wakes the callers; a lone call is performed at once, so nobody ever waits for a batch to
fill. The thread belongs to the batcher and not to a caller, so a caller may be cancelled in any way that an event
loop knows of without stranding the others: a call that was not taken yet is withdrawn and never runs, one that was
taken is performed all the same, and its `orphan` then undoes it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel
import attrs

from workerctx.errors import StoreClosed, StoreUnavailable
from workerctx.lifecycle.home import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_BATCH: Final = 512
"""How many calls share a transaction at most."""

HANG_LIMIT: Final = 60.0
"""A batch that takes longer than this many seconds is given up, with its connection."""

SETTLING: Final = 2.0
"""How many seconds a cancelled caller waits for a call that is being performed."""

PENDING, TAKEN, DONE, WITHDRAWN = range(4)

X = TypeVar("X")
R = TypeVar("R")


class Call(Generic[R]):
    """One thing to be done, and what came of it.

    Attributes:
        operation: What to do, for the `Engine` to call.
        orphan: Makes the operation that undoes a result which nobody waits for any more.
        result: What came of it, if there is no error.
        error: Why it failed.
    """

    __slots__ = ("_wake", "abandoned", "error", "home", "operation", "orphan", "result", "state")

    def __init__(
        self, operation: Any, orphan: Callable[[R], Any] | None, home: Home | None, wake: Callable[[], object] | None
    ) -> None:
        self.operation = operation
        self.orphan = orphan
        self.home = home
        self._wake = wake
        self.state = PENDING
        self.abandoned = False
        self.result: R | None = None
        self.error: BaseException | None = None

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

        An exception from here becomes the error of every call: nothing was written.
        """
        ...

    def interrupt(self) -> None:
        """Make a `perform` that is under way fail soon, if it can be done."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@attrs.define(eq=False)
class Batcher(Generic[X]):
    """Runs operations, which are functions of an `X`, in batches on a thread of its own.

    Args:
        make_engine: Opens the connection; called in the thread, again after a hung one was given up.
        name: Of the thread.
        max_batch: How many calls share a transaction at most.
        hang_limit: Seconds after which a batch is given up.
    """

    _make_engine: Callable[[], Engine]
    _name: str
    _max_batch: int = MAX_BATCH
    _hang_limit: float = HANG_LIMIT
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _hand: _Hand | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Open the connection and start the thread.

        Raises:
            QueueError: The connection cannot be opened.

        Threads: blocks; call it from a worker thread.
        """
        hand = self._new_hand()
        hand.opened.wait()
        if hand.failure is not None:
            raise hand.failure
        self._hand = hand

    def close(self, timeout: float = 10.0) -> None:
        """Perform what was handed over, then close the connection and end the thread.

        Args:
            timeout: Seconds to wait for that; afterwards the thread is left to itself.

        Threads: blocks; call it from a worker thread.
        """
        with self._lock:
            hand, self._hand = self._hand, None
        if hand is None or hand.pid != os.getpid():
            return
        hand.inbox.put(None)
        hand.thread.join(timeout)
        if hand.thread.is_alive():
            hand.give_up(StoreUnavailable("the store was closed while a call hung; whether it was done is unknown"))

    async def call(
        self, operation: Callable[[X], R], orphan: Callable[[R], Callable[[X], object] | None] | None = None
    ) -> R:
        """Perform an operation and return its result.

        Args:
            operation: What to do.
            orphan: Given the result of an operation whose caller was cancelled meanwhile, returns the operation
                that undoes it.

        Cancellation: the operation is withdrawn, or, if it is already being performed, waited for and undone by
            ``orphan``. A store that hangs is not waited for longer than two seconds; its thread undoes it later.
        """
        home = Home(anyio.lowlevel.current_token().native_token)
        done = anyio.Event()
        call: Call[R] = Call(operation, orphan, home, done.set)
        self.post(call)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            if not self._withdraw(call):
                await self._settle(call, done)
            raise
        if call.error is not None:
            raise call.error
        return cast("R", call.result)

    def post(self, call: Call[Any]) -> None:
        """Hand a call over without waiting for it.

        Raises:
            StoreClosed: The batcher is not open, or was opened before a fork.

        Threads: any thread.
        """
        hand = self._hand
        if hand is None:
            raise StoreClosed('the store is not open: use it inside "async with"')
        if hand.pid != os.getpid():
            raise StoreClosed("the store was opened before this process was forked: open it in the child")
        if hand.is_hung(self._hang_limit):
            hand = self._replace(hand)
        hand.inbox.put(call)

    def _withdraw(self, call: Call[Any]) -> bool:
        with self._lock:
            if call.state == PENDING:
                call.state = WITHDRAWN
            return call.state == WITHDRAWN

    async def _settle(self, call: Call[Any], done: anyio.Event) -> None:
        """Wait until a call that was taken is done and undone, but not for ever."""
        undoing = False
        try:
            with anyio.move_on_after(SETTLING, shield=True):
                await done.wait()
                undone = anyio.Event()
                undoing = True
                if self._undo(call, undone.set):
                    await undone.wait()
        finally:
            # Here also when the shield did not hold, because a task was cancelled natively a second time.
            if not undoing:
                self._abandon(call)

    def _abandon(self, call: Call[Any]) -> None:
        with self._lock:
            call.abandoned = True
            if call.state == TAKEN:
                return
        self._undo(call)

    def _undo(self, call: Call[Any], wake: Callable[[], object] | None = None) -> bool:
        """Hand over the operation that undoes a call, if there is one."""
        operation = None if call.orphan is None or call.error is not None else call.orphan(call.result)
        if operation is None or self._hand is None:
            return False
        self.post(Call(operation, None, call.home if wake else None, wake))
        return True

    def _replace(self, hung: _Hand) -> _Hand:
        fresh = self._new_hand()
        with self._lock:
            if self._hand is not hung:
                current = self._hand
                fresh.inbox.put(None)
                if current is None:
                    raise StoreClosed("the store was closed")
                return current
            self._hand = fresh
        hung.give_up(
            StoreUnavailable(
                f"the store did not answer within {self._hang_limit:.0f} s; whether the call was done is unknown"
            )
        )
        while True:
            try:
                call = hung.inbox.get_nowait()
            except Empty:
                return fresh
            fresh.inbox.put(call)

    def _new_hand(self) -> _Hand:
        hand = _Hand(self._lock, self._max_batch, self._make_engine, self._undo)
        hand.thread = threading.Thread(target=hand.run, name=self._name, daemon=True)
        hand.thread.start()
        return hand


class _Hand:
    """One thread with one connection; replaced as a whole when it hangs."""

    def __init__(
        self,
        lock: threading.Lock,
        max_batch: int,
        make_engine: Callable[[], Engine],
        undo: Callable[[Call[Any]], object],
    ) -> None:
        self.inbox: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self.opened = threading.Event()
        self.failure: BaseException | None = None
        self.pid = os.getpid()
        self.thread: threading.Thread
        self._lock = lock
        self._max_batch = max_batch
        self._make_engine = make_engine
        self._undo = undo
        self._engine: Engine | None = None
        self._batch: list[Call[Any]] = []
        self._since: float | None = None
        self._given_up = False

    def is_hung(self, limit: float) -> bool:
        since = self._since
        return since is not None and time.monotonic() - since > limit

    def give_up(self, error: BaseException) -> None:
        """Fail the batch under way; the thread closes its connection if it ever comes back."""
        with self._lock:
            self._given_up = True
            batch, self._batch = self._batch, []
            for call in batch:
                call.state, call.error = DONE, error
        if self._engine is not None:
            self._engine.interrupt()
        _wake(batch)

    def run(self) -> None:
        try:
            self._engine = self._make_engine()
        except BaseException as exc:  # noqa: BLE001 - handed to whoever starts or calls the batcher
            self.failure = exc
            self.opened.set()
            self._refuse_all(exc)
            return
        self.opened.set()
        try:
            while not self._given_up and self._turn(self._engine):
                pass
        finally:
            self._engine.close()

    def _refuse_all(self, error: BaseException) -> None:
        """Answer the calls of a batcher whose connection could not be opened again."""
        while (call := self.inbox.get()) is not None:
            call.state, call.error = DONE, error
            _wake([call])

    def _turn(self, engine: Engine) -> bool:
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
        self._perform(engine, batch)
        return not closing

    def _perform(self, engine: Engine, batch: list[Call[Any]]) -> None:
        try:
            if batch:
                engine.perform(batch)
        except BaseException as exc:  # noqa: BLE001 - every caller gets it
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
        _wake(batch)
        for call in orphans:
            self._undo(call)


def _wake(calls: Sequence[Call[Any]]) -> None:
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

        def wake_all(waiting: list[Call[Any]] = waiting) -> None:
            for call in waiting:
                call.wake()

        home.post(wake_all)
