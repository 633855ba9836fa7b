"""What a worker tells a store about leases, as data, so that many can go in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from workerctx.errors import InvalidRequest
from workerctx.queue.codec import encode_json
from workerctx.queue.request import as_names, is_whole
from workerctx.queue.retry import LONGEST_WAIT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from workerctx.queue.model import JobError


class CompleteLease(msgspec.Struct, frozen=True, gc=False):
    """The run returned.

    Attributes:
        lease_id: The lease that holds the job.
        outputs_json: What it returned, encoded by `encode_json`.
    """

    lease_id: str
    outputs_json: bytes = b"null"

    @classmethod
    def of(cls, lease_id: str, outputs: Any = None) -> CompleteLease:
        """Encode ``outputs``, any JSON value.

        Raises:
            InvalidRequest: The outputs are not JSON or too large.
        """
        return cls(lease_id, encode_json(outputs, "result"))


class FailLease(msgspec.Struct, frozen=True):
    """The run failed.

    Attributes:
        lease_id: The lease that holds the job.
        error: What went wrong.
        retryable: False makes the job dead at once.
        delay: Seconds until the next run; None follows the job's retry policy.
    """

    lease_id: str
    error: JobError
    retryable: bool = True
    delay: float | None = None


class ReleaseLease(msgspec.Struct, frozen=True):
    """The job is given back and can be claimed at once; no attempt is used up."""

    lease_id: str


class SnoozeLease(msgspec.Struct, frozen=True):
    """The job wants to run again ``delay`` seconds from now; no attempt is used up."""

    lease_id: str
    delay: float


class ThrottleLease(msgspec.Struct, frozen=True):
    """The job met a limit: run it again after ``retry_after`` seconds; no attempt is used up.

    Attributes:
        lease_id: The lease that holds the job.
        retry_after: Seconds.
        scope: A rate limit to drain for that long, in the same transaction.
    """

    lease_id: str
    retry_after: float
    scope: str | None = None


Finish: TypeAlias = CompleteLease | FailLease | ReleaseLease | SnoozeLease | ThrottleLease


class ClaimRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is ready to take.

    Attributes:
        worker_id: Who claims.
        labels: What the worker offers; a job's required labels must all be among them.
        lease_ttl: Seconds until the leases expire unless renewed.
        queues: Which to look into, in this order.
        weights: How often each queue is served compared to the others as long as none of them is empty, 1 for
            a queue that is not named. Without any, each queue is preferred to the one after it.
        kinds: Which kinds it can run; None for all.
        kind_limits: Of each of these kinds at most so many jobs; with 0 none. The others are not limited.
        limit: Largest number of jobs.
        began: Whether the runs begin at once. False for prefetched jobs: their attempt counts only once a
            later ``finish_many(..., began=[lease.id])`` says that the run has begun, or when they are
            completed or failed.

    Raises:
        InvalidRequest: The lease has no length, the limit is below 1, no queue is named, a name is no text, a weight
            is below 1 or that of a queue which is not looked into, or the limit of a kind is negative.
    """

    worker_id: str
    labels: Collection[str] = ()
    lease_ttl: float = 30.0
    queues: Sequence[str] = ("default",)
    weights: Mapping[str, int] = {}
    kinds: Collection[str] | None = None
    kind_limits: Mapping[str, int] = {}
    limit: int = 1
    began: bool = True

    def __post_init__(self) -> None:
        check_ttl("lease_ttl", self.lease_ttl)
        if not (is_whole(self.limit) and self.limit >= 1):
            raise InvalidRequest(f"a claim takes a whole number of jobs and at least 1, got limit={self.limit!r}")
        if not self.queues:
            raise InvalidRequest("a claim needs at least one queue to look into")
        for names in (self.labels, self.queues, self.kinds, self.kind_limits):
            _check_names(names)
        queues = frozenset(self.queues) if self.weights else ()
        for queue, weight in self.weights.items():
            if not (is_whole(weight) and weight >= 1):
                raise InvalidRequest(
                    f"a queue's weight must be a whole number and at least 1, and that of {queue!r} is {weight!r}"
                )
            if queue not in queues:
                raise InvalidRequest(f"there is a weight for {queue!r}, which is not among the queues of the claim")
        for kind, most in self.kind_limits.items():
            if not (is_whole(most) and most >= 0):
                raise InvalidRequest(
                    f"the limit of a kind must be a whole number and not negative, and that of {kind!r} is {most!r}"
                )


def _check_names(names: Collection[str] | None) -> None:
    for name in as_names(names or ()):
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidRequest(f"a name is a text, got {name!r}")


def check_ttl(what: str, seconds: float) -> None:
    """Refuse the length of a lease that is not a positive number of seconds, or longer than any store can keep.

    Raises:
        InvalidRequest: It is not.
    """
    if not 0 < seconds <= LONGEST_WAIT:
        raise InvalidRequest(f"{what} must be more than 0 seconds and at most {LONGEST_WAIT:.0f}, got {seconds}")
