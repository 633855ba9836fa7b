"""How a remote worker works: every setting, with its unit and default."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from attrs import Factory, field, fields, frozen

from workerctx.errors import InvalidConfig
from workerctx.queue.request import check_name
from workerctx.remote.reconnect import ReconnectConfig
from workerctx.runtime.config import WorkerConfig
from workerctx.runtime.settings import (
    ENV_PREFIX,
    names,
    naming,
    numbers,
    optional_seconds,
    seconds,
    text,
    truth,
    whole,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

_HEARTBEAT: Final = 0.5
"""Seconds between two looks of the loop at what its session has heard; the session beats at the gateway's pace."""
_SCHEMES: Final = ("ws", "wss")


@frozen(kw_only=True, repr=False)
class Credentials:
    """How a worker shows its gateway who it is; never shown in `repr` or logs.

    Attributes:
        token: Sent as a bearer token, without white space around it; a function is called for each session, in a
            thread, so that tokens may expire.
        headers: Sent with each session's request.
        tls: For certificates of one's own, those of the worker among them; None trusts the usual authorities.

    Raises:
        InvalidConfig: The token is empty, or it or a header is no text, or has a character that cannot be sent.
    """

    token: str | Callable[[], str] | None = None
    headers: Mapping[str, str] = field(factory=dict[str, str])
    tls: ssl.SSLContext | None = None

    def __attrs_post_init__(self) -> None:
        self._headers_with(None if callable(self.token) else self.token)

    def request_headers(self) -> dict[str, str]:
        """Return what to send with the request of a session.

        Raises:
            InvalidConfig: The function has made a token that cannot be sent.
        """
        return self._headers_with(self.token() if callable(self.token) else self.token)

    def _headers_with(self, token: str | None) -> dict[str, str]:
        # Checked here, as a library that refuses a header shows it in its error.
        headers = dict(self.headers)
        if token is not None:
            headers["authorization"] = f"Bearer {_sendable('the token', token)}"
        return {name: _sendable(f"the header {name!r}", value) for name, value in headers.items()}

    def __repr__(self) -> str:
        return "<Credentials>"


def _sendable(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidConfig(f"{what} of the credentials must be a text, not {type(value).__name__}")
    value = value.strip()
    if not (value and value.isascii() and value.isprintable()):
        raise InvalidConfig(f"{what} of the credentials must be printable ASCII characters, and at least one")
    return value


def _credentials(value: Credentials | str | None) -> Credentials | None:
    known: object = value
    if isinstance(known, str):
        return Credentials(token=known)
    if isinstance(known, Credentials) or known is None:
        return known
    raise InvalidConfig(f"credentials must be Credentials, or a bearer token as a text, not {type(known).__name__}")


def _namespaces(value: str | Iterable[str]) -> tuple[str, ...]:
    return names(value) or ("default",)


def _name(value: str) -> str:
    check_name("it", value)
    return value


def _patience(value: ReconnectConfig) -> ReconnectConfig:
    if not isinstance(value, ReconnectConfig):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError("it is no ReconnectConfig")
    return value


def _optional_path(value: str | os.PathLike[str] | None) -> Path | None:
    return Path(value) if value else None


def _node() -> str:
    return os.environ.get("HOSTNAME") or socket.gethostname() or "localhost"


@frozen(kw_only=True, field_transformer=naming)
class RemoteConfig:
    """The settings of a remote `Worker`, checked together before anything connects.

    Durations are in seconds (float or timedelta). `from_env` reads them from the environment.

    Attributes:
        endpoint: The gateway: ``wss://jobs.example.com/workers``.
        task_queue: Which queues to serve, separated by commas, in this order; or with how often each is served compared
            to the others, ``high=3,default=1``.
        namespaces: Which namespaces the worker may serve; the gateway grants the first that the credentials allow.
        node: The machine; by default the variable ``HOSTNAME`` or the host's name.
        identity: Who the worker says it is, for people; by default node and process id.
        max_concurrency: How many jobs run at once.
        concurrency_per_kind: Of each of these kinds, how many jobs run at once.
        labels: What the worker offers to jobs that require labels.
        credentials: How it shows who it is; a text is a bearer token.
        reconnect: How patient it is with its gateway.
        prefetch: How many jobs may wait in memory for a slot, at the most.
        prefetch_window: Seconds after which a job that has not begun is given back.
        grace: Seconds that a stop lets running jobs go on; None for no limit.
        hard_limit: Seconds beyond the grace in which the last outcomes must be acknowledged.
        journal: A file that keeps outcomes until they are acknowledged, so that they survive the worker's process; or a
            folder, in which each of several workers finds a file for itself. None and an empty text keep none.
        journal_fsync: Whether each of them waits for the disk, so that it survives the machine as well.

    Raises:
        InvalidConfig: Names every setting that is out of range.
    """

    endpoint: str = field(converter=text)
    task_queue: str = field(default="default", converter=text)
    namespaces: tuple[str, ...] = field(default=("default",), converter=_namespaces)
    node: str = field(default=Factory(_node), converter=_name)
    identity: str = field(default=Factory(lambda self: f"{self.node}-{os.getpid()}", takes_self=True), converter=_name)
    max_concurrency: int = field(default=10, converter=whole)
    concurrency_per_kind: Mapping[str, int] = field(factory=dict[str, int], converter=numbers)
    labels: tuple[str, ...] = field(default=(), converter=names)
    credentials: Credentials | None = field(default=None, converter=_credentials, repr=False)
    reconnect: ReconnectConfig = field(factory=ReconnectConfig, converter=_patience)
    prefetch: int = field(default=2000, converter=whole)
    prefetch_window: float = field(default=0.05, converter=seconds)
    grace: float | None = field(default=30.0, converter=optional_seconds)
    hard_limit: float = field(default=5.0, converter=seconds)
    journal: Path | None = field(default=None, converter=_optional_path)
    journal_fsync: bool = field(default=False, converter=truth)

    def __attrs_post_init__(self) -> None:
        wrong = [*_wrong_endpoint(self.endpoint)]
        try:
            self.for_loop()
        except InvalidConfig as exc:
            wrong.append(str(exc))
        if wrong:
            raise InvalidConfig("; ".join(wrong))

    @property
    def queues(self) -> Mapping[str, int]:
        """The queues that `task_queue` names, in order, and how often each is served compared to the others."""
        return self.for_loop().queues

    def for_loop(self) -> WorkerConfig:
        """Return the settings of the loop that runs the jobs."""
        queues: Any = self.task_queue
        return WorkerConfig(
            queues=queues,
            concurrency_per_kind=self.concurrency_per_kind,
            concurrency=self.max_concurrency,
            heartbeat=_HEARTBEAT,
            prefetch=self.prefetch,
            prefetch_window=self.prefetch_window,
            grace=self.grace,
            hard_limit=self.hard_limit,
            labels=self.labels,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> RemoteConfig:
        """Read settings from ``WORKERCTX_ENDPOINT``, ``WORKERCTX_MAX_CONCURRENCY`` and so on.

        ``WORKERCTX_CREDENTIALS`` is a bearer token, and ``WORKERCTX_RECONNECT_MAX_ATTEMPTS`` one of the settings of
        `reconnect`.

        Args:
            environ: where to look; the process environment by default.
            settings: fields that are set here whatever the environment says; None leaves a field to it.

        Raises:
            InvalidConfig: a value is missing, out of range or not of its type.
        """
        environ = os.environ if environ is None else environ
        chosen: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        for setting in fields(cls):
            value = environ.get(ENV_PREFIX + setting.name.upper())
            if value is not None:
                chosen.setdefault(setting.name, value)
        if "reconnect" not in chosen:
            patience: dict[str, Any] = {
                setting.name: value
                for setting in fields(ReconnectConfig)
                if (value := environ.get(f"{ENV_PREFIX}RECONNECT_{setting.name.upper()}")) is not None
            }
            chosen["reconnect"] = ReconnectConfig(**patience)
        if "endpoint" not in chosen:
            raise InvalidConfig(f"a remote worker needs its gateway's address: set {ENV_PREFIX}ENDPOINT")
        return cls(**chosen)


def _wrong_endpoint(endpoint: str) -> Iterable[str]:
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as exc:
        return [f"endpoint is not an address: {exc}"]
    wrong: list[str] = []
    if parts.scheme not in _SCHEMES or not parts.hostname or port == 0:
        wrong.append("endpoint must be an address like wss://jobs.example.com/workers")
    if "@" in parts.netloc:
        wrong.append("endpoint must not hold a user or a password: pass credentials=")
    return wrong
