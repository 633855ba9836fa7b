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
from abc import ABC, abstractmethod
from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import anyio
import anyio.lowlevel
import attrs

from workerctx.errors import StoreClosed, StoreUnavailable
from workerctx.lifecycle.home import Home
from workerctx.queue.hand import PENDING, TAKEN, WITHDRAWN, Call, Hand

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue.hand import Engine

MAX_BATCH: Final = 512
"""How many calls share a transaction at most."""

HANG_LIMIT: Final = 60.0
"""A batch that takes longer than this many seconds is given up, with its connection."""

SETTLING: Final = 2.0
"""How many seconds a cancelled caller waits for a call that is being performed."""

X = TypeVar("X")
R = TypeVar("R")


@attrs.define(eq=False)
class CallTaker(ABC, Generic[X]):
    """Takes operations, which are functions of an `X`, from tasks of any event loop; has somebody else perform them.

    The lock guards the state of every call that was handed over.
    """

    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @abstractmethod
    def post(self, call: Call[Any]) -> None:
        """Hand a call over without waiting for it.

        Raises:
            StoreClosed: It is too late or too early for that.

        Threads: any thread.
        """

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
        return await self.outcome(call, done)

    def prepare(
        self, operation: Callable[[X], R], orphan: Callable[[R], Callable[[X], object] | None] | None = None
    ) -> PreparedCall[R]:
        """Return a call that can be begun from any thread; see `call` for the arguments."""
        home = Home(anyio.lowlevel.current_token().native_token)
        done = anyio.Event()
        return PreparedCall(self, Call(operation, orphan, home, done.set), done)

    async def outcome(self, call: Call[R], done: anyio.Event) -> R:
        """Wait for a call that was handed over; see `call`."""
        try:
            await self._wait(done)
        except anyio.get_cancelled_exc_class():
            if not self._withdraw(call):
                await self._settle(call, done)
            raise
        if call.failure is not None:
            raise call.failure
        return cast("R", call.result)

    def drop(self, call: Call[Any]) -> None:
        """Withdraw a call that nobody waits for, or have it undone."""
        if not self._withdraw(call):
            self._abandon(call)

    async def _wait(self, done: anyio.Event) -> None:
        """Wait until a call is done."""
        await done.wait()

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
        operation = None if call.orphan is None or call.failure is not None else call.orphan(call.result)
        if operation is None:
            return False
        try:
            self.post(Call(operation, None, call.home if wake else None, wake))
        except StoreClosed:
            # Too late; leases that nobody took delivery of run out.
            return False
        return True


@attrs.define(eq=False)
class PreparedCall(Generic[R]):
    """A call that is handed over once somebody begins it; see `Prepared`."""

    _taker: CallTaker[Any]
    _call: Call[R]
    _done: anyio.Event
    _begun: bool = attrs.field(default=False, init=False)
    _over: bool = attrs.field(default=False, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def begin(self) -> None:
        """Hand the call over, unless that was done or it was dropped."""
        with self._lock:
            if self._begun or self._over:
                return
            # Held until the call is there, so that whoever finds it begun can wait for it.
            with suppress(StoreClosed):
                self._taker.post(self._call)
                self._begun = True

    async def result(self) -> R:
        """Return what came of the call; see `Prepared.result`."""
        self.begin()
        if not self._begun:
            self._taker.post(self._call)  # says why it cannot be
        try:
            return await self._taker.outcome(self._call, self._done)
        finally:
            self._over = True

    def drop(self) -> None:
        """Withdraw the call or have it undone, unless its result was returned."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._taker.drop(self._call)


@attrs.define(eq=False)
class Batcher(CallTaker[X]):
    """Runs operations, which are functions of an `X`, in batches on a thread of its own.

    Args:
        make_engine: Opens the connection; called in the thread, again after a hung one was given up.
        name: Of the thread.
        max_batch: How many calls share a transaction at most.
        hang_limit: Seconds after which a batch is given up.
    """

    _make_engine: Callable[[], Engine]
    _name: str
    _max_batch: int = attrs.field(default=MAX_BATCH, alias="max_batch")
    _hang_limit: float = attrs.field(default=HANG_LIMIT, alias="hang_limit")
    _hand: Hand | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Open the connection and start the thread.

        Raises:
            QueueError: The connection cannot be opened.

        Threads: blocks; call it from a worker thread.
        """
        hand = self._new_hand()
        hand.opened.wait()
        if hand.failure is not None:
            hand.inbox.put(None)
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
        with self._lock:
            # Looked at again: what is put behind the end of the inbox would never be answered.
            if self._hand is None:
                raise StoreClosed("the store was closed meanwhile")
            self._hand.inbox.put(call)

    async def _wait(self, done: anyio.Event) -> None:
        """Wait until a call is done, and see to it that a batch which hangs is given up, ours or the one before."""
        while True:
            with anyio.move_on_after(self._patience()):
                await done.wait()
                return

    def _patience(self) -> float:
        """Return in how many seconds to look again whether the hand hangs; replace one that does."""
        hand = self._hand
        if hand is None:
            return self._hang_limit
        left = hand.seconds_left(self._hang_limit)
        if left > 0:
            return left
        self._replace(hand)
        return self._hang_limit

    def _replace(self, hung: Hand) -> None:
        fresh = self._new_hand()
        with self._lock:
            if self._hand is not hung:
                fresh.inbox.put(None)
                return
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
                return
            fresh.inbox.put(call)

    def _new_hand(self) -> Hand:
        hand = Hand(self._lock, self._max_batch, self._make_engine, self._undo)
        hand.thread = threading.Thread(target=hand.run, name=self._name, daemon=True)
        hand.thread.start()
        return hand
