"""How long a job waits before it is tried again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from workerctx.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_WAIT: Final = 3e11
"""Seconds, more than nine thousand years: what lies further away than that, before or after 1970, no store keeps."""

_LARGEST_EXPONENT: Final = 64


def is_number(value: object) -> bool:
    """Tell whether a value is a number that every store can read back; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, tag_field="backoff"):
    """The wait before retry number n, as data that is stored with the job.

    How often a job may run is `EnqueueRequest.max_attempts`; a policy only says how long to wait in between.

    Attributes:
        jitter: Whether to wait a random part of the full delay, so that retries of many jobs spread out.
    """

    jitter: bool = True

    def full_delay(self, retry: int) -> float:
        """Return the longest wait before retry ``retry`` (1 is the first), in seconds."""
        raise NotImplementedError

    def delay(self, retry: int, uniform: Callable[[], float] = random.random) -> float:
        """Return the wait before retry ``retry`` (1 is the first), in seconds.

        Args:
            retry: Number of the retry; 1 follows the first run.
            uniform: Source of numbers in [0, 1), for the jitter.
        """
        full = self.full_delay(retry)
        return full * uniform() if self.jitter else full


class Constant(RetryPolicy, frozen=True, tag="constant"):
    """Wait ``base`` seconds each time."""

    base: float = 5.0

    def __post_init__(self) -> None:
        _check(self, self.base, self.base)

    def full_delay(self, retry: int) -> float:  # noqa: ARG002 - the same for each retry
        """Return ``base``."""
        return self.base


class Linear(RetryPolicy, frozen=True, tag="linear"):
    """Wait ``base * n`` seconds before retry n, at most ``cap``."""

    base: float = 5.0
    cap: float = 900.0

    def __post_init__(self) -> None:
        _check(self, self.base, self.cap)

    def full_delay(self, retry: int) -> float:
        """Return ``base * retry``, at most ``cap``."""
        return min(self.cap, self.base * max(retry, 1))


class Exponential(RetryPolicy, frozen=True, tag="exponential"):
    """Wait ``base``, ``2 * base``, ``4 * base`` ... seconds, at most ``cap``."""

    base: float = 5.0
    cap: float = 900.0

    def __post_init__(self) -> None:
        _check(self, self.base, self.cap)

    def full_delay(self, retry: int) -> float:
        """Return ``base * 2 ** (retry - 1)``, at most ``cap``."""
        exponent = min(max(retry, 1) - 1, _LARGEST_EXPONENT)
        return min(self.cap, self.base * 2.0**exponent)


def _check(policy: RetryPolicy, base: float, cap: float) -> None:
    # Callers may be untyped, and a policy that cannot be read back holds up all jobs that are claimed with its own.
    if not isinstance(policy.jitter, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"jitter is True or False, got {policy.jitter!r}")
    for seconds in (base, cap):
        if not is_number(seconds):
            raise InvalidRequest(f"a backoff is made of numbers of seconds, got {seconds!r}")
    if not 0 <= base <= cap <= LONGEST_WAIT:
        raise InvalidRequest(
            f"a backoff needs 0 <= base <= cap <= {LONGEST_WAIT:.0f} seconds; got base={base}, cap={cap}"
        )


Backoff: TypeAlias = Constant | Linear | Exponential

DEFAULT_RETRY: Final = Exponential()
"""What a job without a policy of its own follows: 5 s doubling to 900 s, full jitter."""


def as_backoff(policy: RetryPolicy | None) -> Backoff | None:
    """Return a policy as one that can be stored and read back.

    Raises:
        InvalidRequest: It is of another kind.
    """
    if policy is None or isinstance(policy, Constant | Linear | Exponential):
        return policy
    raise InvalidRequest(
        f"cannot store the retry policy {policy!r}: use Constant, Linear or Exponential; max_attempts says how often"
    )
