"""The life of a worker as a pure state machine.

::

    PENDING --start--> RUNNING <--pause/resume--> PAUSED
       |                  |                         |
       +------stop--------+----------stop-----------+--> STOPPED --finish--> (finished)

`Machine` performs no I/O, knows no event loop and holds no lock. Its history is a linked list of immutable `Snapshot`
objects, and a transition is one compare-and-set: whoever links the successor of the latest snapshot has made the
transition, everybody else looks again. That holds between threads, with and without a GIL, and between a thread and a
signal handler that interrupts it.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field, frozen

from workerctx.errors import InvalidTransition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class WorkerState(enum.Enum):
    """The four public states of a worker."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class Outcome(enum.Enum):
    """How a worker's life ended."""

    CLEAN = "clean"
    """Everything that was accepted has ended by itself."""
    FAILED = "failed"
    """Its infrastructure failed; waiters raise `WorkerFailed`."""
    CANCELLED = "cancelled"
    """The deadline passed while work was still running."""
    NEVER_STARTED = "never_started"
    """It was stopped before it was started."""


class Operation(enum.Enum):
    """What can be asked of a worker's state."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"


TRANSITIONS: Final[Mapping[tuple[WorkerState, Operation], WorkerState]] = MappingProxyType(
    {
        (WorkerState.PENDING, Operation.START): WorkerState.RUNNING,
        (WorkerState.RUNNING, Operation.PAUSE): WorkerState.PAUSED,
        (WorkerState.PAUSED, Operation.RESUME): WorkerState.RUNNING,
        (WorkerState.PENDING, Operation.STOP): WorkerState.STOPPED,
        (WorkerState.RUNNING, Operation.STOP): WorkerState.STOPPED,
        (WorkerState.PAUSED, Operation.STOP): WorkerState.STOPPED,
    }
)
"""Every legal transition. `stop` on a stopped worker is legal too and changes nothing but the deadline."""

_REMEDIES: Final[Mapping[WorkerState, str]] = MappingProxyType(
    {
        WorkerState.PENDING: "start it first",
        WorkerState.RUNNING: "it runs already",
        WorkerState.PAUSED: "resume it first",
        WorkerState.STOPPED: "a stopped worker never starts again, make a new one",
    }
)


class Effect(enum.Enum):
    """What the shell has to do after a transition."""

    ANNOUNCE = "announce"
    """Deliver the transition's event to the listeners."""
    WAKE = "wake"
    """Wake everybody who waits for a state."""
    BOUND = "bound"
    """Apply the snapshot's deadline and see whether the drain is complete."""
    FINISH = "finish"
    """Nothing can be running: finish at once."""


class Change(enum.Enum):
    """Which event a snapshot stands for."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    EXIT = "exit"


@frozen(eq=False)
class Snapshot:
    """All facts about a worker at one moment.

    Attributes:
        sequence: the number of the latest transition; 0 before the first.
        at: `time.monotonic()` of the latest transition, in seconds.
        reason: why the worker was stopped or paused.
        failure: what broke the worker, if something did.
        deadline: `time.monotonic()` at which the drain ends, in seconds; None for no bound.
    """

    state: WorkerState = WorkerState.PENDING
    sequence: int = 0
    at: float = 0.0
    change: Change | None = None
    reason: str | None = None
    failure: BaseException | None = None
    deadline: float | None = None
    started: bool = False
    outcome: Outcome | None = None
    following: dict[str, Snapshot] = field(factory=dict[str, "Snapshot"], repr=False)

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self.state is WorkerState.STOPPED

    @property
    def finished(self) -> bool:
        """Whether the worker's life is over."""
        return self.outcome is not None


@frozen(eq=False)
class Step:
    """What an operation did: the snapshot it made, None if it lost or had nothing to do, and the effects."""

    snapshot: Snapshot | None
    effects: tuple[Effect, ...] = ()


_NOTHING: Final = Step(None)


@define(eq=False)
class Machine:
    """Decides what a worker's operations do; the shell performs the effects.

    Threads: every method may be called from any thread and from a signal handler.
    """

    name: str
    tip: Snapshot = field(factory=Snapshot)
    """The latest snapshot, or one a moment older while another thread is writing; `snapshot` is exact."""

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""
        latest = self.tip
        while latest.following:
            latest = latest.following["next"]
        return latest

    def start(self, at: float) -> Step:
        """PENDING to RUNNING."""

        def decide(now: Snapshot) -> Snapshot:
            state = self._target(now, Operation.START)
            return self._next(now, at, Change.START, state=state, started=True)

        return Step(self._advance(decide), (Effect.ANNOUNCE, Effect.WAKE))

    def pause(self, at: float, reason: str | None = None) -> Step:
        """RUNNING to PAUSED."""

        def decide(now: Snapshot) -> Snapshot:
            state = self._target(now, Operation.PAUSE)
            return self._next(now, at, Change.PAUSE, state=state, reason=reason)

        return Step(self._advance(decide), (Effect.ANNOUNCE, Effect.WAKE))

    def resume(self, at: float) -> Step:
        """PAUSED to RUNNING."""

        def decide(now: Snapshot) -> Snapshot:
            state = self._target(now, Operation.RESUME)
            return self._next(now, at, Change.RESUME, state=state, reason=None)

        return Step(self._advance(decide), (Effect.ANNOUNCE, Effect.WAKE))

    def stop(self, at: float, reason: str | None, deadline: float | None, failure: BaseException | None = None) -> Step:
        """Any state to STOPPED; on a stopped worker only an earlier deadline or a first failure counts."""

        def decide(now: Snapshot) -> Snapshot | None:
            if not now.stopping:
                state = self._target(now, Operation.STOP)
                return self._next(now, at, Change.STOP, state=state, reason=reason, deadline=deadline, failure=failure)
            if now.finished:
                return None
            earliest = earlier(now.deadline, deadline)
            kept = now.failure or failure
            if earliest == now.deadline and kept is now.failure:
                return None
            return evolve(now, change=None, deadline=earliest, failure=kept, following={})

        made = self._advance(decide)
        if made is None:
            return _NOTHING
        if made.change is None:
            return Step(made, (Effect.WAKE, Effect.BOUND))
        if not made.started:
            return Step(made, (Effect.ANNOUNCE, Effect.WAKE, Effect.FINISH))
        return Step(made, (Effect.ANNOUNCE, Effect.WAKE, Effect.BOUND))

    def finish(self, at: float, *, overdue: bool = False) -> Step:
        """End the life of a stopped worker; `overdue` says that the deadline passed before the work ended."""

        def decide(now: Snapshot) -> Snapshot | None:
            if now.finished or not now.stopping:
                return None
            if now.failure is not None:
                outcome = Outcome.FAILED
            elif not now.started:
                outcome = Outcome.NEVER_STARTED
            else:
                outcome = Outcome.CANCELLED if overdue else Outcome.CLEAN
            return self._next(now, at, Change.EXIT, outcome=outcome)

        made = self._advance(decide)
        return _NOTHING if made is None else Step(made, (Effect.ANNOUNCE, Effect.WAKE))

    def refuse(self, operation: str, remedy: str | None = None) -> InvalidTransition:
        """Make the error that says why an operation is not possible now."""
        state = self.snapshot.state
        return InvalidTransition(self.name, state.value, operation, remedy or _REMEDIES[state])

    def _target(self, now: Snapshot, operation: Operation) -> WorkerState:
        try:
            return TRANSITIONS[now.state, operation]
        except KeyError:
            raise InvalidTransition(
                self.name, now.state.value, operation.value, _remedy(now.state, operation)
            ) from None

    def _next(self, now: Snapshot, at: float, change: Change, **facts: Any) -> Snapshot:
        return evolve(now, sequence=now.sequence + 1, at=at, change=change, following={}, **facts)

    def _advance(self, decide: Callable[[Snapshot], Snapshot | None]) -> Snapshot | None:
        while True:
            now = self.snapshot
            new = decide(now)
            if new is None:
                return None
            # dict.setdefault is atomic: one caller links its snapshot, the others find it there.
            if now.following.setdefault("next", new) is new:
                self.tip = new
                return new


def _remedy(state: WorkerState, operation: Operation) -> str:
    if state is WorkerState.PAUSED and operation in {Operation.START, Operation.PAUSE}:
        return "it is started and paused already, resume() lets it go on"
    return _REMEDIES[state]


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two deadlines; None is no deadline."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
