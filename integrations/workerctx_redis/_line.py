"""A private thread with an event loop and a connection, to which tasks of any loop hand their calls.

The thread takes whatever has piled up while the last batch was on its way and sends it in one call of the script. The
connection belongs to the thread and not to a caller, so a caller may be cancelled in any way that its event loop
knows of without harming a connection or stranding the others.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import attrs
from coredis.exceptions import ResponseError

from workerctx.errors import (
    InvalidRequest,
    QueueError,
    SchemaError,
    StoreClosed,
    StoreDenied,
    StoreUnavailable,
    StoreUnsafe,
)
from workerctx.lifecycle.latch import Latch
from workerctx.queue.batching import MAX_BATCH, CallTaker
from workerctx.queue.hand import DONE, PENDING, TAKEN, wake_all
from workerctx_redis._driver import open_client
from workerctx_redis._failures import explain
from workerctx_redis._link import Link
from workerctx_redis._operations import Answer, Operation, done

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerctx.queue.hand import Call
    from workerctx_redis._endpoint import Endpoint
    from workerctx_redis._link import Reply
    from workerctx_redis._records import Groups

VERSION: Final = 1
"""Which form the data in the store has."""

MAX_BYTES: Final = 8 * 1024 * 1024
"""How many bytes share a call at most, unless one operation alone is larger."""

_JOIN: Final = 2.0

REOPEN: Final = 0.5
"""Seconds between two attempts to reach a server that is gone, unless somebody calls."""


@attrs.define(eq=False)
class Line(CallTaker[Answer]):
    """Performs operations in batches.

    Args:
        name: Of the thread.
        endpoint: Where the server is.
        prefix: Of every key of the namespace.
        groups: What is known of the groups of the namespace.
        origin: Marks our own messages.
        is_heard: Tells whether events are wanted.
        tell: Is given every reply, before the callers are woken.
    """

    _name: str
    _endpoint: Endpoint
    _prefix: str
    _groups: Groups
    _origin: str
    _is_heard: Callable[[], bool] = bool
    _tell: Callable[[Reply], object] = bool
    _life: _Life | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Open the connection and start the thread.

        Raises:
            QueueError: The server cannot be reached, does not let us in, or holds data of a newer release.

        Threads: blocks; call it from a worker thread.
        """
        life = _Life()
        life.thread = threading.Thread(target=self._run, args=(life,), name=self._name, daemon=True)
        life.thread.start()
        life.opened.wait()
        if life.failure is not None:
            raise life.failure
        self._life = life

    def close(self) -> None:
        """Perform what was handed over, then close the connection and end the thread; bounded by the URL's timeout.

        Threads: blocks; call it from a worker thread.
        """
        with self._lock:
            life, self._life = self._life, None
        if life is None or life.pid != os.getpid():
            return
        life.closing = True
        life.latch.wake()
        life.thread.join(self._endpoint.timeout + _JOIN)

    def post(self, call: Call[Any]) -> None:
        """Hand a call over without waiting for it.

        Raises:
            StoreClosed: The line is not open, or was opened before a fork.

        Threads: any thread.
        """
        life = self._life
        if life is None:
            raise StoreClosed('the store is not open: use it inside "async with"')
        if life.pid != os.getpid():
            raise StoreClosed("the store was opened before this process was forked: open it in the child")
        with self._lock:
            # Looked at again: what is handed over behind the end would never be answered.
            if self._life is None or life.ended:
                raise StoreClosed("the store was closed meanwhile")
            life.inbox.append(call)
        life.latch.wake()

    def run_beside(self, task: Callable[[Link], Any]) -> None:
        """Run an async function beside the calls for as long as the line is open.

        Threads: any thread.
        """
        life = self._life
        if life is None:
            raise StoreClosed('the store is not open: use it inside "async with"')
        life.tasks.append(task)
        life.latch.wake()

    def _run(self, life: _Life) -> None:
        try:
            anyio.run(self._live, life)
        except BaseException as exc:  # noqa: BLE001 - handed to whoever opens the line, or to those who wait
            life.failure = explain(exc, self._endpoint)
        finally:
            with self._lock:
                life.ended = True
            self._fail_waiting(life)
            life.opened.set()

    async def _live(self, life: _Life) -> None:
        """Use one client after the other: one that failed is thrown away with all its connections."""
        while not life.is_over:
            try:
                await self._use_client(life)
            except Exception as exc:
                life.failure = explain(_first(exc), self._endpoint)
                if not life.opened.is_set():
                    raise life.failure from exc
                self._fail_waiting(life)
                with anyio.move_on_after(REOPEN):
                    await life.latch.wait()

    async def _use_client(self, life: _Life) -> None:
        """Connect and perform what is handed over, until the line is closed or the client has failed."""
        async with open_client(self._endpoint) as client:
            link = Link(client, self._groups, self._endpoint, self._prefix, self._origin, life.latch.wake)
            await _check_version(link, self._endpoint)
            life.opened.set()
            life.link, life.started, life.failure = link, 0, None
            async with anyio.create_task_group() as tasks:
                while not (life.is_over or link.is_broken):
                    for task in life.tasks[life.started :]:
                        tasks.start_soon(task, link)
                        life.started += 1
                    await self._turn(life, link)
                tasks.cancel_scope.cancel()

    async def _turn(self, life: _Life, link: Link) -> None:
        """Wait for something to do and perform what has piled up."""
        await life.latch.wait()
        batch = self._take(life)
        growing = [call for call in batch if call.operation.grows]
        others = [call for call in batch if not call.operation.grows]
        for calls in (others, growing):
            if link.is_broken:
                self._put_back(life, calls)
            elif calls:
                await self._perform(link, calls)

    def _put_back(self, life: _Life, calls: Sequence[Call[Any]]) -> None:
        """Leave calls that were not sent to the next client."""
        with self._lock:
            for call in reversed(calls):
                call.state = PENDING
                life.inbox.appendleft(call)

    def _take(self, life: _Life) -> list[Call[Any]]:
        batch: list[Call[Any]] = []
        weight = 0
        with self._lock:
            while life.inbox and len(batch) < MAX_BATCH:
                call = life.inbox[0]
                if call.state == PENDING:
                    weight += len(call.operation.encoded)
                    if batch and weight > MAX_BYTES:
                        break
                    call.state = TAKEN
                    batch.append(call)
                life.inbox.popleft()
        return batch

    async def _perform(self, link: Link, calls: Sequence[Call[Any]]) -> None:
        operations: list[Operation[Any]] = [call.operation for call in calls]
        limit = max(operation.limit for operation in operations)
        try:
            reply = await link.perform(operations, listening=self._is_heard(), limit=limit)
        except BaseException as exc:
            error = exc if isinstance(exc, QueueError) else _UNKNOWN
            for call in calls:
                call.error = error
            self._finish(calls)
            if not isinstance(exc, QueueError):
                raise
            return
        for call, result in zip(calls, reply.results, strict=True):
            try:
                _check_misfit(result)
                call.result = call.operation(Answer(result, self._groups, reply.now))
            except Exception as exc:  # noqa: BLE001 - it is the caller's
                call.error = exc
        try:
            self._tell(reply)
        finally:
            self._finish(calls)
        while reply.unsettled:
            try:
                reply = await link.perform([done("settle")], listening=self._is_heard())
            except QueueError:
                # Whoever calls next goes on with it.
                return
            self._tell(reply)

    def _finish(self, calls: Sequence[Call[Any]]) -> None:
        with self._lock:
            for call in calls:
                call.state = DONE
            orphans = [call for call in calls if call.abandoned]
        wake_all(calls)
        for call in orphans:
            self._undo(call)

    def _fail_waiting(self, life: _Life) -> None:
        """Fail what was handed over and was not done."""
        with self._lock:
            left = list(life.inbox)
            life.inbox.clear()
            for call in left:
                call.state, call.error = DONE, life.failure or StoreClosed("the store was closed meanwhile")
        wake_all(left)


class _Life:
    """The thread from one opening of the line to its closing, and what it is to do."""

    def __init__(self) -> None:
        self.inbox: deque[Call[Any]] = deque()
        self.tasks: list[Callable[[Link], Any]] = []
        self.started: int = 0
        self.link: Link | None = None
        self.latch: Latch = Latch(self._has_news)
        self.closing: bool = False
        self.ended: bool = False
        self.opened: threading.Event = threading.Event()
        self.failure: QueueError | None = None
        self.pid: int = os.getpid()
        self.thread: threading.Thread

    @property
    def is_over(self) -> bool:
        """Whether the line was closed and everything is done."""
        return self.closing and not self.inbox

    def _has_news(self) -> bool:
        is_broken = self.link is not None and self.link.is_broken
        return bool(self.inbox or self.closing or is_broken or self.started < len(self.tasks))


_UNKNOWN: Final = StoreUnavailable("the store was closed while a call hung; whether it was done is unknown")


async def _check_version(link: Link, endpoint: Endpoint) -> None:
    """Refuse data that a newer release has written, and users that may not do all that a store does."""
    reply = await link.perform([done("version", VERSION)])
    found, policy, refused = reply.results[0]
    if refused and isinstance(denied := explain(ResponseError(refused), endpoint), StoreDenied):
        raise denied
    if found > VERSION:
        raise SchemaError(
            f"the data of this namespace has version {found} and this release knows up to {VERSION}: "
            "upgrade workerctx, or use another namespace"
        )
    if policy.startswith("allkeys"):
        raise StoreUnsafe(
            f"Redis evicts jobs when it is full (maxmemory-policy {policy}): set its maxmemory-policy to noeviction"
        )


def _check_misfit(result: Any) -> None:
    """Refuse what the script found no way to do, as a value is of a type that has no business where it is.

    Raises:
        InvalidRequest: It did.
    """
    if type(result) is dict and "misfit" in result:
        raise InvalidRequest(f"Redis cannot be asked this: {result['misfit']}")


def _first(exc: BaseException) -> BaseException:
    """Return the first failure of a group, which is the reason of the others."""
    while isinstance(exc, BaseExceptionGroup):
        exc = cast("BaseExceptionGroup[BaseException]", exc).exceptions[0]
    return exc
