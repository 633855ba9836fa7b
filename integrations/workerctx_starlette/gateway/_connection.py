"""One WebSocket, as ASGI gives it, with messages that are bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, field
from starlette.requests import HTTPConnection

from workerctx.errors import ProtocolError, SessionLost

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

GOING_AWAY: Final = 1001
BREACH: Final = 1008
RESTART: Final = 1012
"""Why a WebSocket is closed, as RFC 6455 numbers it."""

_LONGEST_REASON: Final = 123
"""Bytes that a close frame has for it."""


@define(eq=False)
class Connection:
    """A WebSocket on the server's side.

    Attributes:
        scope: What ASGI says of it.
    """

    scope: Scope
    _receive: Receive
    _send: Send
    _accepted: bool = field(default=False, init=False)

    @property
    def head(self) -> HTTPConnection:
        """Its headers, addresses and extensions."""
        return HTTPConnection(self.scope)

    def __str__(self) -> str:
        client = self.scope.get("client")
        return f"{client[0]}:{client[1]}" if client else "an unknown address"

    async def accept(self) -> None:
        """Open it."""
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})
        self._accepted = True

    async def refuse(self, status: int, reason: str) -> None:
        """Answer the request for a WebSocket with an HTTP status, where the server can; else it is 403."""
        await self._receive()  # websocket.connect
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self._send({"type": "websocket.close", "code": BREACH, "reason": _cut(reason)})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if status >= 500:  # noqa: PLR2004 - the gateway's fault
            headers.append((b"retry-after", b"1"))
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await self._send({"type": "websocket.http.response.body", "body": f"{reason}\n".encode()})

    async def receive(self) -> bytes | None:
        """Return the next message; None at the end.

        Raises:
            ProtocolError: It is a text.
        """
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return None
        raw: bytes | None = message.get("bytes")
        if raw is None:
            raise ProtocolError("a message is a text, and the protocol's messages are binary")
        return raw

    async def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            SessionLost: The other side is gone.
        """
        try:
            await self._send({"type": "websocket.send", "bytes": message})
        except Exception as exc:  # servers differ in what they raise
            raise SessionLost(f"its connection is gone: {exc!r}") from exc

    async def close(self, code: int, reason: str) -> None:
        """Close it.

        Raises:
            SessionLost: The other side is gone.
        """
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": _cut(reason)})
        except Exception as exc:
            raise SessionLost(f"its connection is gone: {exc!r}") from exc


def _cut(reason: str) -> str:
    """Return as much of a reason as a close frame can hold."""
    return reason.encode("utf-8", "replace")[:_LONGEST_REASON].decode("utf-8", "ignore")
