"""The driver's clients for each kind of endpoint, and one way to run the script through any of them."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import attrs
import coredis
import msgspec
from anyio import TASK_STATUS_IGNORED
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis.connection import (
    BaseConnection,
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)
from coredis.pool import ConnectionPool
from coredis.retry import NoRetryPolicy

from workerctx.errors import StoreBusy, StoreDenied, StoreFull
from workerctx_redis._failures import explain
from workerctx_redis._source import SOURCE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from anyio.abc import ByteStream, TaskStatus

    from workerctx_redis._endpoint import Endpoint
    from workerctx_redis._operations import Operation
    from workerctx_redis._records import Groups

CONNECT_LIMIT: Final = 5.0
"""Seconds for making a connection."""

# What the driver would log are the failures that its caller gets as exceptions, with their traceback.
logging.getLogger("coredis").addHandler(logging.NullHandler())


Client: TypeAlias = "coredis.Redis[bytes] | coredis.RedisCluster[bytes]"


class Reply(msgspec.Struct, array_like=True, gc=False):
    """What the script answers.

    Attributes:
        now: Store time, in microseconds.
        results: One for each operation.
        events: What happened, if somebody listens.
        names: Groups that are referred to, by number.
        queues: In which something may have become claimable; True for any.
        finished: Whether jobs have finished.
        unsettled: Whether jobs still wait to be told of the end of others.
    """

    now: int
    results: list[Any]
    events: list[list[Any]]
    names: list[tuple[int, str]]
    queues: bool | list[str]
    finished: bool
    unsettled: bool


_decode_reply = msgspec.msgpack.Decoder(Reply).decode
_encode = msgspec.msgpack.Encoder().encode


def channel(prefix: str, endpoint: Endpoint) -> str:
    """Return how the messages of a namespace are called; unlike keys they are not told apart by the database."""
    return f"{prefix}:{endpoint.db}"


@asynccontextmanager
async def open_client(endpoint: Endpoint) -> AsyncGenerator[Client]:
    """Yield a client; it repeats nothing by itself, for nobody knows whether a call that failed was done."""
    await _knock(endpoint)
    client: Client
    common: dict[str, Any] = {
        "username": endpoint.username,
        "password": endpoint.password,
        "connect_timeout": min(CONNECT_LIMIT, endpoint.timeout),
    }
    if endpoint.tls is not None:
        common["ssl_context"] = endpoint.tls
    if endpoint.scheme == "redis+sentinel":
        async with _sentinels(endpoint, common) as sentinels, sentinels.primary_for(endpoint.service) as client:
            yield client
        return
    common["retry_policy"] = NoRetryPolicy()
    if endpoint.scheme == "redis+cluster":
        nodes = [TCPLocation(host, port) for host, port in endpoint.hosts]
        client = coredis.RedisCluster(
            startup_nodes=nodes, ssl=endpoint.tls is not None, decode_responses=False, **common
        )
    else:
        policy = common.pop("retry_policy")
        client = coredis.Redis(connection_pool=_pool(endpoint, common), decode_responses=False, retry_policy=policy)
    async with client:
        yield client


def _pool(endpoint: Endpoint, common: dict[str, Any]) -> ConnectionPool[Any]:
    if endpoint.path:
        return ConnectionPool(
            connection_class=_UnixConnection, location=UnixDomainSocketLocation(endpoint.path), db=endpoint.db, **common
        )
    location = TCPLocation(*endpoint.hosts[0])
    return ConnectionPool(connection_class=_TCPConnection, location=location, db=endpoint.db, **common)


class _TCPConnection(TCPConnection):
    """One that closes its buffers when it cannot be made, too."""

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        try:
            await super().run(task_status=task_status)
        finally:
            _close_buffers(self)


class _UnixConnection(UnixDomainSocketConnection):
    """One that closes its buffers when it cannot be made, too."""

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        try:
            await super().run(task_status=task_status)
        finally:
            _close_buffers(self)


def _close_buffers(connection: BaseConnection) -> None:
    for value in vars(connection).values():
        if isinstance(value, (MemoryObjectReceiveStream, MemoryObjectSendStream)):
            value.close()


async def _knock(endpoint: Endpoint) -> None:
    """Find out whether anybody is there, for a short and clear error if not.

    Raises:
        OSError: Nobody is.
        TimeoutError: Nobody answers.
    """
    with anyio.fail_after(endpoint.timeout):
        if endpoint.path:
            stream: ByteStream = await anyio.connect_unix(endpoint.path)
        elif len(endpoint.hosts) == 1 and endpoint.tls is None:
            stream = await anyio.connect_tcp(*endpoint.hosts[0])
        elif len(endpoint.hosts) == 1:
            stream = await anyio.connect_tcp(
                *endpoint.hosts[0], tls=True, ssl_context=endpoint.tls, tls_standard_compatible=False
            )
        else:
            return
    await stream.aclose()


def _sentinels(endpoint: Endpoint, common: dict[str, Any]) -> coredis.Sentinel[bytes]:
    theirs: dict[str, Any] = {
        "username": endpoint.sentinel_username,
        "password": endpoint.sentinel_password,
        "connect_timeout": CONNECT_LIMIT,
        "stream_timeout": CONNECT_LIMIT,
    }
    if endpoint.tls is not None:
        theirs["ssl_context"] = endpoint.tls
    places = [TCPLocation(host, port) for host, port in endpoint.hosts]
    return coredis.Sentinel(places, sentinel_kwargs=theirs, decode_responses=False, db=endpoint.db, **common)


@attrs.define(eq=False)
class Link:
    """The script of one namespace, called through a client.

    Attributes:
        client: The driver's.
        groups: What is known of the groups of the namespace.
        is_broken: Whether the client has to be thrown away, with all its connections.

    Threads: used on the loop of its client.
    """

    client: Client
    groups: Groups
    _endpoint: Endpoint
    _prefix: str
    _origin: str
    _note: Callable[[], object] = bool
    _script: Any = attrs.field(init=False)
    is_broken: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._script = self.client.register_script(SOURCE)

    async def perform(
        self, operations: Sequence[Operation[Any]], *, listening: bool = False, limit: float = 0.0
    ) -> Reply:
        """Do operations in one atomic call.

        Args:
            operations: What to do, in this order.
            listening: Whether to tell what happened.
            limit: Seconds to wait for the answer, if that is longer than usual.

        Raises:
            QueueError: The call failed; whether it was done may be unknown.
        """
        encoded = [msgspec.Raw(operation.encoded) for operation in operations]
        seed = random.getrandbits(31)
        request = _encode((listening, self._origin, channel(self._prefix, self._endpoint), seed, encoded))
        try:
            with anyio.fail_after(max(limit, self._endpoint.timeout)):
                answer = await self._script(keys=[self._prefix], args=[request])
        except Exception as exc:
            error = explain(exc, self._endpoint)
            if not isinstance(error, (StoreBusy, StoreFull, StoreDenied)):
                # A connection to a server that hangs, or that may not be written to any more, is not trusted again.
                self.give_up()
            raise error from exc
        reply = _decode_reply(answer)
        self.groups.learn(reply.names)
        return reply

    def give_up(self) -> None:
        """Have the client thrown away; the driver's pool does not get over connections that were lost in use."""
        self.is_broken = True
        self._note()
