"""What ``workerctx gateway`` runs: a gateway behind uvicorn, which outlives it by the length of its drain."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

import anyio
from attrs import define, field

from workerctx.errors import InvalidConfig
from workerctx.lifecycle.groups import collapse
from workerctx.queue import connect
from workerctx_starlette.gateway._config import GatewayConfig
from workerctx_starlette.gateway._gateway import Gateway
from workerctx_starlette.gateway._identity import bearer_tokens, client_certificates
from workerctx_starlette.gateway._names import read_identities
from workerctx_starlette.gateway._uvicorn import make_server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from workerctx.lifecycle import WorkerContext
    from workerctx_starlette.gateway._uvicorn import Server

_BACKLOG: Final = 2048


@define(eq=False)
class GatewayServer:
    """A gateway and its server; a service for a `Monitor`.

    Args:
        gateway: What to serve.
        options: What uvicorn is given besides.

    Attributes:
        url: Where workers connect.
    """

    _gateway: Gateway
    _socket: socket.socket
    _options: dict[str, Any]
    url: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        # Connections inherit this; asyncio sees to it only where the listening socket was made for TCP by name. Without
        # it a job waits until its worker's system has confirmed what was sent before, which takes 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = self._socket.getsockname()[:2]
        scheme = "wss" if self._options.get("ssl_certfile") else "ws"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def context(self) -> WorkerContext:
        """The gateway's lifecycle."""
        return self._gateway.context

    async def run(self) -> None:
        """Serve until the gateway is stopped and drained.

        Raises:
            WorkerFailed: The gateway failed.
        """
        server = make_server(self._gateway, self._gateway.config.max_message, self._options)
        try:
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    tasks.start_soon(self._serve, server)
                    await self.context.wait_stopping()

                try:
                    await self._gateway.run_while(serve)
                finally:
                    server.should_exit = True
        except BaseExceptionGroup as exc:
            error = collapse(exc)
            raise error from error.__cause__
        finally:
            self._socket.close()

    async def _serve(self, server: Server) -> None:
        await server.serve(sockets=[self._socket])
        self.context.stop("its server has ended")


def serve_gateway(
    *,
    stores: Sequence[str],
    host: str,
    port: int,
    token_file: Path | None,
    certificate_file: Path | None,
    client_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    grace: float | None,
) -> GatewayServer:
    """Make what ``workerctx gateway`` runs, and listen.

    Args:
        stores: URLs of stores, each of another namespace.
        host: The address to listen on.
        port: The port; 0 for any that is free.
        token_file: Workers and their tokens; see `read_identities`.
        certificate_file: Workers and the names in their certificates.
        client_ca: The authority that has signed those.
        tls_certificate: The server's certificate, with its chain.
        tls_key: Its key.
        grace: Seconds that a stop lets workers finish what they have.

    Raises:
        InvalidConfig: There is no authentication, or a setting makes no sense.
        OSError: Nothing can listen there.
    """
    options = _tls_options(client_ca, tls_certificate, tls_key)
    if token_file is not None and certificate_file is not None:
        raise InvalidConfig("workers show either tokens or certificates: give one of the two files")
    if token_file is not None:
        authenticate = bearer_tokens(read_identities(token_file))
    elif certificate_file is not None:
        if client_ca is None:
            raise InvalidConfig(
                "names in certificates mean nothing unless the certificates are verified: add --client-ca"
            )
        authenticate = client_certificates(read_identities(certificate_file))
    else:
        raise InvalidConfig("a gateway does not start without authentication: add --token-file or --certificate-file")
    named: dict[str, str] = {}
    for url in stores:
        namespace = connect(url).namespace
        if namespace in named:
            raise InvalidConfig(
                f"two stores are for namespace {namespace!r}: end their URLs with different ?namespace="
            )
        named[namespace] = url
    gateway = Gateway(named, authenticate=authenticate, config=GatewayConfig(grace=grace, store_patience=None))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listening.setblocking(False)
    return GatewayServer(gateway, listening, options)


def _tls_options(client_ca: Path | None, certificate: Path | None, key: Path | None) -> dict[str, Any]:
    if certificate is None:
        if key is not None or client_ca is not None:
            raise InvalidConfig("a key or an authority without a certificate is no TLS: add --tls-certificate")
        return {}
    _try_out(client_ca, certificate, key)
    options: dict[str, Any] = {"ssl_certfile": str(certificate), "ssl_keyfile": None if key is None else str(key)}
    if client_ca is not None:
        options |= {"ssl_ca_certs": str(client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def _try_out(client_ca: Path | None, certificate: Path, key: Path | None) -> None:
    """Refuse files that the server could not use once it listens.

    Raises:
        InvalidConfig: They are not there, cannot be read, are something else, or do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as exc:
        files = str(certificate) if key is None else f"{certificate} with the key in {key}"
        raise InvalidConfig(f"the certificate in {files} cannot be used: {exc}") from exc
    if client_ca is None:
        return
    try:
        context.load_verify_locations(client_ca)
    except OSError as exc:
        raise InvalidConfig(f"the authorities in {client_ca} cannot be used: {exc}") from exc
