"""Who a worker is: what authentication hands back, and two ready ways to find out."""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import anyio
import anyio.to_thread
from attrs import field, frozen
from starlette.requests import HTTPConnection

from workerctx.errors import InvalidConfig, StoreBusy, Unauthenticated
from workerctx.queue.request import as_names, check_name
from workerctx.runtime.settings import naming, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SHORTEST_TOKEN: Final = 16


def _namespaces(value: Iterable[str]) -> tuple[str, ...]:
    namespaces = as_names(value)
    for name in namespaces:
        check_name("each name", name)
    return namespaces


@frozen(field_transformer=naming)
class Identity:
    """A worker that was recognised, and where it may work.

    Attributes:
        subject: Who it is, for logs; two workers with the same ids must have the same subject.
        namespaces: Which namespaces it may serve.
        steers: Whether its handlers may do what operators do: pause queues, retry and delete jobs, set rate limits.

    Raises:
        InvalidConfig: The subject is no text, or a namespace no name.
    """

    subject: str = field(converter=text)
    namespaces: tuple[str, ...] = field(default=("default",), converter=_namespaces)
    steers: bool = False


Authenticate: TypeAlias = Callable[[HTTPConnection], Identity | Awaitable[Identity | None] | None]
"""Looks at a connection (headers, client address, the ``tls`` extension of its scope) and says who it is.

None, `Unauthenticated` and `PermissionDenied` turn the worker away for good; any other exception counts as a failure of
the gateway, and the worker tries again. One that is not async runs in a thread.
"""


class LookUps:
    """Threads in which workers are looked up; those that hang count until they end.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._waiting = anyio.CapacityLimiter(most)
        # On asyncio the limiter forgets a thread whose caller does not wait any more.
        self._running = threading.BoundedSemaphore(most)

    async def run(self, authenticate: Authenticate, connection: HTTPConnection) -> object:
        """Look a worker up; a thread that hangs is left behind when this is cancelled.

        Raises:
            StoreBusy: All threads hang.
        """
        return await anyio.to_thread.run_sync(
            self._look_up, authenticate, connection, abandon_on_cancel=True, limiter=self._waiting
        )

    def _look_up(self, authenticate: Authenticate, connection: HTTPConnection) -> object:
        if not self._running.acquire(blocking=False):
            raise StoreBusy("as many look-ups of workers hang as there may be: look into what `authenticate` waits for")
        try:
            return authenticate(connection)
        finally:
            self._running.release()


async def recognise(authenticate: Authenticate, connection: HTTPConnection, threads: LookUps) -> Identity:
    """Ask who a connection comes from.

    Args:
        authenticate: Whom to ask.
        connection: Where the worker comes from.
        threads: For those who are not async.

    Raises:
        SessionDenied: Nobody who may come in.
    """
    if inspect.iscoroutinefunction(authenticate) or inspect.iscoroutinefunction(type(authenticate).__call__):
        found: Any = authenticate(connection)
    else:
        found = await threads.run(authenticate, connection)
    if inspect.isawaitable(found):
        found = await found
    if found is None:
        raise Unauthenticated("the gateway does not know this worker: check its credentials")
    if not isinstance(found, Identity):
        raise TypeError(f"authenticate() returned {found!r}, and not an Identity or None")
    return found


def bearer_tokens(tokens: Mapping[str, Identity]) -> Authenticate:
    """Recognise workers by the token that they send as ``Authorization: Bearer ...``.

    Only digests of the tokens are kept, and looked up, so that the time of an answer tells nothing of them.

    Args:
        tokens: Who has which token.

    Raises:
        InvalidConfig: There is no token, one is too short to be secret or cannot be sent, or stands for no `Identity`.
    """
    if not tokens:
        raise InvalidConfig("no tokens were given, so that no worker could come in: name at least one")
    if not all(isinstance(token, str) for token in tokens):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidConfig("a token is no text: pass what the worker sends")
    if any(len(token) < _SHORTEST_TOKEN for token in tokens):
        raise InvalidConfig(
            f"a token has less than {_SHORTEST_TOKEN} characters and can be guessed: make one with `python -c 'import"
            " secrets; print(secrets.token_urlsafe())'`"
        )
    _check_identities(tokens.values())
    if not all(token.isascii() and token.isprintable() and token == token.strip() for token in tokens):
        raise InvalidConfig("a token cannot be sent as it is: use printable ASCII, without white space around it")
    known = {_digest(token): identity for token, identity in tokens.items()}

    def authenticate(connection: HTTPConnection) -> Identity:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        identity = known.get(_digest(token.strip())) if scheme.lower() == "bearer" else None
        if identity is None:
            raise Unauthenticated("the gateway does not know this token" if token else "the gateway wants a token")
        return identity

    return _at_once(authenticate)


def client_certificates(names: Mapping[str, Identity]) -> Authenticate:
    """Recognise workers by the certificate that their side of a TLS connection has shown.

    The server must require and verify client certificates, and tell of them in the ``tls`` extension of ASGI; those
    that do not, and proxies, need an `authenticate` of your own.

    Args:
        names: Whose certificate has which name: its subject as in RFC 4514, such as ``CN=images,O=Example``.

    Raises:
        InvalidConfig: There is no name, or one stands for no `Identity`.
    """
    if not names:
        raise InvalidConfig("no names of certificates were given, so that no worker could come in: name at least one")
    _check_identities(names.values())
    known = dict(names)

    def authenticate(connection: HTTPConnection) -> Identity:
        extensions = cast("Mapping[str, Mapping[str, Any]]", connection.scope.get("extensions") or {})
        shown = extensions.get("tls", {})
        name = shown.get("client_cert_name")
        if not name or shown.get("client_cert_error"):
            raise Unauthenticated("the gateway wants a client certificate, and the server has told it of none")
        if name not in known:
            raise Unauthenticated(f"the gateway does not know the certificate of {name!r}")
        return known[name]

    return _at_once(authenticate)


def _check_identities(values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, Identity):
            raise InvalidConfig(f"a worker is said to be {value!r}: pass Identity(subject, namespaces) for each")


def _at_once(authenticate: Callable[[HTTPConnection], Identity]) -> Authenticate:
    async def authenticate_at_once(connection: HTTPConnection) -> Identity:  # needs no thread
        return authenticate(connection)

    return authenticate_at_once


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
