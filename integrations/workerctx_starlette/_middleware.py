"""`WorkerContextMiddleware`: the drain of a context waits for requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import anyio
from attrs import define, field
from starlette.responses import PlainTextResponse

from workerctx.errors import NotAccepting, TaskCancelled
from workerctx_starlette._lookup import worker_from
from workerctx_starlette._probes import may_be_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from workerctx.lifecycle import WorkerContext

_log = logging.getLogger("workerctx")

_LAST_WORDS: Final = 1.0
"""Seconds that telling a client of a cancelled request may take."""

_TRY_AGAIN_LATER: Final = 1013
_GOING_AWAY: Final = 1001


class WorkerContextMiddleware:
    """Track requests and websockets on a context of the application, as plain ASGI.

    A stopping context waits for what it tracks, and at its deadline the request is cancelled: the client gets 503 if
    the response had not begun, a websocket is closed with 1001. While the context is paused or stopping, a tracked
    route answers 503 with ``Retry-After``, and a websocket is refused. Probes are never tracked.

    Args:
        app: the application to wrap.
        track: whether to track, or a function of the ASGI scope that decides it for each request.
        name: the context to track on; needed only if the application has several.
        retry_after: seconds after which a client may try again, for ``Retry-After``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        track: bool | Callable[[Scope], bool] = True,
        name: str | None = None,
        retry_after: int = 5,
    ) -> None:
        self.app = app
        self._track = track
        self._name = name
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection.

        Raises:
            MissingData: the request is to be tracked and its state has no such context.
            AmbiguousWorker: it has several and none was named.
            TaskCancelled: the deadline came in the middle of a response, which must not look complete.
        """
        if scope["type"] not in {"http", "websocket"} or not self._is_tracked(scope):
            await self.app(scope, receive, send)
            return
        context = worker_from(scope, self._name)
        client = _Client(scope, receive, send, self._retry_after)
        # Nothing may start to wait at the gate here: it would be a request that nobody answers.
        if not context.is_running:
            await client.refuse(f"worker {context.name!r} is {context.ready_reason}")
            return
        try:
            tracked = context.track(self._serve(context, client))
        except NotAccepting as exc:  # stopped by a signal or a thread just now
            await client.refuse(str(exc))
            return
        await tracked
        if client.was_cut_off:
            # Whoever stands around this, such as BaseHTTPMiddleware, would take a return for the end of the body.
            raise TaskCancelled(f"the response to {client} was cut off by the stop of worker {context.name!r}")

    async def _serve(self, context: WorkerContext, client: _Client) -> None:
        scope = anyio.CancelScope()
        # Around all of it: who has yet to hear 503 still counts as being cancelled, and not as left over.
        with context.cancel_at_deadline(scope):
            with scope:
                await self.app(client.scope, client.receive, client.send)
            if scope.cancelled_caught:
                _log.warning("%s was cancelled at the deadline of worker %r", client, context.name)
                with anyio.move_on_after(_LAST_WORDS):
                    await client.give_up(f"worker {context.name!r} stopped before this request was done")

    def _is_tracked(self, scope: Scope) -> bool:
        if may_be_probe(scope, self._routes()):
            return False
        return self._track(scope) if callable(self._track) else self._track

    def _routes(self) -> Sequence[BaseRoute] | None:
        # They lie behind whatever other middleware there is, not all of which says what it wraps.
        app: Any = self.app
        while app is not None and not hasattr(app, "routes"):
            app = getattr(app, "app", None)
        return None if app is None else app.routes


@define(eq=False)
class _Client:
    """The other end of a connection, and how far the answer to it has come."""

    scope: Scope
    receive: Receive
    _send: Send
    _retry_after: int
    _begun: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    was_cut_off: bool = field(default=False, init=False)
    """Whether a response was given up that had begun and not ended."""

    async def send(self, message: Message) -> None:
        """Pass on what the application sends."""
        self._begun = True
        self._ended = self._ended or _is_last(message)
        await self._send(message)

    async def refuse(self, reason: str) -> None:
        """Answer in place of the application."""
        if self.scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": reason[:100]})
            return
        response = PlainTextResponse(f"{reason}\n", 503, {"Retry-After": str(self._retry_after)})
        await response(self.scope, self.receive, self._send)

    async def give_up(self, reason: str) -> None:
        """Answer for an application that was cancelled, as far as it can still be done."""
        if not self._begun:
            await self.refuse(reason)
        elif self._ended:
            return
        elif self.scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": _GOING_AWAY, "reason": reason[:100]})
        else:
            self.was_cut_off = True

    def __str__(self) -> str:
        return f"{self.scope.get('method', 'WEBSOCKET')} {self.scope['path']}"


def _is_last(message: Message) -> bool:
    match message["type"]:
        case "http.response.body" | "websocket.http.response.body":
            return not message.get("more_body", False)
        case kind:
            return kind in {"http.response.pathsend", "websocket.close"}
