"""What waits to be sent to one worker: everything that piles up while a message is on its way goes into the next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
from attrs import define, field

from workerctx.errors import ProtocolError, SessionLost
from workerctx.remote.faults import Fault
from workerctx.remote.frames import HeartbeatAck, Reply, ResultAck, Task
from workerctx.remote.wire import messages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from workerctx.remote.frames import FromGateway
    from workerctx_starlette.gateway._connection import Connection

_ENOUGH: Final = 4 * 1024 * 1024
"""Bytes of answers that may wait before the worker is not listened to any more."""

_SMALLEST_REPLY: Final = 256
_LAST_WORDS: Final = 1.0
"""Seconds that saying goodbye may take."""


@define(eq=False)
class Outbox:
    """Sends frames to a worker, in order, except that acknowledgements come together.

    Args:
        connection: The way to the worker.
        too_large: Told of a task that does not fit into any message, and why.

    Attributes:
        sending_since: When the message was begun that is being sent, on the event loop's clock; infinite if there is
            none.
    """

    _connection: Connection
    _too_large: Callable[[Task, str], None]
    sending_since: float = field(default=math.inf, init=False)
    _frames: list[FromGateway] = field(factory=list["FromGateway"], init=False)
    _accepted: list[str] = field(factory=list[str], init=False)
    _lost: list[str] = field(factory=list[str], init=False)
    _refused: dict[str, str] = field(factory=dict[str, str], init=False)
    _bytes: int = field(default=0, init=False)
    """Of answers that wait."""
    _sending: int = field(default=0, init=False)
    """Bytes of answers that are being sent."""
    _cut_off: list[str] = field(factory=list[str], init=False)
    """Commands in messages that were not sent to the end."""
    _waiting: anyio.Event | None = field(default=None, init=False)
    """Set when there is something to send; belongs to `run`."""
    _crowded: anyio.Event | None = field(default=None, init=False)
    """Set when what waited was sent."""

    def put(self, frame: FromGateway) -> None:
        """Send a frame soon."""
        self._frames.append(frame)
        if isinstance(frame, Reply):
            self._bytes += len(frame.value) + _SMALLEST_REPLY
        self._nudge()

    def put_all(self, frames: Iterable[FromGateway]) -> None:
        """Send frames soon, none of which is a `Reply`."""
        self._frames.extend(frames)
        self._nudge()

    def accept(self, lease_id: str) -> None:
        """Say soon that an outcome was stored."""
        self._accepted.append(lease_id)
        self._nudge()

    def lose(self, lease_id: str) -> None:
        """Say soon that an outcome came too late."""
        self._lost.append(lease_id)
        self._nudge()

    def refuse(self, lease_id: str, reason: str) -> None:
        """Say soon that an outcome cannot be stored."""
        self._refused[lease_id] = reason
        self._nudge()

    def take_back(self) -> list[Task]:
        """Return the tasks that were not sent, which will not be."""
        unsent = [frame for frame in self._frames if isinstance(frame, Task)]
        self._frames = [frame for frame in self._frames if not isinstance(frame, Task)]
        return unsent

    def untold_commands(self) -> Sequence[str]:
        """Take out what operators sent to the worker, and no message that was sent has told."""
        untold = [*self._cut_off, *_commands_in(self._frames)]
        self._frames = [frame for frame in self._frames if not _commands_in([frame])]
        return untold

    @property
    def is_crowded(self) -> bool:
        """Whether too much waits to be sent."""
        return self._bytes > _ENOUGH

    async def room(self) -> None:
        """Wait until not too much waits to be sent; no checkpoint if that is so."""
        while self.is_crowded:
            await self._flushed()

    async def all_but_read(self) -> None:
        """Wait until not too much waits to be sent or read by the worker; no checkpoint if that is so."""
        while self._bytes + self._sending > _ENOUGH:
            await self._flushed()

    async def run(self) -> None:
        """Send what there is, until cancelled.

        Raises:
            SessionLost: The connection is gone.
        """
        while True:
            if self._has_news():
                await anyio.lowlevel.checkpoint()  # there may be more to it
            else:
                self._waiting = anyio.Event()
                await self._waiting.wait()
                self._waiting = None
            await self._flush()

    async def say_goodbye(self, frame: FromGateway | None, code: int, reason: str) -> None:
        """Say what is left but tasks, and a last frame, and close the connection.

        Cancellation: takes a second at the most.
        """
        self.take_back()
        if frame is not None:
            self._frames.append(frame)
        with anyio.move_on_after(_LAST_WORDS, shield=True):
            try:
                await self._flush()
                await self._connection.close(code, reason)
            except SessionLost:
                return

    async def _flushed(self) -> None:
        if self._crowded is None:
            self._crowded = anyio.Event()
        await self._crowded.wait()

    def _nudge(self) -> None:
        if self._waiting is not None:
            self._waiting.set()

    def _has_news(self) -> bool:
        return bool(self._frames or self._accepted or self._lost or self._refused)

    async def _flush(self) -> None:
        frames, self._frames = self._frames, []
        if self._accepted or self._lost or self._refused:
            frames.append(ResultAck(tuple(self._accepted), tuple(self._lost), self._refused))
            self._accepted, self._lost, self._refused = [], [], {}
        self._sending, self._bytes = self._bytes, 0
        commands = _commands_in(frames)
        self._cut_off += commands
        for message in self._encode(frames):
            self.sending_since = anyio.current_time()
            await self._connection.send(message)
        self.sending_since, self._sending = math.inf, 0
        del self._cut_off[len(self._cut_off) - len(commands) :]
        if self._crowded is not None:
            crowded, self._crowded = self._crowded, None
            crowded.set()

    def _encode(self, frames: list[FromGateway]) -> Iterable[bytes]:
        try:
            return messages_of(frames)
        except ProtocolError:
            return self._encode_each(frames)

    def _encode_each(self, frames: list[FromGateway]) -> Iterable[bytes]:
        """Encode frames of which one is too large."""
        for frame in frames:
            try:
                yield from messages_of([frame])
            except ProtocolError as exc:
                if isinstance(frame, Reply):
                    yield from messages_of([Reply(frame.id, fault=Fault("InvalidRequest", str(exc)))])
                elif isinstance(frame, Task):
                    self._too_large(frame, str(exc))
                else:
                    raise


def _commands_in(frames: Iterable[FromGateway]) -> list[str]:
    return [word for frame in frames if isinstance(frame, HeartbeatAck) for word in frame.commands]
