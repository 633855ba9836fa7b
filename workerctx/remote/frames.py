"""What a remote worker and its gateway say to each other.

A message is one msgpack array of frames. Msgpack rather than JSON, because payloads and results are JSON already: they
travel as bytes and are neither encoded twice nor escaped. Each frame is a map with its name under ``t``. A reader
ignores fields that it does not know, and frames that it does not know if their name begins with ``?``; any other
unknown frame is a breach of the protocol. Times are durations, in seconds: the two clocks need not agree.

The worker speaks first: `Register`. The gateway answers `RegisterAck` or `Denied`. Then the worker tells again what was
not acknowledged in earlier sessions, and only then grants `Credit`, without which the gateway sends no `Task`.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from workerctx.errors import ProtocolError
from workerctx.queue import (
    Claimed,
    JobState,
    Lease,
    QueuedJob,
)
from workerctx.remote.faults import UNREADABLE, Fault
from workerctx.remote.records import ErrorRecord, JobRecord

VERSIONS: Final = (1,)
"""The versions of the protocol that this release speaks, the best first."""

MAX_MESSAGE: Final = 8 * 1024 * 1024
"""Largest message that this release accepts, in bytes."""


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t"):
    """Base of everything that is said."""


# Both ways --------------------------------------------------------------------


class Drain(Frame, tag="drain", frozen=True):
    """I take, or hand out, nothing more in this session; what is under way is still told and acknowledged."""

    reason: str = ""


# From the worker --------------------------------------------------------------


class Register(Frame, tag="register", frozen=True, kw_only=True):
    """Who I am and what I can run; the first frame of a session.

    Attributes:
        versions: Versions of the protocol that I speak.
        worker_id: The same in every session of this worker.
        namespaces: Those I may serve; the gateway grants the first that my credentials allow.
        queues: What I serve, in order.
        weights: How often each queue is served compared to the others, see `ClaimRequest`.
        kinds: What I can run.
        labels: What I offer to jobs that require labels.
        concurrency: How many jobs I run at once.
        identity: Who I say I am, for people; authentication is not based on it.
        node: The machine.
        host_id: Time-ordered id of the process boot.
        pid: The process.
        holding: Leases from earlier sessions that I still run or report.
    """

    worker_id: str
    versions: tuple[int, ...] = VERSIONS
    namespaces: tuple[str, ...] = ("default",)
    queues: tuple[str, ...] = ("default",)
    weights: dict[str, int] = {}
    kinds: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    concurrency: int = 1
    identity: str = ""
    node: str = ""
    host_id: str = ""
    pid: int = 0
    holding: tuple[str, ...] = ()


class Credit(Frame, tag="credit", frozen=True):
    """How many tasks I can take, beyond those I have received; replaces what I said before.

    Attributes:
        received: How many tasks have arrived in this session.
        free: How many more may be sent.
        at_once: Whether their runs would begin on arrival; otherwise some would wait for a slot, and I say `Began`.
        kind_limits: Of each of these kinds at most so many among them, perhaps none.
    """

    received: int
    free: int
    at_once: bool = False
    kind_limits: dict[str, int] = {}


class Began(Frame, tag="began", frozen=True):
    """The runs of these leases have begun; for tasks that were not `Task.counted`."""

    leases: tuple[str, ...]


class Result(Frame, tag="result", frozen=True):
    """A run returned.

    Attributes:
        lease_id: The lease under which it ran.
        outputs: What it returned, as JSON.
        job_id: Whose run it was, so that a gateway may find out whether another one has stored this already; empty if
            that is not known any more, or not told by an older worker.
    """

    lease_id: str
    outputs: bytes = b"null"
    job_id: str = ""


class Failure(Frame, tag="failure", frozen=True):
    """A run ended in another way.

    Attributes:
        lease_id: The lease under which it ran.
        outcome: ``fail``: it failed and may be tried again; ``abort``: it failed for good; ``release``: it is given
            back, to be run at once; ``snooze``: it wants to run later; ``throttle``: it met a limit.
        error: What went wrong, for ``fail`` and ``abort``.
        delay: Seconds until the next run; for ``fail``, None follows the job's retry policy.
        scope: A rate limit to drain for that long, for ``throttle``.
        job_id: As in `Result`.
    """

    lease_id: str
    outcome: Literal["fail", "abort", "release", "snooze", "throttle"] = "fail"
    error: ErrorRecord | None = None
    delay: float | None = None
    scope: str | None = None
    job_id: str = ""


class Progress(Frame, tag="progress", frozen=True):
    """How far a run is.

    Attributes:
        lease_id: The lease under which it runs.
        value: Any JSON value, as JSON.
    """

    lease_id: str
    value: bytes


class Heartbeat(Frame, tag="heartbeat", frozen=True):
    """I live, and so do these leases: renew them.

    Attributes:
        leases: Every lease that I run or report.
        in_flight: How many jobs run.
        state: Of the worker: ``running``, ``paused`` and so on.
    """

    leases: tuple[str, ...] = ()
    in_flight: int = 0
    state: str = "running"


class Request(Frame, tag="request", frozen=True):
    """Do something to the store, on behalf of a handler.

    Attributes:
        id: Repeated in the `Reply`.
        call: A `workerctx.remote.calls.Call`, still encoded, so that an unknown one fails alone.
        again: Whether it was sent in an earlier session, so that it may have been done.
    """

    id: int
    call: msgspec.Raw
    again: bool = False


# From the gateway -------------------------------------------------------------


class RegisterAck(Frame, tag="registered", frozen=True, kw_only=True):
    """You are accepted; the first frame that I send.

    Attributes:
        version: The version of the protocol that we speak.
        namespace: The namespace that you serve.
        heartbeat: Send a `Heartbeat` this often while you hold leases, in seconds; three missed ones, and your session
            is over.
        idle_heartbeat: The same while you hold none; 0 if it makes no difference.
        lease_ttl: For how many seconds leases live without a heartbeat.
        max_message: Largest message that I accept, in bytes.
        lost: Leases of `Register.holding` that are no longer yours.
        server: What I am, for people.
    """

    version: int
    worker_id: str
    namespace: str = "default"
    heartbeat: float = 2.0
    idle_heartbeat: float = 0.0
    lease_ttl: float = 30.0
    max_message: int = MAX_MESSAGE
    lost: tuple[str, ...] = ()
    server: str = ""


class Denied(Frame, tag="denied", frozen=True):
    """You are not accepted, or no longer; I close the session.

    Attributes:
        code: ``unauthenticated`` and ``permission_denied`` are final; ``version``, ``invalid``, ``busy`` and any other
            word may go better another time.
        message: One sentence.
    """

    code: str
    message: str = ""


class Task(Frame, tag="task", frozen=True, kw_only=True):
    """Run this job.

    Attributes:
        lease_id: Names the run in everything that is said of it.
        ttl: Seconds that are left of the lease.
        job: What to run; ``job.attempt`` is the number of this run, from 1.
        counted: Whether the store knows that the run begins; otherwise say `Began`.
    """

    lease_id: str
    ttl: float
    job: JobRecord
    counted: bool = False

    @classmethod
    def of(cls, job: QueuedJob, lease: Lease, *, ttl: float | None = None, counted: bool = False) -> Task:
        """Pack a claimed job.

        Args:
            job: The job.
            lease: Its lease.
            ttl: Seconds that are left of the lease; None if it is new.
            counted: Whether the store knows that the run begins.
        """
        return cls(lease_id=lease.id, ttl=lease.ttl if ttl is None else ttl, job=JobRecord.of(job), counted=counted)

    def claimed(self, worker_id: str) -> Claimed:
        """Unpack it.

        Raises:
            ProtocolError: It makes no sense.
        """
        try:
            job = self.job.job()
        except UNREADABLE as exc:
            raise ProtocolError(f"a task cannot be understood: {exc}") from exc
        if job.attempt < 1:
            raise ProtocolError(f"a task is malformed: its attempt is {job.attempt}, and runs are counted from 1")
        if not self.ttl > 0:
            raise ProtocolError(f"a task is malformed: its lease has {self.ttl} seconds left")
        granted = job.run_at if job.claimed_at is None else job.claimed_at
        job = msgspec.structs.replace(job, state=JobState.RUNNING, worker_id=worker_id, lease_id=self.lease_id)
        return job, Lease(self.lease_id, job.id, worker_id, granted, self.ttl, granted + self.ttl)


class ResultAck(Frame, tag="ack", frozen=True):
    """These outcomes need not be told again.

    Attributes:
        accepted: They were stored, in this session or before.
        lost: Their leases were no longer yours; nothing was changed.
        refused: They cannot be stored, and why; the leases are as they were.
    """

    accepted: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    refused: dict[str, str] = {}


class HeartbeatAck(Frame, tag="alive", frozen=True):
    """The answer to a heartbeat.

    Attributes:
        lost: Leases among them that are no longer yours: stop these runs, nobody wants to hear of them.
        cancelled: Leases whose run should stop, and why: a `CancelReason`.
        commands: What operators sent to this worker: ``pause``, ``resume``, ``stop``.
    """

    lost: tuple[str, ...] = ()
    cancelled: dict[str, str] = {}
    commands: tuple[str, ...] = ()


class Cancel(Frame, tag="cancel", frozen=True):
    """This run should stop; the same as in `HeartbeatAck.cancelled`, but at once.

    Attributes:
        lease_id: The lease under which it runs.
        reason: A `CancelReason`.
    """

    lease_id: str
    reason: str = "user"


class Reply(Frame, tag="reply", frozen=True):
    """What came of a `Request`.

    Attributes:
        id: Of the request.
        value: What the call returns, still encoded.
        fault: What it raised instead.
    """

    id: int
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    fault: Fault | None = None


FromWorker: TypeAlias = Register | Credit | Began | Result | Failure | Progress | Heartbeat | Request | Drain
FromGateway: TypeAlias = RegisterAck | Denied | Task | ResultAck | HeartbeatAck | Cancel | Reply | Drain
