"""Which queue a job goes to when nobody said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import Factory, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Router(Protocol):
    """Chooses a queue by kind."""

    def route(self, kind: str, /) -> str:
        """Return the name of the queue for jobs of this kind."""
        ...


@frozen(eq=False)
class DefaultRouter:
    """Sends every job to one queue."""

    queue: str = "default"

    def route(self, kind: str, /) -> str:  # noqa: ARG002 - the same for each kind
        """Return the queue."""
        return self.queue


@frozen(eq=False)
class KindPrefixRouter:
    """Sends a job to the queue of the longest prefix that its kind begins with.

    Args:
        queues: Queue by prefix: ``{"gh_": "gh", "slack_": "slack"}``.
        default: Queue of all other kinds.
    """

    queues: Mapping[str, str]
    default: str = "default"
    _prefixes: tuple[str, ...] = Factory(
        lambda self: tuple(sorted(self.queues, key=len, reverse=True)), takes_self=True
    )

    def route(self, kind: str, /) -> str:
        """Return the queue of the longest prefix that fits."""
        for prefix in self._prefixes:
            if kind.startswith(prefix):
                return self.queues[prefix]
        return self.default


@frozen(eq=False)
class CallableRouter:
    """Asks a function.

    Args:
        choose: Called with the kind, returns the queue.
    """

    choose: Callable[[str], str]

    def route(self, kind: str, /) -> str:
        """Return what the function says."""
        return self.choose(kind)


def as_router(router: Router | Callable[[str], str]) -> Router:
    """Return a router from what users write: a router or a function."""
    return CallableRouter(router) if callable(router) else router
