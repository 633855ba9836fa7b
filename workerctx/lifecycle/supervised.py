"""What a monitor looks after: services, when they are restarted, and how they fared."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import anyio
from attrs import define, field, frozen

from workerctx.lifecycle.context import WorkerContext
from workerctx.lifecycle.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.lifecycle.state import WorkerState


class Restart(enum.Enum):
    """When a monitor makes a new worker in place of one that has ended."""

    NEVER = "never"
    ON_FAILURE = "on_failure"
    ALWAYS = "always"


@runtime_checkable
class Service(Protocol):
    """Something that runs a worker from start to end, such as a `WorkerLoop`."""

    @property
    def context(self) -> WorkerContext:
        """The worker that it runs."""
        ...

    async def run(self) -> None:
        """Run until the worker has finished; raise if it failed."""
        ...


@define(eq=False)
class Hosted:
    """Runs a bare context: enters it and awaits `serve` inside."""

    context: WorkerContext
    _serve: Callable[[WorkerContext], Awaitable[object]]

    async def run(self) -> None:
        """Enter the context, serve, leave it."""
        async with self.context:
            await self._serve(self.context)


@frozen
class ServiceStatistics:
    """What a monitored service has done so far.

    Attributes:
        restarts: how many times a new worker took the place of one that had ended.
        elapsed: seconds since the service was first started; 0 before.
        last_error: the latest failure, if there was one.
    """

    name: str
    state: WorkerState | None
    restarts: int
    elapsed: float
    last_error: BaseException | None


@define(eq=False)
class Supervised:
    """A service under a monitor, and what has become of it.

    Attributes:
        retired: whether it was stopped for good by name.
    """

    name: str
    make: Callable[[], Service]
    restart: Restart
    context: WorkerContext | None = None
    restarts: int = 0
    began: float | None = None
    last_error: BaseException | None = None
    retired: bool = False
    tried_once: bool = False
    made: Latch = field(init=False)
    """Holds once there is a worker."""
    tried: Latch = field(init=False)
    """Holds once the first attempt is over, or was not made."""

    def __attrs_post_init__(self) -> None:
        self.made = Latch(lambda: self.context is not None)
        self.tried = Latch(lambda: self.tried_once)

    def statistics(self) -> ServiceStatistics:
        """Return the figures at this moment."""
        return ServiceStatistics(
            name=self.name,
            state=None if self.context is None else self.context.state,
            restarts=self.restarts,
            elapsed=0.0 if self.began is None else time.monotonic() - self.began,
            last_error=self.last_error,
        )

    def note_tried(self) -> None:
        """Say that the first attempt is over."""
        self.tried_once = True
        self.tried.wake()

    async def bring_up(self) -> None:
        """Return once the worker has started, or the first attempt is over."""
        with anyio.CancelScope() as scope, self.tried.cancelling(scope):
            await self.made.wait()
            if self.context is not None:
                await self.context.wait_started()


def as_service(made: WorkerContext | Service) -> Service:
    """Let a bare context be run like any service: entered until it is stopped."""
    return Hosted(made, WorkerContext.wait_stopping) if isinstance(made, WorkerContext) else made


def label_of_factory(factory: object) -> str:
    """Name a factory for a person."""
    name: object = getattr(factory, "__qualname__", None)
    return name if isinstance(name, str) else repr(factory)
