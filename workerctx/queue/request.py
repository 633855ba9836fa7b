"""A job that somebody wants done, checked before it reaches a store."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, Unpack

import attrs

from workerctx.errors import InvalidRequest
from workerctx.queue.codec import encode_json
from workerctx.queue.retry import LONGEST_WAIT, as_backoff

if TYPE_CHECKING:
    from collections.abc import Iterable

    from workerctx.queue.model import OnParentFailure
    from workerctx.queue.retry import RetryPolicy

Seconds: TypeAlias = float | timedelta
Moment: TypeAlias = float | datetime

DEFAULT_QUEUE: Final = "default"
"""Where a job waits when nobody named a queue."""

_MAX_NAME: Final = 255
_MAX_WHOLE: Final = 2**31 - 1
_NO_NAMES: Final[tuple[str, ...]] = ()


def as_seconds(value: Seconds) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidRequest: It is no number and no timedelta.
    """
    return value.total_seconds() if isinstance(value, timedelta) else _as_number(value, "a length of time")


def optional_seconds(value: Seconds | None) -> float | None:
    """Return a duration in seconds, or None.

    Raises:
        InvalidRequest: It is neither a number nor a timedelta nor None.
    """
    return None if value is None else as_seconds(value)


def _as_number(value: float, what: str) -> float:
    # A Decimal, say, is stored in a way in which it cannot be read back.
    if type(value) is float:
        return value
    try:
        if not isinstance(value, bool | str | bytes | bytearray):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidRequest(f"{what} is a number of seconds, got {value!r}")


def as_moment(value: Moment | None) -> float | None:
    """Return a point in time in seconds since the epoch, or None.

    Raises:
        InvalidRequest: A datetime has no time zone, or it is neither that nor a number nor None.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidRequest(f"{value!r} has no time zone: pass an aware datetime or seconds since the epoch")
        return value.timestamp()
    return None if value is None else _as_number(value, "a moment")


def as_names(value: Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple.

    Raises:
        InvalidRequest: A single text was passed where several names are expected.
    """
    if isinstance(value, str):
        raise InvalidRequest(f"expected several names, got the text {value!r}: pass [{value!r}]")
    return tuple(value) if value else _NO_NAMES


def distinct_names(value: Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple, in which each comes once.

    Raises:
        InvalidRequest: A single text was passed where several names are expected.
    """
    names = as_names(value)
    return tuple(dict.fromkeys(names)) if len(names) > 1 else names


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number; True and False are none, though Python counts them as such."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_name(what: str, value: str) -> None:
    """Refuse a name that is empty, too long or unprintable.

    Raises:
        InvalidRequest: Always with the name in the message.
    """
    if not (isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidRequest(f"{what} must be 1 to {_MAX_NAME} printable characters, got {value!r}")


def check_moment(what: str, value: float) -> None:
    """Refuse a point in time that no store can keep.

    Raises:
        InvalidRequest: It is NaN, infinite, or thousands of years away.
    """
    if not abs(value) <= LONGEST_WAIT:
        raise InvalidRequest(
            f"{what} must be seconds since the epoch, not more than {LONGEST_WAIT:.0f} before or after it, got {value}"
        )


class RequestOptions(TypedDict, total=False):
    """What `EnqueueRequest.with_options` can change."""

    queue: str
    priority: int
    delay: Seconds
    run_at: Moment | None
    expires_at: Moment | None
    timeout: Seconds | None
    max_attempts: int
    retry: RetryPolicy | None
    unique_key: str | None
    workflow_id: str | None
    depends_on: Iterable[str]
    on_parent_failure: OnParentFailure
    required_labels: Iterable[str]
    tenant_id: str | None
    headers: dict[str, str]
    job_id: str | None


@attrs.frozen(eq=False)
class EnqueueRequest:
    """A job to be added, valid from the moment it exists.

    The payload is encoded here, so changing it afterwards changes nothing that is stored.

    Attributes:
        kind: The handler's stable name.
        payload: Any JSON value.
        queue: Where it waits; a worker names the queues it serves. The default is ``default``.
        pinned_queue: The queue if one was named, which no router overrules; else None.
        priority: Higher runs first.
        delay: Seconds (or a timedelta) until it is due, by the store's clock.
        run_at: When it is due: seconds since the epoch or an aware datetime; instead of ``delay``.
        expires_at: A run that has not begun by then never does: the job is cancelled.
        timeout: Longest run, in seconds.
        max_attempts: How many runs it may have, the first included.
        retry: Its backoff; None follows the default, 5 s doubling to 900 s with full jitter.
        unique_key: At most one active job has it; a second request gets the id of the first.
        workflow_id: Groups jobs for `cancel_workflow` and listings.
        depends_on: Ids of jobs that must finish first.
        on_parent_failure: ``cancel`` it when one of them dies or is cancelled, or ``run`` it all the same.
        required_labels: Only a worker that has all of them claims it.
        tenant_id: Whose job it is.
        headers: Texts that travel along, such as trace context.
        job_id: Its id, if the caller must know it beforehand; otherwise the store makes one.

    Raises:
        InvalidRequest: Something is out of range or cannot be stored; nothing was written.
    """

    kind: str
    payload: Any = attrs.field(default=None)
    pinned_queue: str | None = attrs.field(default=None, alias="queue")
    priority: int = 0
    delay: float = attrs.field(default=0.0, converter=as_seconds)
    run_at: float | None = attrs.field(default=None, converter=as_moment)
    expires_at: float | None = attrs.field(default=None, converter=as_moment)
    timeout: float | None = attrs.field(default=None, converter=optional_seconds)
    max_attempts: int = 5
    retry: RetryPolicy | None = None
    unique_key: str | None = None
    workflow_id: str | None = None
    depends_on: tuple[str, ...] = attrs.field(default=(), converter=distinct_names)
    on_parent_failure: OnParentFailure = "cancel"
    required_labels: tuple[str, ...] = attrs.field(default=(), converter=as_names)
    tenant_id: str | None = None
    headers: dict[str, str] = attrs.field(factory=dict[str, str])
    job_id: str | None = None
    payload_json: bytes = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "payload_json", encode_json(self.payload))
        check_name("a job's kind", self.kind)
        if self.pinned_queue is not None:
            check_name("a queue's name", self.pinned_queue)
        # Callers may be untyped, and one row that cannot be read back holds up all that are claimed with it.
        if not (is_whole(self.max_attempts) and 1 <= self.max_attempts <= _MAX_WHOLE):
            raise InvalidRequest(
                f"max_attempts counts runs, so it must be a whole number and at least 1, got {self.max_attempts!r}"
            )
        if not (is_whole(self.priority) and -_MAX_WHOLE <= self.priority <= _MAX_WHOLE):
            raise InvalidRequest(f"priority must be a whole number that fits into 32 bits, got {self.priority!r}")
        if self.retry is not None:
            as_backoff(self.retry)
        if self.delay or self.run_at is not None or self.expires_at is not None or self.timeout is not None:
            self._check_times()
        for what, name in (
            ("unique_key", self.unique_key),
            ("workflow_id", self.workflow_id),
            ("tenant_id", self.tenant_id),
            ("job_id", self.job_id),
        ):
            if name is not None:
                check_name(what, name)
        if self.headers or self.required_labels or self.depends_on or self.on_parent_failure != "cancel":
            self._check_collections()

    @property
    def queue(self) -> str:
        """Where it waits."""
        return DEFAULT_QUEUE if self.pinned_queue is None else self.pinned_queue

    def _check_times(self) -> None:
        if not 0 <= self.delay <= LONGEST_WAIT:
            raise InvalidRequest(f"delay must be 0 to {LONGEST_WAIT:.0f} seconds, got {self.delay}")
        if self.run_at is not None and self.delay:
            raise InvalidRequest("pass either delay or run_at: both say when the job is due")
        for what, moment in (("run_at", self.run_at), ("expires_at", self.expires_at)):
            if moment is not None:
                check_moment(what, moment)
        if self.timeout is not None and not (math.isfinite(self.timeout) and self.timeout > 0):
            raise InvalidRequest(f"timeout must be more than 0 seconds or None, got {self.timeout}")

    def _check_collections(self) -> None:
        for label in self.required_labels:
            check_name("a label", label)
        for parent in self.depends_on:
            check_name("an id in depends_on", parent)
        for key, value in self.headers.items():
            if not (isinstance(key, str) and isinstance(value, str)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
                raise InvalidRequest(f"headers map texts to texts, got {key!r}: {value!r}")
        encode_json(self.headers, "set of headers")
        if self.on_parent_failure not in ("cancel", "run"):
            raise InvalidRequest(f'on_parent_failure is "cancel" or "run", got {self.on_parent_failure!r}')

    def with_options(self, **options: Unpack[RequestOptions]) -> EnqueueRequest:
        """Return a copy with some options changed.

        ``delay`` and ``run_at`` replace each other.

        Raises:
            InvalidRequest: The changed request would not be valid.
        """
        changes: dict[str, Any] = dict(options)
        if "delay" in changes:
            changes.setdefault("run_at", None)
        elif changes.get("run_at") is not None:
            changes["delay"] = 0.0
        return attrs.evolve(self, **changes)
