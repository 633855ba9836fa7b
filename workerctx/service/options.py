"""What a handler says about its jobs once, for all of them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from attrs import field, frozen

from workerctx.errors import InvalidRequest
from workerctx.queue import EnqueueRequest
from workerctx.service.layers.base import as_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable

    from workerctx.queue import QueuedJob, RetryPolicy
    from workerctx.service.layers.base import Layer

Seconds: TypeAlias = float | timedelta
Executor: TypeAlias = Literal["process"] | None
ConcurrencyKey: TypeAlias = "str | Callable[[QueuedJob], Hashable] | None"
"""Which jobs of a handler count together: those with an equal argument of this name, or an equal key of the job."""


def _as_seconds(value: Seconds | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value


def positive_seconds(value: Seconds) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: It is not above 0.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not seconds > 0:
        raise ValueError(f"a duration must be more than 0 seconds, got {seconds}")
    return seconds


def optional_positive_seconds(value: Seconds | None) -> float | None:
    """Return a duration in seconds, or None.

    Raises:
        ValueError: It is not above 0.
    """
    return None if value is None else positive_seconds(value)


def as_tuple(values: Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple; a single text is one name."""
    return (values,) if isinstance(values, str) else tuple(values)


@frozen(eq=False)
class HandlerOptions:
    """The defaults of a handler's jobs; a request may say otherwise.

    Attributes:
        queue: Where its jobs wait; None asks the registry's router.
        priority: Higher runs first.
        max_attempts: How many runs a job may have, the first included.
        timeout: Longest run, in seconds; None for no limit.
        retry: Backoff between runs; None follows the default.
        required_labels: Only a worker that has all of them runs it.
        layers: Layers of this handler alone, inside those of its registry; the first is outermost.
        executor: ``"process"`` runs a sync handler in a process of its own; None in a thread.
        concurrency: How many of its jobs run at once in each worker; None for no limit of its own.
        concurrency_key: Counts the jobs of each key for themselves: the name of one of the handler's arguments, or a
            function of a `QueuedJob`, quick and without side effects.
    """

    queue: str | None = None
    priority: int = 0
    max_attempts: int = 5
    timeout: float | None = field(default=None, converter=_as_seconds)
    retry: RetryPolicy | None = None
    required_labels: tuple[str, ...] = field(default=(), converter=as_tuple)
    layers: tuple[Layer, ...] = field(default=(), converter=as_layers)
    executor: Executor = None
    concurrency: int | None = None
    concurrency_key: ConcurrencyKey = None

    def check(self, kind: str, arguments: Collection[str]) -> None:
        """Refuse values that make no sense.

        Args:
            kind: The handler's.
            arguments: The names of what its jobs carry.

        Raises:
            InvalidRequest: Names the option.
        """
        key = self.concurrency_key
        if self.concurrency is not None and self.concurrency < 1:
            raise InvalidRequest(f"concurrency must be at least 1, not {self.concurrency}: leave it out for no limit")
        if key is not None and self.concurrency is None:
            raise InvalidRequest("concurrency_key says which jobs count together: say how many with concurrency=")
        if isinstance(key, str) and key not in arguments:
            raise InvalidRequest(
                f"concurrency_key={key!r} is no argument of {kind}, whose jobs carry {', '.join(arguments) or 'none'}: "
                "name one of those, or pass a function of a QueuedJob"
            )
        if self.executor not in {None, "process"}:
            raise InvalidRequest(f"executor is None or 'process', not {self.executor!r}: leave it out for threads")
        EnqueueRequest(kind, **self.of_request())

    def of_request(self) -> dict[str, Any]:
        """Return the options that go into each request; without a queue, that is the router's business."""
        queue = {} if self.queue is None else {"queue": self.queue}
        return {
            **queue,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "timeout": self.timeout,
            "retry": self.retry,
            "required_labels": self.required_labels,
        }
