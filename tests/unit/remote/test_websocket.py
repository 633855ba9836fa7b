"""R7: who is silent is asked whether it lives."""

from __future__ import annotations

import anyio
import pytest
from wsproto.events import BytesMessage

from workerctx.errors import SessionLost
from workerctx.remote.frames import HeartbeatAck
from workerctx.remote.websocket import WebSocketSession
from workerctx.remote.wire import messages_of


class Socket:
    """A WebSocket whose other side says something after a time, and answers as many pings as it likes."""

    def __init__(self, says_at: float, answers: int) -> None:
        self.says_at = anyio.current_time() + says_at
        self.answers = answers
        self.pings: list[float] = []

    async def receive(self) -> BytesMessage:
        await anyio.sleep_until(self.says_at)
        (message,) = messages_of([HeartbeatAck()])
        return BytesMessage(bytearray(message))

    async def ping(self) -> anyio.Event:
        self.pings.append(anyio.current_time())
        answered = anyio.Event()
        if len(self.pings) <= self.answers:
            answered.set()
        return answered


async def test_who_answers_a_ping_may_be_silent(virtual_time):
    """A gateway that has nothing to say is pinged once per silence, and kept."""
    virtual_time()
    began = anyio.current_time()
    socket = Socket(says_at=50.0, answers=3)
    session = WebSocketSession(socket)
    session.silence = 12.0
    assert await session.receive() == [HeartbeatAck()]
    assert [moment - began for moment in socket.pings] == pytest.approx([12, 29, 46])


async def test_who_answers_no_ping_is_gone(virtual_time):
    """A gateway that is frozen, or behind a broken network, is found although nothing closes the connection."""
    virtual_time()
    began = anyio.current_time()
    session = WebSocketSession(Socket(says_at=1000.0, answers=0))
    session.silence = 12.0
    with pytest.raises(SessionLost, match="silent for 17 seconds, also to a ping"):
        await session.receive()
    assert anyio.current_time() - began == pytest.approx(17)
