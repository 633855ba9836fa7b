"""The driver's clients for each kind of endpoint, made so that they neither repeat calls nor leave things open."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import anyio
import coredis
from anyio import TASK_STATUS_IGNORED
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from coredis.connection import (
    BaseConnection,
    ClusterConnection,
    SentinelManagedConnection,
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)
from coredis.pool import ClusterConnectionPool, ConnectionPool, SentinelConnectionPool
from coredis.retry import NoRetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteStream, TaskStatus

    from workerctx_redis._endpoint import Endpoint

CONNECT_LIMIT: Final = 5.0
"""Seconds for making a connection."""

Client: TypeAlias = "coredis.Redis[bytes] | coredis.RedisCluster[bytes]"

# What the driver would log are the failures that its caller gets as exceptions, with their traceback.
logging.getLogger("coredis").addHandler(logging.NullHandler())


@asynccontextmanager
async def open_client(endpoint: Endpoint) -> AsyncGenerator[Client]:
    """Yield a client; it repeats nothing by itself, for nobody knows whether a call that failed was done.

    Raises:
        OSError: There is no server.
        TimeoutError: It does not answer.
    """
    await _knock(endpoint)
    if endpoint.scheme == "redis+sentinel":
        async with (
            _sentinels(endpoint) as sentinels,
            sentinels.primary_for(endpoint.service, connection_pool_class=_SentinelPool) as primary,
        ):
            yield primary
    elif endpoint.scheme == "redis+cluster":
        nodes = [TCPLocation(*place) for place in endpoint.hosts]
        # Our slot is all that we need, so it does not matter whether somebody serves the others.
        pool = ClusterConnectionPool(
            nodes, connection_class=_ClusterConnection, skip_full_coverage_check=True, **_credentials(endpoint)
        )
        async with coredis.RedisCluster(
            connection_pool=pool, decode_responses=False, retry_policy=NoRetryPolicy()
        ) as cluster:
            yield cluster
        _close_streams(pool.cluster_layout)
    else:
        async with coredis.Redis(
            connection_pool=_pool(endpoint), decode_responses=False, retry_policy=NoRetryPolicy()
        ) as client:
            yield client


def _credentials(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "username": endpoint.username,
        "password": endpoint.password,
        "connect_timeout": min(CONNECT_LIMIT, endpoint.timeout),
        "ssl_context": endpoint.tls,
    }


def _pool(endpoint: Endpoint) -> ConnectionPool[Any]:
    options: dict[str, Any] = {"db": endpoint.db, **_credentials(endpoint)}
    if endpoint.path:
        place = UnixDomainSocketLocation(endpoint.path)
        return ConnectionPool(connection_class=_UnixConnection, location=place, **options)
    return ConnectionPool(connection_class=_TCPConnection, location=TCPLocation(*endpoint.hosts[0]), **options)


def _sentinels(endpoint: Endpoint) -> coredis.Sentinel[bytes]:
    theirs = {
        **_credentials(endpoint),
        "username": endpoint.sentinel_username,
        "password": endpoint.sentinel_password,
        "stream_timeout": endpoint.timeout,
    }
    places = [TCPLocation(*place) for place in endpoint.hosts]
    return coredis.Sentinel(
        places, sentinel_kwargs=theirs, decode_responses=False, db=endpoint.db, **_credentials(endpoint)
    )


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


class _Tidy(BaseConnection):
    """Closes its streams when it could not be made, too."""

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        try:
            await super().run(task_status=task_status)
        finally:
            _close_streams(self)


class _TCPConnection(_Tidy, TCPConnection):
    pass


class _UnixConnection(_Tidy, UnixDomainSocketConnection):
    pass


class _ClusterConnection(_Tidy, ClusterConnection):
    pass


class _SentinelConnection(_Tidy, SentinelManagedConnection):
    pass


class _SentinelPool(SentinelConnectionPool):
    async def _construct_connection(self) -> SentinelManagedConnection:
        place = await self.get_primary_location()
        return _SentinelConnection(place, self.service_name, is_primary=True, **self.connection_kwargs)


def _close_streams(owner: object) -> None:
    for value in vars(owner).values():
        for stream in cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,):
            if isinstance(stream, (MemoryObjectReceiveStream, MemoryObjectSendStream)):
                stream.close()
