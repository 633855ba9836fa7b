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


class InvalidTransition(WorkerError):
    """An operation is not legal in the state that the worker is in; the state is unchanged."""

    def __init__(self, name: str, state: str, operation: str, remedy: str) -> None:
        super().__init__(f"cannot {operation} worker {name!r} while it is {state}: {remedy}")
        self.name = name
        self.state = state
        self.operation = operation
        self.remedy = remedy


class NotAccepting(WorkerError):
    """Work was handed to a worker that takes none any more; the coroutine handed over was closed."""


class WorkerFailed(WorkerError):
    """The worker's infrastructure failed; ``__cause__`` is the failure itself."""


class TaskCancelled(WorkerError):
    """A spawned task was cancelled before it had a result."""


class SelfAwait(WorkerError):
    """A task or listener of a worker awaited that worker, which would wait for itself for ever."""


class MissingData(WorkerError):
    """A request carries no value of the type that was asked for."""


class UnknownService(WorkerError, LookupError):
    """A monitor has no service of that name."""


class AmbiguousWorker(WorkerError):
    """A worker was asked for without a name where there are several."""


class MonitorFailed(WorkerError):
    """At least one service of a monitor failed for good.

    Attributes:
        failures: every failure as ``(service name, exception)``, oldest first.
    """

    def __init__(self, message: str, failures: Sequence[tuple[str, BaseException]]) -> None:
        super().__init__(message)
        self.failures: tuple[tuple[str, BaseException], ...] = tuple(failures)


# Queue ------------------------------------------------------------------------


class QueueError(WorkerError):
    """Base of everything that a queue or store raises."""


class InvalidRequest(QueueError, ValueError):
    """Input was refused before anything was written."""


class UnknownBackend(InvalidRequest):
    """No store is installed for the scheme of a URL."""


class JobNotFound(QueueError, LookupError):
    """No job has this id in this namespace: it was never enqueued, or it was deleted or pruned."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}: it was never enqueued here, or it was deleted or pruned")
        self.job_id = job_id


class WrongState(QueueError):
    """A job is in a state in which the operation makes no sense; nothing was changed."""

    def __init__(self, job_id: str, state: str, operation: str, remedy: str) -> None:
        super().__init__(f"cannot {operation} job {job_id!r} while it is {state}: {remedy}")
        self.job_id = job_id
        self.state = state
        self.operation = operation


class UniqueKeyTaken(QueueError):
    """A job cannot be put back because another active job has its unique key."""

    def __init__(self, job_id: str, unique_key: str, holder: str) -> None:
        super().__init__(
            f"cannot retry job {job_id!r}: its unique key {unique_key!r} is held by the active job "
            f"{holder!r}; wait for that one or cancel it"
        )
        self.job_id = job_id
        self.unique_key = unique_key
        self.holder = holder


class LeaseLost(QueueError):
    """A lease no longer holds its job, so a finish or renewal changed nothing; stop working on the job."""

    def __init__(self, lease_id: str, because: str = "it was finished, reaped or never granted") -> None:
        super().__init__(f"lease {lease_id!r} does not hold its job any more: {because}; stop working on it")
        self.lease_id = lease_id


class LeaseExpired(LeaseLost):
    """A lease ran out before it was renewed."""

    def __init__(self, lease_id: str) -> None:
        super().__init__(lease_id, "it expired; renew it earlier or claim with a longer lease_ttl")


class JobFailed(QueueError):
    """The job whose result was asked for is dead.

    Attributes:
        job_id: The job.
        error: Its last error, as text.
    """

    def __init__(self, job_id: str, error: str) -> None:
        super().__init__(f"job {job_id!r} is dead: {error}")
        self.job_id = job_id
        self.error = error


class JobCancelled(QueueError):
    """The job whose result was asked for was cancelled.

    Attributes:
        job_id: The job.
        reason: Why.
    """

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(f"job {job_id!r} was cancelled: {reason}")
        self.job_id = job_id
        self.reason = reason


class Throttled(WorkerError):
    """A rate limit is used up: what `acquire` hands back, and what a handler raises to be run again later.

    Attributes:
        retry_after: Seconds until it is worth trying again.
        scope: The limit that was met; raised with a scope, it also drains that limit.
    """

    def __init__(self, retry_after: float, scope: str | None = None) -> None:
        self.retry_after: float = float(retry_after)
        super().__init__(f"throttled{f' by {scope!r}' if scope else ''}: try again in {self.retry_after:.3f} s")
        self.scope = scope


class UnknownScope(QueueError, LookupError):
    """A rate limit was used that nobody configured."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"no rate limit {scope!r}: configure it first with rate_limits.configure(...)")
        self.scope = scope


class WorkerNotFound(QueueError, LookupError):
    """No worker with this id is registered: it never was, or it was silent for too long and was reaped."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"no worker {worker_id!r} is registered: it never was, has ended, or was silent for too long")
        self.worker_id = worker_id


class ScheduleNotFound(QueueError, LookupError):
    """No schedule has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no schedule {name!r}: add it first with schedules.put(...)")
        self.name = name


class StoreUnavailable(QueueError):
    """The store could not serve a call now; the same call may succeed later."""


class StoreBusy(StoreUnavailable):
    """Another writer held the store for too long; nothing was written and trying again is right."""


class StoreFull(StoreUnavailable):
    """The store has no room left; nothing was written."""


class StoreDenied(QueueError):
    """The store does not accept the user, or does not allow it what is needed; trying again does not help."""


class StoreUnsafe(QueueError):
    """The store is set up in a way in which it may lose what it is given."""


class StoreClosed(QueueError):
    """A store was used before it was opened or after it was closed."""


class SchemaError(QueueError):
    """The tables of a store are missing, damaged, foreign, or newer than this release."""


class MoveRefused(QueueError):
    """Jobs cannot go on to another store; those that are on their way wait in the outbox of the one they came from."""


# Service ----------------------------------------------------------------------


class InvalidHandler(WorkerError, TypeError):
    """A function cannot be a handler as it is written; it was not registered."""


class InvalidArguments(InvalidRequest, TypeError):
    """The arguments of a job do not fit its handler's signature; nothing was enqueued."""


class RegistryNotOpen(WorkerError):
    """A registry's store was needed, and it is not open where the call was made."""


class RegistryInUse(WorkerError):
    """A registry cannot be changed in this way while it is open, or once it belongs to another one."""


class Abort(WorkerError):
    """Raise it in a handler to make the job dead at once, whatever attempts are left."""


class UndecodablePayload(Abort):
    """A stored payload does not fit its handler's signature, so the job can never run."""


class RetryAfter(WorkerError):
    """Raise it in a handler to end this run as failed and choose when the next one is due.

    Attributes:
        seconds: How long to wait before the next run; the attempt counts.
    """

    def __init__(self, seconds: float, reason: str = "the handler asked for it") -> None:
        self.seconds: float = float(seconds)
        super().__init__(f"to be run again in {self.seconds:g} s: {reason}")


class Snooze(WorkerError):
    """Raise it in a handler to put the job off without using up an attempt.

    Attributes:
        seconds: How long to wait before the job is due again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds: float = float(seconds)
        super().__init__(f"put off for {self.seconds:g} s")


class RunCancelled(WorkerError):
    """The run of a job is being cancelled: raised by `JobCtx.cancel.check()`.

    Attributes:
        reason: Why, such as ``user`` or ``shutdown``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"this run is being cancelled ({reason}): clean up and return or raise")
        self.reason = reason


class HandlerTimeout(WorkerError, TimeoutError):
    """A handler ran longer than it may and was cancelled."""


class HandlerCrashed(WorkerError):
    """A handler left with something that is no ordinary exception; ``__cause__`` is that."""


class HandlerFailed(WorkerError):
    """A handler raised in a process of its own: exceptions cannot be handed over, so this says what it was.

    Attributes:
        kind: Name of the exception's class.
        message: Its message.
        traceback: Where it came from, formatted in that process.
    """

    def __init__(self, kind: str, message: str, traceback: str | None = None) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.traceback = traceback
        if traceback is not None:
            self.add_note(f"in the process of the handler:\n{traceback}")


class CircuitOpen(Throttled):
    """A circuit breaker lets nothing through for now, because what is behind it failed too often."""

    def __init__(self, retry_after: float, kind: str) -> None:
        super().__init__(retry_after)
        self.kind = kind

    def __str__(self) -> str:
        return f"the circuit in front of {self.kind} is open: try again in {self.retry_after:.3f} s"


class RequestRejected(Abort):
    """A filter did not let a job through to its handler, so it is dead."""


class AckFailed(WorkerError):
    """A handler succeeded and its acknowledgement did not; ``__cause__`` is why.

    Attributes:
        output: What the handler returned.
    """

    def __init__(self, kind: str, output: object, why: Exception) -> None:
        super().__init__(f"{kind} was done and could not be acknowledged: {why!r}; it counts as failed")
        self.output = output


class OperationTimeout(WorkerError, TimeoutError):
    """One operation of a handler ran longer than it may and was cancelled."""


class LayerOrderWarning(UserWarning):
    """The layers around a handler stand in an order that is probably not meant."""


# Runtime --------------------------------------------------------------------


class InvalidConfig(WorkerError, ValueError):
    """A worker's settings do not make sense; nothing was started."""


class CommandError(WorkerError):
    """A command line names something that is not there."""


# Remote ---------------------------------------------------------------------


class RemoteError(WorkerError):
    """Base of everything that goes wrong between a remote worker and its gateway.

    Attributes:
        retryable: Whether a new session may go better.
    """

    retryable: bool = True


class SessionLost(RemoteError):
    """A session could not be opened, or it broke; whatever was not acknowledged is told again in the next one."""


class ProtocolError(RemoteError):
    """The other side of a session said what cannot be understood; the session is closed."""


class RegistrationFailed(RemoteError):
    """A session was open, and the gateway did not accept the worker in time."""


class CleanCloseExhausted(RemoteError):
    """The gateway closed one session after the other, without a failure and without work."""


class SessionDenied(RemoteError):
    """The gateway refuses this worker, and would again: it is not asked twice."""

    retryable: bool = False


class Unauthenticated(SessionDenied):
    """The gateway does not know who this worker is."""


class PermissionDenied(SessionDenied):
    """The gateway knows this worker and does not let it do what it wants."""
