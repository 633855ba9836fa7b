"""The way in: who is it, may it, and what does it want; each within a bounded time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio
from attrs import field, frozen

import workerctx
from workerctx.errors import ProtocolError, SessionDenied, SessionLost, Unauthenticated
from workerctx.remote.frames import VERSIONS, Denied, Register, RegisterAck
from workerctx.remote.wire import gateway_reader, messages_of
from workerctx_starlette.gateway._checks import check_id, check_name
from workerctx_starlette.gateway._connection import BREACH
from workerctx_starlette.gateway._identity import LookUps, recognise
from workerctx_starlette.gateway._session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workerctx_starlette.gateway._config import GatewayConfig
    from workerctx_starlette.gateway._connection import Connection
    from workerctx_starlette.gateway._engine import Engine
    from workerctx_starlette.gateway._identity import Authenticate, Identity

_log = logging.getLogger("workerctx")

_UNAUTHORIZED, _FORBIDDEN, _UNAVAILABLE = 401, 403, 503
_MOST = 2**31 - 1
_LOOK_UPS: Final = 40
"""How many workers are looked up in threads at once."""
_SHOWN: Final = 3
"""How many namespaces a refusal names."""
_MOST_NAMES: Final = 10_000
"""Of each kind of names in a registration; they are compared with each other while everybody else waits."""


class _Turned(Exception):
    """A worker is turned away.

    Attributes:
        code: The word for it in the protocol.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@frozen(eq=False)
class Door:
    """Lets workers in.

    Attributes:
        engines: What they can serve, by namespace.
    """

    engines: Mapping[str, Engine]
    _authenticate: Authenticate
    _config: GatewayConfig
    _threads: LookUps = field(factory=lambda: LookUps(_LOOK_UPS), init=False)
    """Of look-ups that are not async, so that those which hang take no threads from the application."""

    async def admit(self, connection: Connection) -> Session | None:
        """Return a worker that is registered; None if it was turned away, or left."""
        identity = await self._recognise(connection)
        if identity is None:
            return None
        await connection.accept()
        try:
            with anyio.fail_after(self._config.register_timeout):
                return await self._register(connection, identity)
        except TimeoutError:
            denied = Denied("invalid", f"a worker registers within {self._config.register_timeout:g} seconds")
        except _Turned as exc:
            denied = Denied(exc.code, str(exc))
        except ProtocolError as exc:
            denied = Denied("invalid", str(exc))
        except SessionLost:
            return None
        _log.warning("%r from %s was turned away: %s", identity.subject, connection, denied.message)
        with anyio.move_on_after(self._config.send_timeout):
            try:
                for message in messages_of([denied]):
                    await connection.send(message)
                await connection.close(BREACH, denied.message)
            except SessionLost:
                pass
        return None

    async def _recognise(self, connection: Connection) -> Identity | None:
        """Find out who it is before anything else is done."""
        try:
            with anyio.fail_after(self._config.register_timeout):
                return await recognise(self._authenticate, connection.head, self._threads)
        except SessionDenied as exc:
            _log.warning("a worker from %s was turned away: %s", connection, exc)
            status, reason = _UNAUTHORIZED if isinstance(exc, Unauthenticated) else _FORBIDDEN, str(exc)
        except Exception:  # noqa: BLE001 - not the fault of the worker, which tries again
            _log.exception("a worker from %s could not be recognised", connection)
            status, reason = _UNAVAILABLE, "the gateway cannot tell who this is now: try again"
        await connection.refuse(status, reason)
        return None

    async def _register(self, connection: Connection, identity: Identity) -> Session | None:
        message = await connection.receive()
        if message is None:
            return None
        frames = gateway_reader(self._config.max_message).read(message)
        hello = frames[0] if len(frames) == 1 else None
        if not isinstance(hello, Register):
            raise ProtocolError("a worker registers first, in a message of its own")
        version = next((each for each in VERSIONS if each in hello.versions), None)
        if version is None:
            known = ", ".join(map(str, VERSIONS))
            raise _Turned(
                "version", f"the gateway speaks version {known} of the protocol, and the worker none of these"
            )
        _check(hello)
        namespace, engine = self._engine_for(hello, identity)
        earlier = engine.sessions.get(hello.worker_id)
        if earlier is not None and earlier.identity.subject != identity.subject:
            raise _Turned("permission_denied", f"worker {hello.worker_id!r} is somebody else")
        session = Session(engine, connection, hello, identity)
        await session.adopt(hello.holding)
        session.outbox.put(
            RegisterAck(
                version=version,
                worker_id=hello.worker_id,
                namespace=namespace,
                heartbeat=self._config.silence / 3,
                idle_heartbeat=self._config.idle_silence / 3,
                lease_ttl=min(self._config.lease_ttl, self._config.resume_window),
                max_message=self._config.max_message,
                server=f"workerctx {workerctx.__version__}",
            )
        )
        return session

    def _engine_for(self, hello: Register, identity: Identity) -> tuple[str, Engine]:
        for namespace in hello.namespaces:
            if namespace in identity.namespaces and namespace in self.engines:
                return namespace, self.engines[namespace]
        asked = ", ".join(map(repr, hello.namespaces[:_SHOWN])) + (" ..." if len(hello.namespaces) > _SHOWN else "")
        raise _Turned("permission_denied", f"{identity.subject!r} may not serve {asked} here")


def _check(hello: Register) -> None:
    """Refuse what a store might stumble over.

    Raises:
        ProtocolError: It is too long, too large, unprintable or missing.
    """
    for what, names in (("a queue", hello.queues), ("a kind", hello.kinds), ("a worker's id", (hello.worker_id,))):
        if not names or not all(names):
            raise ProtocolError(f"a worker names {what} to register")
    _check_numbers(hello)
    for name in (*hello.queues, *hello.kinds, *hello.labels, *hello.namespaces):
        check_name("each queue, kind, label and namespace", name)
    for name in (hello.worker_id, hello.identity, hello.node, hello.host_id):
        check_name("what a worker says of itself", name)
    queues = frozenset(hello.queues)
    for queue, weight in hello.weights.items():
        if queue not in queues or not 1 <= weight <= _MOST:
            raise ProtocolError(f"a worker cannot have weight {weight} for the queue {queue[:40]!r}")
    for lease_id in hello.holding:
        check_id(lease_id)
    if not (1 <= hello.concurrency <= _MOST and 0 <= hello.pid <= _MOST):
        raise ProtocolError(f"a worker cannot have concurrency {hello.concurrency} and process id {hello.pid}")


def _check_numbers(hello: Register) -> None:
    for what, number in (
        ("queues", len(hello.queues)),
        ("kinds", len(hello.kinds)),
        ("labels", len(hello.labels)),
        ("namespaces", len(hello.namespaces)),
    ):
        if number > _MOST_NAMES:
            raise ProtocolError(f"a worker names at most {_MOST_NAMES} {what}, not {number}")
