"""Where the server is, taken from a URL, with its secrets kept out of sight."""

from __future__ import annotations

import math
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import attrs

from workerctx.errors import InvalidRequest

if TYPE_CHECKING:
    from workerctx.queue.connect import StoreURL

_TLS_OPTIONS: Final = frozenset({"tls_ca", "tls_cert", "tls_key", "tls_hostname"})
_COMMON: Final = frozenset({"prefix", "timeout"})
_OPTIONS: Final = {
    "redis": _COMMON,
    "rediss": _COMMON | _TLS_OPTIONS,
    "redis+unix": _COMMON | {"db"},
    "redis+cluster": _COMMON | _TLS_OPTIONS | {"tls"},
    "redis+sentinel": _COMMON | _TLS_OPTIONS | {"tls", "db", "sentinel_username", "sentinel_password"},
}
_PORTS: Final = {"redis+sentinel": 26379}
_DEFAULT_PORT: Final = 6379


@attrs.frozen(kw_only=True)
class Endpoint:
    """A server, or the several that stand for one.

    Attributes:
        scheme: Which kind.
        hosts: Names and ports; empty for a Unix socket.
        path: Of a Unix socket.
        service: What the sentinels call the server.
        db: Number of the database.
        prefix: Of every key, so that several applications can share a database.
        username: For the server.
        password: For the server.
        sentinel_username: For the sentinels.
        sentinel_password: For the sentinels.
        tls: How to encrypt; None for plain connections.
        timeout: Seconds to wait for an answer.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    prefix: str = "workerctx"
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = attrs.field(default=None, repr=False)
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    timeout: float = 15.0

    @classmethod
    def parse(cls, url: StoreURL) -> Endpoint:
        """Take the URL of a Redis store apart.

        Raises:
            InvalidRequest: Something of it is missing, wrong or not known; secrets are not repeated.
        """
        url.refuse_unknown(_OPTIONS[url.scheme])
        options = url.options
        netloc = urlsplit(url.raw).netloc
        credentials, _, places = netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        path = unquote(url.path)
        is_socket = url.scheme == "redis+unix"
        if is_socket and (places or len(path) < len("/x")):
            raise InvalidRequest("a redis+unix URL names a socket: write redis+unix:///run/redis.sock")
        if not is_socket and "@" in path:
            raise InvalidRequest("there is an @ behind the host of this URL: write %2F for a / in a password")
        rest = "" if is_socket else path.strip("/")
        service = rest if url.scheme == "redis+sentinel" else ""
        if url.scheme == "redis+sentinel" and not service:
            raise InvalidRequest("a redis+sentinel URL names a service: write redis+sentinel://host1,host2/mymaster")
        if url.scheme == "redis+cluster" and rest:
            raise InvalidRequest("a Redis Cluster has one database: leave the path out of a redis+cluster URL")
        database = options.get("db", rest if url.scheme in {"redis", "rediss"} else "") or "0"
        if not database.isdecimal():
            raise InvalidRequest(
                f"the database of a Redis URL is a number, got {database!r}: write redis://host:6379/0"
            )
        return cls(
            scheme=url.scheme,
            hosts=() if is_socket else _hosts(places, _PORTS.get(url.scheme, _DEFAULT_PORT)),
            path=path if is_socket else "",
            service=service,
            db=int(database),
            prefix=_prefix(options.get("prefix", "workerctx")),
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_username=options.get("sentinel_username"),
            sentinel_password=options.get("sentinel_password"),
            timeout=_seconds(options.get("timeout", "15")),
            tls=_tls(options) if url.scheme == "rediss" or _is_true(options.get("tls", "no")) else None,
        )

    def __str__(self) -> str:
        who = f"{self.username or ''}{':***' if self.password else ''}"
        where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = self.path or (f"/{self.service}" if self.service else f"/{self.db}" if self.db else "")
        return f"{self.scheme}://{who}{'@' if who else ''}{where}{path}"


def _hosts(places: str, default_port: int) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for place in places.split(","):
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, ""
        if port and not (port.isdecimal() and 0 < int(port) < 65536):  # noqa: PLR2004 - ports are 16 bits
            raise InvalidRequest(f"{place!r} is not a host with a port from 1 to 65535")
        found.append((host.strip("[]") or "localhost", int(port) if port else default_port))
    return tuple(found)


def _prefix(text: str) -> str:
    if not text.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InvalidRequest(f"the prefix of keys must be letters, digits, '-', '_' or '.', got {text!r}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"the timeout of a Redis URL is a number of seconds, got {text!r}")
    return seconds


def _is_true(text: str) -> bool:
    if text.lower() not in {"yes", "no", "true", "false", "1", "0"}:
        raise InvalidRequest(f"write yes or no for this option of a Redis URL, not {text!r}")
    return text.lower() in {"yes", "true", "1"}


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """Return how to encrypt: certificates are always checked, names unless ``tls_hostname=no``."""
    try:
        context = ssl.create_default_context(cafile=options.get("tls_ca"))
        if "tls_cert" in options:
            context.load_cert_chain(options["tls_cert"], options.get("tls_key"))
    except OSError as exc:
        raise InvalidRequest(f"cannot read the certificates that the Redis URL names: {exc}") from exc
    context.check_hostname = _is_true(options.get("tls_hostname", "yes"))
    return context
