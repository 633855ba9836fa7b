"""The contract of a store: what every backend promises, and all that the floors above know of it.

Each method may raise `StoreUnavailable` (try again later), `StoreClosed` and `SchemaError` besides what it
lists. Every change is committed when its call returns. A cancelled call has either happened or not, never
half; a claim whose caller was cancelled is given back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from workerctx.errors import Throttled
    from workerctx.queue.jobqueue import JobQueue
    from workerctx.queue.limits import Granted, RateLimit
    from workerctx.queue.model import Renewed
    from workerctx.queue.schedule import Fired, Schedule
    from workerctx.queue.workers import WorkerCommand, WorkerInfo


class RateLimits(Protocol):
    """Limits that hold across the cluster."""

    async def configure(self, scope: str, *, capacity: int, per: float) -> None:
        """Set a limit: ``capacity`` calls at once, refilled evenly over ``per`` seconds.

        What is used up stays used up: as many calls, also if the rate is another one than before. A limit that is
        drained stays closed as long.

        Raises:
            InvalidRequest: Capacity or period are out of range.
        """
        ...

    async def acquire(self, scope: str, *, amount: int = 1) -> Granted | Throttled:
        """Take ``amount`` calls, or learn how many seconds to wait; one atomic step.

        Raises:
            UnknownScope: Nobody configured it.
            InvalidRequest: The amount is below 1 or above the capacity.
        """
        ...

    async def drain(self, scope: str, *, retry_after: float) -> None:
        """Let nobody acquire for ``retry_after`` seconds.

        Raises:
            UnknownScope: Nobody configured it.
        """
        ...

    async def list(self) -> Sequence[RateLimit]:
        """Return the configured limits, by scope."""
        ...


class Workers(Protocol):
    """The worker processes of the cluster."""

    async def register(self, worker: WorkerInfo) -> None:
        """Add a worker, or replace the entry with its id.

        Raises:
            InvalidRequest: A text in it is none.
        """
        ...

    async def heartbeat(self, worker_id: str, *, state: str = "running", in_flight: int = 0) -> Sequence[WorkerCommand]:
        """Say that a worker lives and what it does.

        Returns:
            The commands sent to it since the last heartbeat, oldest first; each is handed out once.

        Raises:
            WorkerNotFound: It is not registered (any more): register again.
        """
        ...

    async def send(self, worker_id: str, command: WorkerCommand) -> None:
        """Send a command to a worker.

        Raises:
            WorkerNotFound: It is not registered.
        """
        ...

    async def deregister(self, worker_id: str) -> None:
        """Remove a worker; one that is not there is no error."""
        ...

    async def reap(self, older_than: float) -> Sequence[WorkerInfo]:
        """Remove and return workers without a heartbeat for more than ``older_than`` seconds.

        Raises:
            InvalidRequest: They are negative, NaN, or more than any store can keep.
        """
        ...

    async def list(self) -> Sequence[WorkerInfo]:
        """Return the registered workers, by id."""
        ...


class Schedules(Protocol):
    """Jobs that come again."""

    async def put(self, schedule: Schedule) -> None:
        """Add a schedule or replace the one with its name; a changed timing starts afresh."""
        ...

    async def get(self, name: str) -> Schedule:
        """Return a schedule.

        Raises:
            ScheduleNotFound: There is none.
        """
        ...

    async def list(self) -> Sequence[Schedule]:
        """Return every schedule, by name."""
        ...

    async def enable(self, name: str, *, enabled: bool = True) -> None:
        """Switch a schedule on or off; what it missed while off is not made up for.

        Raises:
            ScheduleNotFound: There is none.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove a schedule; one that is not there is no error."""
        ...

    async def fire_due(self) -> Fired:
        """Enqueue a job for each tick that is due, each exactly once however many processes ask.

        A schedule's next tick moves on by compare-and-set in the transaction that enqueues its jobs.
        """
        ...


class LeaseRenewer(Protocol):
    """Keeps leases alive from a thread of its own: synchronous, with its own connection.

    Threads: used by one thread, which need not have an event loop.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def renew(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        """Renew leases for ``extend_by`` seconds from now, and learn which are lost or should stop."""
        ...


class Storage(Protocol):
    """One namespace of one store; an async context manager that opens and closes it."""

    @property
    def url(self) -> str:
        """Where the store is."""
        ...

    @property
    def namespace(self) -> str:
        """Which part of the store it is; nothing crosses it."""
        ...

    @property
    def jobs(self) -> JobQueue:
        """The jobs."""
        ...

    @property
    def rate_limits(self) -> RateLimits:
        """The rate limits."""
        ...

    @property
    def workers(self) -> Workers:
        """The registered workers."""
        ...

    @property
    def schedules(self) -> Schedules:
        """The jobs that come again."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None: ...

    def open_renewer(self) -> LeaseRenewer:
        """Return a renewer for the leases of this storage.

        Raises:
            StoreClosed: The storage is not open.
        """
        ...

    async def now(self) -> float:
        """Return the store's time, in seconds since the epoch, its test offset included."""
        ...

    async def advance(self, seconds: float) -> None:
        """Move the store's clock forward for everyone who opens it; for tests, see `workerctx.testing`."""
        ...
