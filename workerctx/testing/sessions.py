"""Sessions in memory: what a remote worker says and hears, without a network."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from attrs import define, field

from workerctx.errors import SessionLost
from workerctx.lifecycle.latch import Latch
from workerctx.remote.frames import MAX_MESSAGE
from workerctx.remote.wire import gateway_reader, messages_of, worker_reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.remote.frames import FromGateway, FromWorker
    from workerctx.remote.wire import Incoming, Reader

F = TypeVar("F")


@define(eq=False)
class _Pipe(Generic[F]):
    """One direction: messages are encoded and decoded as on any other way.

    Threads: any.
    """

    reader: Reader[F]
    _messages: deque[bytes] = field(factory=deque[bytes], init=False)
    _closed: bool = field(default=False, init=False)
    _error: Exception | None = field(default=None, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _news: Latch = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._news = Latch(lambda: bool(self._messages) or self._closed)

    @property
    def waiting(self) -> int:
        return len(self._messages)

    def put(self, messages: Sequence[bytes]) -> None:
        with self._lock:
            if self._closed:
                raise SessionLost("the session is closed")
            self._messages.extend(messages)
        self._news.wake()

    def close(self, error: Exception | None = None) -> None:
        with self._lock:
            if not self._closed:
                self._closed, self._error = True, error
        self._news.wake()

    async def get(self) -> Sequence[F] | None:
        while True:
            await self._news.wait()
            with self._lock:
                if self._messages:
                    return self.reader.read(self._messages.popleft())
                if self._error is not None:
                    raise self._error
                if self._closed:
                    return None


@define(eq=False)
class MemorySession:
    """The worker's end of a session in memory, a `WorkerSession`.

    Attributes:
        max_message: Largest message that the gateway's end accepts, in bytes.
        silence: After how many seconds the worker wants to know whether the gateway lives, which in memory is known.

    Threads: any.
    """

    _out: _Pipe[Any]
    _into: _Pipe[Any]
    max_message: int = MAX_MESSAGE
    silence: float = math.inf

    async def send(self, frames: Sequence[FromWorker], /) -> None:
        """Send frames.

        Raises:
            SessionLost: The session was closed.
            ProtocolError: One of them is too large.
        """
        self._out.put(messages_of(frames, self.max_message))

    async def receive(self) -> Sequence[Incoming] | None:
        """Return the frames of the next message; None once the gateway has closed the session.

        Raises:
            Exception: What `SessionPeer.close` was given.
        """
        frames: Sequence[Incoming] | None = await self._into.get()
        return frames

    def close(self) -> None:
        """Close the worker's end."""
        self._out.close()
        self._into.close()


@define(eq=False)
class SessionPeer:
    """The gateway's end of a session in memory.

    Threads: any.
    """

    _out: _Pipe[Any]
    _into: _Pipe[Any]

    def send(self, *frames: FromGateway) -> None:
        """Send frames, in one message.

        Raises:
            SessionLost: The session was closed.
        """
        self._out.put(messages_of(frames))

    def send_bytes(self, message: bytes) -> None:
        """Send a message as it is, right or wrong.

        Raises:
            SessionLost: The session was closed.
        """
        self._out.put([message])

    @property
    def pending(self) -> int:
        """How many messages of the worker wait to be received."""
        return self._into.waiting

    async def receive(self) -> Sequence[FromWorker] | None:
        """Return the frames of the worker's next message; None once it has closed the session."""
        frames: Sequence[FromWorker] | None = await self._into.get()
        return frames

    def close(self, error: Exception | None = None) -> None:
        """Close the session, in good order or as if it broke with an error, on both ends at once.

        Args:
            error: What the worker's end raises, once it has received what was sent before.
        """
        self._out.close(error)
        self._into.close()


def session_pair() -> tuple[MemorySession, SessionPeer]:
    """Return the two ends of a session in memory."""
    to_gateway: _Pipe[FromWorker] = _Pipe(gateway_reader())
    to_worker: _Pipe[Incoming] = _Pipe(worker_reader())
    return MemorySession(to_gateway, to_worker), SessionPeer(to_worker, to_gateway)
