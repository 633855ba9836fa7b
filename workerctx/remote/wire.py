"""Messages: several frames as one msgpack array, in and out, with limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from workerctx.errors import ProtocolError
from workerctx.remote.faults import UNREADABLE
from workerctx.remote.frames import MAX_MESSAGE, Failure, FromGateway, FromWorker, Progress, Request, Result
from workerctx.remote.records import ErrorRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

F = TypeVar("F")

MESSAGE_TARGET: Final = 256 * 1024
"""Bytes after which frames go on in another message, so that a long one holds up nobody."""

_ARRAY_HEADER: Final = 5
_HEAD: Final = 200
"""Bytes of a frame that are not what it carries, about."""
_OPTIONAL: Final = "?"

_encoder: Final = msgspec.msgpack.Encoder()


class BrokenTask(msgspec.Struct, frozen=True):
    """A task that cannot be understood, but whose lease is known: that job fails, and nothing else.

    Attributes:
        lease_id: The lease of the job.
        reason: What is wrong with it.
    """

    lease_id: str
    reason: str


class _Head(msgspec.Struct, frozen=True):
    t: str
    lease_id: str | None = None


_heads: Final[msgspec.msgpack.Decoder[_Head]] = msgspec.msgpack.Decoder(_Head)


def messages_of(frames: Iterable[msgspec.Struct], max_message: int = MAX_MESSAGE) -> Sequence[bytes]:
    """Encode frames into as few messages as their size allows, in order.

    Args:
        frames: What to say.
        max_message: Largest message that the other side accepts, in bytes.

    Raises:
        ProtocolError: One frame alone is larger than that.
    """
    target = min(MESSAGE_TARGET, max_message)
    messages: list[bytes] = []
    batch: list[bytes] = []
    size = _ARRAY_HEADER
    for frame in frames:
        raw = _encoder.encode(frame)
        if len(raw) + _ARRAY_HEADER > max_message:
            raise ProtocolError(
                f"a {type(frame).__name__} frame has {len(raw)} bytes, and the other side accepts {max_message}"
            )
        if batch and size + len(raw) > target:
            messages.append(_array(batch))
            batch, size = [], _ARRAY_HEADER
        batch.append(raw)
        size += len(raw)
    if batch:
        messages.append(_array(batch))
    return messages


def portions_of(frames: Sequence[FromWorker]) -> Iterator[Sequence[FromWorker]]:
    """Split frames into what fills about one message each, in order."""
    first, size = 0, 0
    for number, frame in enumerate(frames):
        own = _HEAD + _load(frame)
        if number > first and size + own > MESSAGE_TARGET:
            yield frames[first:number]
            first, size = number, 0
        size += own
    if first < len(frames):
        yield frames[first:]


def _load(frame: FromWorker) -> int:
    """Return how many bytes a frame carries, about and without encoding it."""
    match frame:
        case Result():
            return len(frame.outputs)
        case Failure(error=ErrorRecord() as error):
            return len(error.message) + len(error.traceback or "") + len(error.details)
        case Progress():
            return len(frame.value)
        case Request():
            return len(bytes(frame.call))
        case _:
            return 0


def _array(frames: Sequence[bytes]) -> bytes:
    number = len(frames)
    if number < 16:  # noqa: PLR2004 - the headers of msgpack arrays
        header = bytes((0x90 | number,))
    elif number < 1 << 16:
        header = b"\xdc" + number.to_bytes(2, "big")
    else:
        header = b"\xdd" + number.to_bytes(4, "big")
    return header + b"".join(frames)


class Reader(Generic[F]):
    """Decodes the messages of one side.

    Args:
        frames: The union of the frames that this side sends.
        max_message: Largest message to accept, in bytes.
        mend: Makes something of a frame that cannot be understood, given its name, its lease and the problem; None
            if nothing can be made of it.
    """

    def __init__(
        self,
        frames: Any,
        max_message: int = MAX_MESSAGE,
        mend: Callable[[str, str | None, str], F | None] | None = None,
    ) -> None:
        self.max_message: int = max_message
        self._mend = mend
        self._whole: msgspec.msgpack.Decoder[list[F]] = msgspec.msgpack.Decoder(list[frames])
        self._single: msgspec.msgpack.Decoder[F] = msgspec.msgpack.Decoder(frames)
        self._parts: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])

    def read(self, message: bytes) -> Sequence[F]:
        """Return the frames of a message; unknown ones that may be skipped are left out.

        Raises:
            ProtocolError: It is too large, or no message, or has a frame that cannot be understood.
        """
        if len(message) > self.max_message:
            raise ProtocolError(f"a message has {len(message)} bytes, and {self.max_message} are accepted")
        try:
            return self._whole.decode(message)
        except UNREADABLE:
            pass  # perhaps only one frame of it cannot be understood
        try:
            parts = self._parts.decode(message)
        except UNREADABLE as exc:
            raise ProtocolError(f"a message is no array of frames: {exc}") from exc
        return [frame for part in parts if (frame := self._read_part(part)) is not None]

    def _read_part(self, part: msgspec.Raw) -> F | None:
        try:
            return self._single.decode(part)
        except UNREADABLE as exc:
            problem = exc
        try:
            head = _heads.decode(part)
        except UNREADABLE:
            raise ProtocolError(f"a frame cannot be understood: {problem}") from problem
        if head.t.startswith(_OPTIONAL):
            return None
        mended = None if self._mend is None else self._mend(head.t, head.lease_id, str(problem))
        if mended is not None:
            return mended
        raise ProtocolError(f"a frame {head.t[:40]!r} cannot be understood: {problem}") from problem


Incoming: TypeAlias = FromGateway | BrokenTask
"""What a worker may receive."""


def worker_reader(max_message: int = MAX_MESSAGE) -> Reader[Incoming]:
    """Return a reader of what gateways send to workers."""

    def mend(name: str, lease_id: str | None, problem: str) -> Incoming | None:
        return BrokenTask(lease_id, problem) if name == "task" and lease_id is not None else None

    return Reader(FromGateway, max_message, mend)


def gateway_reader(max_message: int = MAX_MESSAGE) -> Reader[FromWorker]:
    """Return a reader of what workers send to gateways."""
    return Reader(FromWorker, max_message)
