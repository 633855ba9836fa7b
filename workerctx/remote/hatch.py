"""The hatch between a worker's event loop and the thread of its session: jobs in, outcomes out.

Neither side waits for the other. The worker takes what has arrived and puts down what has become of it; the session
collects what there is to say whenever it can say something. What one session could not say, the next one does.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from attrs import define, field

from workerctx.errors import ProtocolError
from workerctx.lifecycle.latch import Latch
from workerctx.queue import CancelReason, CompleteLease, FailLease, JobError, ReleaseLease
from workerctx.remote.appetite import Appetite
from workerctx.remote.frames import MAX_MESSAGE, Began, Drain, Heartbeat, Progress, Task
from workerctx.remote.held import Held
from workerctx.remote.outcomes import as_tellable, outcome_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from workerctx.queue import Claimed, ClaimRequest, Finish
    from workerctx.remote.asks import Asks
    from workerctx.remote.frames import FromWorker, ResultAck
    from workerctx.remote.unacked import UnackedResults
    from workerctx.remote.wire import BrokenTask

_log = logging.getLogger("workerctx")

_HEAD: Final = 512
"""Bytes of a message that are not what it carries, at the most."""
_LARGEST_ERROR: Final = 64 * 1024
"""Bytes that what is told of an exception has at the most; a gateway that takes less hears no traceback."""
_LOST: Final = CancelReason.LEASE_LOST
_LONGEST_REASON: Final = 2000
"""Characters of why an outcome was refused, which may repeat what was too long."""


@define(eq=False)
class Hatch:
    """What passes between a worker and its sessions, of which there is at most one at a time.

    Args:
        worker_id: Whose leases these are.
        kinds: What the worker can run.
        unacked: The outcomes that must still be told.
        asks: What handlers ask of the store.

    Attributes:
        on_news: Told which runs should stop and why, in the session's thread.
        on_late: Told which leases were lost after their run, in the session's thread.

    Threads: any.
    """

    worker_id: str
    kinds: Collection[str]
    unacked: UnackedResults
    asks: Asks
    on_news: Callable[[Mapping[str, CancelReason]], object] = field(default=lambda _: None)
    on_late: Callable[[Sequence[str]], object] = field(default=lambda _: None)
    state: str = field(default="pending", init=False)
    """What the worker says of itself."""
    in_flight: int = field(default=0, init=False)
    """How many jobs run."""
    arrivals: int = field(default=0, init=False)
    """Rises whenever it is worth looking for jobs."""
    arrived: Latch = field(init=False)
    """Wakes the worker at each rise."""
    news: Latch = field(init=False)
    """Holds while there is something to say; wakes the session."""
    _lock: threading.RLock = field(factory=threading.RLock, init=False)
    _inbox: deque[tuple[Claimed, float]] = field(factory=deque["tuple[Claimed, float]"], init=False)
    """Jobs that the worker has not taken yet, and when they came on the session's clock."""
    _held: Held = field(factory=Held, init=False)
    _to_tell: dict[str, Finish] = field(factory=dict[str, "Finish"], init=False)
    _progress: dict[str, bytes] = field(factory=dict[str, bytes], init=False)
    """The newest of each run, kept to its end as nobody acknowledges it."""
    _moved: dict[str, None] = field(factory=dict[str, None], init=False)
    """Those among them that were not told in this session."""
    _commands: list[str] = field(factory=list[str], init=False)
    _open: bool = field(default=False, init=False)
    """Whether jobs may come: there is a session, and everything older was told in it."""
    _appetite: Appetite = field(init=False)
    _limit: int = field(default=MAX_MESSAGE, init=False)
    """How many bytes of a result the gateway accepts."""
    _leaving: str | None = field(default=None, init=False)
    """Why the worker takes nothing more, until it was said."""
    _left: bool = field(default=False, init=False)
    """Whether it takes nothing more, for good."""
    _changed: bool = field(default=False, init=False)
    """Whether `state` is another than what was said last."""
    _woken: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.arrived = Latch(lambda: False)
        self.news = Latch(lambda: self._woken)
        self._appetite = Appetite(self.kinds)
        for finish in self.unacked.snapshot():
            self._held.take(finish.lease_id, self.unacked.job_of(finish.lease_id))

    # The worker's side --------------------------------------------------------

    def take(self, claim: ClaimRequest) -> Sequence[Claimed]:
        """Take jobs that have arrived, and ask for as many more as are missing."""
        with self._lock:
            claimed = [self._inbox.popleft()[0] for _ in range(min(claim.limit, len(self._inbox)))]
            if claim.began:
                self._held.begin(lease.id for _, lease in claimed)
            wants_none = self._left or self.unacked.is_full
            self._appetite.ask(claim, 0 if wants_none else claim.limit - len(claimed))
            self._grant()
            return claimed

    def take_nothing(self, leaving: str | None = None) -> None:
        """Ask for nothing, until the next `take`; or for good, if a reason for leaving is given.

        Who leaves gives back what has arrived, now and later: the gateway would keep it for a worker that comes back.
        """
        with self._lock:
            self._appetite.wanted = 0
            self._leaving = leaving
            self._left |= leaving is not None
            self._grant()
            self.wake()
        if leaving is not None:
            self.give_back(math.inf)

    def tell(self, finishes: Sequence[Finish], began: Collection[str]) -> None:
        """Put down what became of runs, and which have begun; outcomes are recorded when this returns.

        May take long if `UnackedResults.waits_for_disk`.
        """
        finishes = [as_tellable(finish) for finish in finishes]
        self.unacked.record(finishes, self._held.job_of)
        with self._lock:
            for finish in finishes:
                self._held.end(finish.lease_id)
                self._progress.pop(finish.lease_id, None)
                self._to_tell[finish.lease_id] = finish
            self._held.begin(began)
            if finishes or began:
                self.wake()

    def progress(self, lease_id: str, value: bytes) -> None:
        """Put down how far a run is; only the newest value is told."""
        with self._lock:
            if lease_id in self._held and self._accepts(lease_id, value):
                self._progress[lease_id] = value
                self._moved[lease_id] = None
                self.wake()

    def report(self, state: str, in_flight: int) -> None:
        """Put down how the worker is, for the next heartbeat, which comes at once if its state is another."""
        with self._lock:
            self.in_flight = in_flight
            if state != self.state:
                self.state = state
                self._changed = True
                self.wake()

    def commands(self) -> Sequence[str]:
        """Take what operators sent to this worker."""
        with self._lock:
            commands, self._commands = self._commands, []
            return commands

    @property
    def owes(self) -> int:
        """How many outcomes were not acknowledged."""
        return len(self.unacked)

    def wake(self) -> None:
        """Have the session look for something to say."""
        if not self._woken:
            self._woken = True
            self.news.wake()

    # The session's side -------------------------------------------------------

    @property
    def holding(self) -> tuple[str, ...]:
        """Every lease that is ours."""
        with self._lock:
            return tuple(self._held)

    @property
    def is_busy(self) -> bool:
        """Whether a lease is held or an outcome is owed."""
        return bool(self._held) or bool(self.unacked)

    def replay(self, max_message: int = MAX_MESSAGE) -> Sequence[FromWorker]:
        """Begin a new session: return what was not acknowledged in earlier ones.

        Args:
            max_message: Largest message that the gateway accepts, in bytes.
        """
        with self._lock:
            self._limit = self.asks.limit = max_message - _HEAD
            self._appetite.begin()
            self._to_tell.clear()
            self._held.renew()
            self._progress = {
                lease_id: value for lease_id, value in self._progress.items() if self._accepts(lease_id, value)
            }
            self._moved = dict.fromkeys(self._progress)
            return [self._telling(finish) for finish in self.unacked.snapshot()]

    def open(self) -> None:
        """Let jobs come."""
        with self._lock:
            self._open = True
            self._grant()
            self.wake()
        self._look()

    def shut(self) -> None:
        """Let no jobs come: the session ends, or is about to."""
        with self._lock:
            self._open = False
            self._grant()
            self.wake()

    def collect(self) -> tuple[Sequence[FromWorker], int]:
        """Take what there is to say, and how many outcomes are in it."""
        with self._lock:
            self._woken = False
            frames: list[FromWorker] = []
            if began := self._held.collect():
                frames.append(Began(began))
            finishes, self._to_tell = self._to_tell, {}
            frames += map(self._telling, finishes.values())
            moved, self._moved = self._moved, {}
            frames += [Progress(each, self._progress[each]) for each in moved if each in self._progress]
            if self._appetite.is_news:
                frames.append(self._appetite.credit())
            if self._leaving is not None:
                frames.append(Drain(self._leaving))
                self._leaving = None
            if self._changed:
                frames.append(self.heartbeat())
            frames += self.asks.collect()
            return frames, len(finishes)

    def heartbeat(self) -> Heartbeat:
        """Return what to say of our health."""
        with self._lock:
            self._changed = False
            return Heartbeat(self.holding, self.in_flight, self.state)

    def deliver(self, task: Task | BrokenTask, now: float) -> None:
        """Put a job where the worker finds it; one that makes no sense fails.

        Args:
            task: What the gateway sent.
            now: On the session's clock.
        """
        with self._lock:
            self._appetite.received += 1
            if task.lease_id in self._held:
                _log.warning("the gateway sent the task of lease %s twice; the second is left out", task.lease_id)
                return
            if isinstance(task, Task):
                self._held.take(task.lease_id, task.job.id, counted=task.counted)
            else:
                self._held.take(task.lease_id)
        try:
            job, lease = self._check(task)
        except ProtocolError as exc:
            _log.warning("a task of the gateway cannot be run: %s", exc)
            self.tell([FailLease(task.lease_id, JobError("MalformedTask", str(exc)), retryable=False)], ())
            with self._lock:
                self._grant()
            return
        with self._lock:
            self._inbox.append(((job, lease), now))
        if self._left:
            self.give_back(math.inf)
        else:
            self._look()

    def oldest(self) -> float | None:
        """Return when the job came that waits longest to be taken, on the session's clock."""
        with self._lock:
            return self._inbox[0][1] if self._inbox else None

    def give_back(self, until: float) -> None:
        """Give back jobs that came before this moment and were not taken, and take no more until the worker asks."""
        surplus: list[Finish] = []
        with self._lock:
            while self._inbox and self._inbox[0][1] <= until:
                surplus.append(ReleaseLease(self._inbox.popleft()[0][1].id))
            if surplus:
                self._appetite.wanted = 0
                self._grant()
        if surplus:
            self.tell(surplus, ())
            self._look()

    def acknowledged(self, ack: ResultAck) -> None:
        """Forget outcomes that were taken, and fail those that cannot be stored."""
        was_full = self.unacked.is_full
        with self._lock:
            for lease_id in (*ack.accepted, *ack.lost):
                self._forget(lease_id)
        known = self.unacked.acknowledge((*ack.accepted, *ack.lost))
        late = [
            finish.lease_id for finish in known if finish.lease_id in ack.lost and not isinstance(finish, ReleaseLease)
        ]
        if late:
            self.on_late(late)
        for lease_id, reason in ack.refused.items():
            self._refused(lease_id, reason)
        self.wake()
        if was_full:
            self._look()

    def stop_runs(self, news: Mapping[str, CancelReason]) -> None:
        """Stop runs, or see to it that they never begin; of lost leases nobody wants to hear."""
        waiting: list[Finish] = []
        running: dict[str, CancelReason] = {}
        with self._lock:
            inbox = {claimed[1].id: (claimed, came) for claimed, came in self._inbox}
            for lease_id, reason in news.items():
                if lease_id not in self._held or self.unacked.get(lease_id) is not None:
                    continue
                if lease_id in inbox:
                    self._inbox.remove(inbox[lease_id])
                    if reason is not _LOST:
                        waiting.append(ReleaseLease(lease_id))
                else:
                    running[lease_id] = reason
                if reason is _LOST:
                    self._forget(lease_id)
        if waiting:
            self.tell(waiting, ())
        if running:
            self.on_news(running)

    def command(self, words: Iterable[str]) -> None:
        """Hand on what operators sent to this worker."""
        with self._lock:
            self._commands += words

    # Inside -------------------------------------------------------------------

    def _telling(self, finish: Finish) -> FromWorker:
        """Return the frame of an outcome; what is too large for the gateway is left out."""
        if isinstance(finish, CompleteLease) and len(finish.outputs_json) > self._limit:
            size = f"the result has {len(finish.outputs_json)} bytes, and the gateway accepts {self._limit}"
            error = JobError("InvalidRequest", f"{size}: store the data elsewhere and return a reference to it")
            finish = FailLease(finish.lease_id, error)
            self.unacked.record([finish], self._held.job_of)
        elif isinstance(finish, FailLease) and self._limit < _LARGEST_ERROR:
            error = JobError(finish.error.kind[: self._limit // 16], finish.error.message[: self._limit // 16])
            finish = FailLease(finish.lease_id, error, finish.retryable, finish.delay)
        return outcome_frame(finish, self._held.job_of(finish.lease_id))

    def _accepts(self, lease_id: str, progress: bytes) -> bool:
        if len(progress) > self._limit:
            _log.warning("the progress of lease %s is too large for the gateway: %d bytes", lease_id, len(progress))
        return len(progress) <= self._limit

    def _check(self, task: Task | BrokenTask) -> Claimed:
        if not isinstance(task, Task):
            raise ProtocolError(task.reason)
        job, lease = task.claimed(self.worker_id)
        if job.kind not in self.kinds:
            raise ProtocolError(f"this worker has no handler for the kind {job.kind!r}")
        return job, lease

    def _grant(self) -> None:
        if self._appetite.settle(len(self._inbox), is_open=self._open):
            self.wake()

    def _refused(self, lease_id: str, reason: str) -> None:
        finish = self.unacked.get(lease_id)
        _log.error("the gateway cannot store the outcome of lease %s: %s", lease_id, reason)
        if isinstance(finish, FailLease) and finish.delay is None:  # there is nothing plainer to say
            self.unacked.acknowledge([lease_id])
            with self._lock:
                self._forget(lease_id)
        elif finish is not None:
            kind = "InvalidRequest" if isinstance(finish, CompleteLease) else "InvalidOutcome"
            self.tell([FailLease(lease_id, JobError(kind, reason[:_LONGEST_REASON]))], ())

    def _forget(self, lease_id: str) -> None:
        self._held.drop(lease_id)
        self._progress.pop(lease_id, None)

    def _look(self) -> None:
        self.arrivals += 1
        self.arrived.wake()
