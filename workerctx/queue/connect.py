"""From a URL to a Storage."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qsl, urlsplit

import attrs

from workerctx.errors import InvalidRequest, UnknownBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue.base import Storage

ENTRY_POINTS: Final = "workerctx.backends"
"""Entry-point group: a URL scheme on the left, a callable ``(StoreURL) -> Storage`` on the right."""

_BUILT_IN: Final = {
    "memory": "workerctx.queue.memory:open_memory",
    "sqlite": "workerctx.queue.sqlite:open_sqlite",
}
_DEFAULT_NAMESPACE: Final = "default"
_MAX_NAMESPACE: Final = 64


@attrs.frozen
class StoreURL:
    """A store's URL, taken apart.

    Attributes:
        raw: As given.
        scheme: Which backend.
        location: The URL without the options below, for the backend's driver.
        path: Its path, decoded by the backend's rules; empty if there is none.
        namespace: The part of the store that is used.
        options: The other query parameters; the backend refuses those it does not know.
    """

    raw: str
    scheme: str
    location: str
    path: str
    namespace: str = _DEFAULT_NAMESPACE
    options: dict[str, str] = attrs.field(factory=dict[str, str])

    @classmethod
    def parse(cls, url: str) -> StoreURL:
        """Take a URL apart.

        Raises:
            InvalidRequest: It is no URL or cannot be taken apart, it has a ``#``, something behind its ``?`` cannot be
                an option, or its namespace is empty, too long or has characters other than letters, digits, ``-``,
                ``_`` and ``.``.
        """
        try:
            parts = urlsplit(url)
        except ValueError:  # which may quote a password
            raise InvalidRequest(
                "the store URL cannot be taken apart: write %5B and %5D for brackets in a name or password, and what is"
                " no ASCII in percent-encoding, too"
            ) from None
        if not parts.scheme:
            raise InvalidRequest(f"{url!r} is not a store URL: write for example sqlite:///jobs.db or memory://")
        if "#" in url:
            raise InvalidRequest("a store URL has no part behind a #: write %23 if it belongs to a name or password")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not all(name.translate(_NAME_MARKS).isalnum() for name in options):
            raise InvalidRequest(
                "behind the ? of a store URL are options, name=value: write %3F if it belongs to a name or password"
            )
        namespace = options.pop("namespace", _DEFAULT_NAMESPACE)
        if not 0 < len(namespace) <= _MAX_NAMESPACE or not namespace.translate(_NAME_MARKS).isalnum():
            raise InvalidRequest(
                f"namespace {namespace!r} must be 1 to {_MAX_NAMESPACE} letters, digits, '-', '_' or '.'"
            )
        # Not put together from its parts again: what has no host would lose its slashes.
        location = parts.scheme + url.partition("?")[0][len(parts.scheme) :]
        return cls(url, parts.scheme, location, parts.path, namespace, options)

    def refuse_unknown(self, known: frozenset[str]) -> None:
        """Refuse options that the backend does not know.

        Raises:
            InvalidRequest: Names them.
        """
        unknown = sorted(self.options.keys() - known)
        if unknown:
            raise InvalidRequest(
                f"{self.scheme} stores have no option {', '.join(unknown)}; "
                f"known: {', '.join(sorted(known | {'namespace'}))}"
            )


_NAME_MARKS: Final = str.maketrans("-_.", "xxx")


def connect(url: str) -> Storage:
    """Return the Storage that a URL names; ``async with`` opens and closes it.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``memory://``, or the scheme of an
            installed backend. ``?namespace=`` chooses a part of the store, ``?synchronous=normal`` trades
            durability on power loss for speed on SQLite.

    Raises:
        UnknownBackend: No backend is installed for the scheme; the message names what to install.
        InvalidRequest: The URL has an option or value that the backend does not know.
    """
    store = StoreURL.parse(url)
    return _opener(store.scheme)(store)


def _opener(scheme: str) -> Callable[[StoreURL], Storage]:
    target = _BUILT_IN.get(scheme)
    if target is not None:
        module, _, name = target.partition(":")
        return cast("Callable[[StoreURL], Storage]", getattr(import_module(module), name))
    for entry in entry_points(group=ENTRY_POINTS, name=scheme):
        try:
            return cast("Callable[[StoreURL], Storage]", entry.load())
        except ImportError as exc:
            # Our integrations are in every wheel: what is missing is a driver, and the message names its extra.
            raise UnknownBackend(f"no backend for {scheme}:// URLs: {exc}") from exc
    installed = sorted({*_BUILT_IN, *entry_points(group=ENTRY_POINTS).names})
    raise UnknownBackend(f"no backend for {scheme}:// URLs: installed are {', '.join(installed)}")
