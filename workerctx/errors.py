"""Every exception of workerctx, in one tree.

Each message says what happened, in which state, and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class WorkerError(Exception):
    """Base of everything that workerctx raises on purpose."""


# Lifecycle ------------------------------------------------------------------


class InvalidTransition(WorkerError):  # noqa: N818 - a public name
    """An operation is not legal in the state that the worker is in; the state is unchanged."""

    def __init__(self, name: str, state: str, operation: str, remedy: str) -> None:
        super().__init__(f"cannot {operation} worker {name!r} while it is {state}: {remedy}")
        self.name = name
        self.state = state
        self.operation = operation
        self.remedy = remedy


class NotAccepting(WorkerError):  # noqa: N818 - a public name
    """Work was handed to a worker that takes none any more; the coroutine handed over was closed."""


class WorkerFailed(WorkerError):  # noqa: N818 - a public name
    """The worker's infrastructure failed; ``__cause__`` is the failure itself."""


class TaskCancelled(WorkerError):  # noqa: N818 - a public name
    """A spawned task was cancelled before it had a result."""


class SelfAwait(WorkerError):  # noqa: N818 - a public name
    """A task or listener of a worker awaited that worker, which would wait for itself for ever."""


class MissingData(WorkerError):  # noqa: N818 - a public name
    """A request carries no value of the type that was asked for."""


class MonitorFailed(WorkerError):  # noqa: N818 - a public name
    """At least one service of a monitor failed for good.

    Attributes:
        failures: every failure as ``(service name, exception)``, oldest first.
    """

    def __init__(self, message: str, failures: Sequence[tuple[str, BaseException]]) -> None:
        super().__init__(message)
        self.failures = tuple(failures)
