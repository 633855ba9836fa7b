"""`Gateway`: an ASGI application through which workers without database access are served."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from anyio import AsyncContextManagerMixin
from starlette.responses import PlainTextResponse

from workerctx.errors import InvalidConfig, InvalidTransition
from workerctx.lifecycle import Outcome, Resume, WorkerContext
from workerctx.lifecycle.groups import collapse
from workerctx.lifecycle.latch import Latch
from workerctx.queue import StoreURL, connect, new_id
from workerctx.queue.memory import is_shared
from workerctx.remote.frames import Drain
from workerctx_starlette.gateway._config import GatewayConfig
from workerctx_starlette.gateway._connection import RESTART, Connection
from workerctx_starlette.gateway._door import Door
from workerctx_starlette.gateway._engine import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from typing import Self

    from anyio.abc import TaskStatus
    from starlette.types import Receive, Scope, Send

    from workerctx.lifecycle import Event
    from workerctx.queue import Storage
    from workerctx_starlette.gateway._identity import Authenticate

_log = logging.getLogger("workerctx")

_STOPPED: Final = "the gateway has stopped"
_GOODBYE: Final = 3.0
"""Seconds that closing what is left of the connections may take."""


class Gateway(AsyncContextManagerMixin):
    """Serves remote workers from a store, over WebSocket.

    It is a plain ASGI application: mount it with ``WebSocketRoute("/workers", gateway)`` and run it in the lifespan of
    the application, ``lifespan=gateway.lifespan``; or serve it alone, as it answers lifespan events by itself. Several
    gateways may share a store, and a worker may come back to another one.

    Its `context` is a `WorkerContext`. Paused, it claims no jobs and keeps its workers. Stopped, it tells them to
    finish what they have and waits for that until the deadline; then it hangs up, and they report to another gateway.

    Args:
        storage: The store: a URL or a `Storage` that is not open; or one for each namespace, by the name under which
            workers ask for it. The gateway opens and closes them.
        authenticate: Says who a connection comes from; see `Authenticate`.
        config: The settings.
        name: For people and logs, and the context's name in the state of an application.

    Raises:
        InvalidConfig: There is no authentication, or no store.
    """

    def __init__(
        self,
        storage: str | Storage | Mapping[str, str | Storage],
        *,
        authenticate: Authenticate | None = None,
        config: GatewayConfig | None = None,
        name: str = "gateway",
    ) -> None:
        if authenticate is None:
            raise InvalidConfig(
                "a gateway hands out jobs and takes results, so it does not start without authentication: pass"
                " authenticate=bearer_tokens({...}), client_certificates({...}) or a function of your own"
            )
        if isinstance(storage, Mapping):
            stores = dict(storage)
        else:
            single = connect(storage) if isinstance(storage, str) else storage
            stores = {single.namespace: storage}
        if not stores:
            raise InvalidConfig("a gateway needs a store for at least one namespace")
        _refuse_shared(stores)
        self.config: GatewayConfig = config or GatewayConfig()
        self._stores: dict[str, str | Storage] = stores
        self._authenticate = authenticate
        self._name = name
        self._context = self._make_context()
        self._door: Door | None = None
        self._connections = 0
        self._deserted = Latch(lambda: self._connections == 0)

    @property
    def context(self) -> WorkerContext:
        """The lifecycle of this run of the gateway, or of the next one."""
        return self._context

    @property
    def workers(self) -> int:
        """How many workers are connected."""
        return 0 if self._door is None else sum(len(engine.sessions) for engine in self._door.engines.values())

    async def run(self) -> None:
        """Serve until stopped and drained; somebody has to pass connections on to this application meanwhile.

        A store that cannot be reached yet is waited for, as long as `GatewayConfig.store_patience` says; a stop ends
        the wait.

        Raises:
            WorkerFailed: The gateway's infrastructure failed.
            InvalidTransition: It was stopped before.

        Cancellation: hangs up; workers report to another gateway.
        """

        async def until_stopped() -> None:
            await self._context.wait_stopping()  # by then this run's context

        await self.run_while(until_stopped)

    async def run_while(self, body: Callable[[], Awaitable[object]]) -> None:
        """Serve as `run` does until `body` ends, then drain; it begins once the store is open.

        Raises:
            WorkerFailed: The gateway's infrastructure failed.
            InvalidTransition: It was stopped before.

        Cancellation: hangs up; workers report to another gateway.
        """
        self._prepare()
        try:
            async with self:
                await body()
        except InvalidTransition:
            if self._context.outcome is not Outcome.NEVER_STARTED:
                raise  # otherwise it was stopped while it waited for its store

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[Mapping[str, WorkerContext]]:  # noqa: ARG002 - the shape of a lifespan
        """Run inside the lifespan of an application; combine it with others by `combine_lifespans`."""
        async with self:
            yield {self._name: self._context}

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        context = self._prepare()
        failure: Exception | None = None
        # The gateway lives in a task of its own: at its deadline the context cancels its body, and this one may be an
        # application.
        async with anyio.create_task_group() as tasks:
            try:
                await tasks.start(self._live, context)
            except Exception as exc:  # noqa: BLE001 - raised below, outside of the task group, which would wrap it
                failure = exc
            else:
                try:
                    yield self
                except Exception as exc:  # noqa: BLE001 - likewise
                    failure = exc
                context.stop("the body of its async with block ended")
        if failure is not None:
            raise failure
        await context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, as an ASGI application."""
        match scope["type"]:
            case "websocket":
                await self._serve(Connection(scope, receive, send))
            case "lifespan":
                await self._serve_lifespan(receive, send)
            case _:
                response = PlainTextResponse("workers speak WebSocket here\n", 426, {"Upgrade": "websocket"})
                await response(scope, receive, send)

    async def _serve(self, connection: Connection) -> None:
        door = self._door
        if door is None or self._context.is_shutting_down:
            await connection.refuse(503, "this gateway is not running: try again")
        elif self._connections >= self.config.max_sessions:
            await connection.refuse(
                503, f"this gateway serves {self._connections} workers and takes no more: try again"
            )
        else:
            self._connections += 1
            try:
                session = await door.admit(connection)
                if session is not None and self._door is door:
                    await session.serve()
                elif session is not None:  # it took its time, and nobody would hear what it says
                    await session.outbox.say_goodbye(Drain(_STOPPED), RESTART, _STOPPED)
            finally:
                self._connections -= 1
                self._deserted.wake()

    def _prepare(self) -> WorkerContext:
        if self._context.is_finished and self._context.outcome is not Outcome.NEVER_STARTED:
            self._context = self._make_context()
        elif self._context.is_stopped:
            raise InvalidTransition(self._name, self._context.state.value, "run", "it was stopped; make a new gateway")
        return self._context

    async def _live(self, context: WorkerContext, *, task_status: TaskStatus[None]) -> None:
        gateway_id = new_id()
        try:
            async with AsyncExitStack() as stack:
                engines: dict[str, Engine] = {}
                for namespace, given in self._stores.items():
                    storage = connect(given) if isinstance(given, str) else given
                    engine = Engine(namespace, storage, self.config, context, gateway_id)
                    await stack.enter_async_context(engine.serving())
                    engines[namespace] = engine
                self._door = Door(engines, self._authenticate, self.config)

                def look(_: WorkerContext, __: Event) -> None:
                    for engine in engines.values():
                        engine.exchange.look()

                context.listen(look, Resume)
                try:
                    async with context:
                        task_status.started()
                        await context.wait_stopping()
                        await self._drain(engines, context)
                finally:
                    self._door = None
                    await self._hang_up(engines)
        except BaseException as exc:  # noqa: BLE001 - raised again, unless the context raises it
            error = collapse(exc)
            if context.failure is None or not isinstance(error, Exception):
                raise error from error.__cause__
            # Whoever awaits the context raises it, at the latest when the application shuts down.
            _log.error("gateway %r failed", context.name, exc_info=error)

    async def _drain(self, engines: Mapping[str, Engine], context: WorkerContext) -> None:
        """Let workers finish what they have, until the context's deadline cancels this."""
        for engine in engines.values():
            for session in engine.sessions.values():
                session.drain(context.reason or "the gateway is stopping")
        await self._deserted.wait()

    async def _hang_up(self, engines: Mapping[str, Engine]) -> None:
        with anyio.move_on_after(_GOODBYE, shield=True):
            for engine in engines.values():
                for session in list(engine.sessions.values()):
                    session.end(RESTART, _STOPPED)
            await self._deserted.wait()

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        started = False
        try:
            async with self:
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as exc:
            kind = "shutdown" if started else "startup"
            await send({"type": f"lifespan.{kind}.failed", "message": str(exc)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    def _make_context(self) -> WorkerContext:
        return WorkerContext(self._name, grace=self.config.grace, service="Gateway")


def _refuse_shared(stores: Mapping[str, str | Storage]) -> None:
    """Refuse stores that cannot be opened, and one that two namespaces of workers would share.

    Raises:
        InvalidConfig: Two share one.
        InvalidRequest: A URL makes no sense.
    """
    taken: dict[object, str] = {}
    for name, store in stores.items():
        place: object = store
        if isinstance(store, str):
            connect(store)
            url = StoreURL.parse(store)
            place = name if url.scheme == "memory" and not is_shared(url) else (url.location, url.namespace)
        other = taken.setdefault(place, name)
        if other != name:
            raise InvalidConfig(
                f"the namespaces {other!r} and {name!r} of workers have one store, so each would get the other's jobs:"
                " give each URL a ?namespace= of its own"
            )
