"""A session with a gateway, as the worker sees it: frames out, frames in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

import anyio

from workerctx.errors import (
    PermissionDenied,
    ProtocolError,
    RegistrationFailed,
    RemoteError,
    SessionLost,
    Unauthenticated,
)
from workerctx.remote.frames import VERSIONS, Denied, RegisterAck
from workerctx.remote.wire import portions_of

if TYPE_CHECKING:
    from workerctx.remote.frames import FromWorker, Register
    from workerctx.remote.wire import Incoming


class WorkerSession(Protocol):
    """An open session; belongs to one event loop.

    Attributes:
        max_message: Largest message that the gateway accepts, in bytes; the registration sets it.
        silence: Seconds without a message after which the session asks whether the gateway lives; set before each
            `receive`.
    """

    max_message: int
    silence: float

    async def send(self, frames: Sequence[FromWorker], /) -> None:
        """Send frames, in order, in as few messages as possible.

        Raises:
            SessionLost: The session broke.
            ProtocolError: One of them is larger than the gateway accepts.
        """
        ...

    async def receive(self) -> Sequence[Incoming] | None:
        """Return the frames of the next message; None once the gateway has closed the session in good order.

        Cancellation: loses no message; the next call returns it.

        Raises:
            SessionLost: The session broke.
            ProtocolError: The gateway said what cannot be understood.
        """
        ...


Connector: TypeAlias = Callable[[], AbstractAsyncContextManager[WorkerSession]]
"""Opens a session when it is entered, or raises `RemoteError`, and closes it when it is left."""


async def register(session: WorkerSession, frame: Register, seconds: float) -> tuple[RegisterAck, Sequence[Incoming]]:
    """Register a worker, and wait for the answer.

    Args:
        session: An open session.
        frame: Who the worker is.
        seconds: How long the whole may take.

    Returns:
        The answer, and what came with it in the same message.

    Raises:
        SessionDenied: The gateway refuses the worker.
        RegistrationFailed: It did not answer, or is busy.
        ProtocolError: It answered something else.
        SessionLost: The session broke.
    """
    try:
        with anyio.fail_after(seconds):
            await session.send([frame])
            frames = await session.receive()
            while frames is not None and not frames:
                frames = await session.receive()
    except TimeoutError as exc:
        raise RegistrationFailed(f"the gateway did not answer a registration within {seconds:g} seconds") from exc
    if frames is None:
        raise RegistrationFailed("the gateway closed the session instead of answering a registration")
    first, *rest = frames
    match first:
        case RegisterAck() if first.version in VERSIONS:
            session.max_message = first.max_message
            return first, rest
        case RegisterAck():
            raise ProtocolError(f"the gateway chose version {first.version} of the protocol, and we speak {VERSIONS}")
        case Denied():
            raise denial(first)
        case _:
            raise ProtocolError(f"the gateway began with a {type(first).__name__} frame instead of an acknowledgement")


def denial(frame: Denied) -> RemoteError:
    """Return the exception that says what a `Denied` frame says."""
    message = f"the gateway denies this worker ({frame.code}): {frame.message or 'no reason was given'}"
    match frame.code:
        case "unauthenticated":
            return Unauthenticated(message)
        case "permission_denied":
            return PermissionDenied(message)
        case _:
            return RegistrationFailed(message)


async def send(session: WorkerSession, frames: Sequence[FromWorker], seconds: float) -> None:
    """Send frames, one message after the other.

    Args:
        session: An open session.
        frames: What to say.
        seconds: How long each message may take.

    Raises:
        SessionLost: The session broke, or the gateway did not take a message in time.
        ProtocolError: A frame is larger than the gateway accepts.
    """
    try:
        for portion in portions_of(frames):
            with anyio.fail_after(seconds):
                await session.send(portion)
    except TimeoutError as exc:
        raise SessionLost(f"the gateway took nothing for {seconds:g} seconds") from exc
