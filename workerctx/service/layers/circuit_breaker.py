"""Circuit breaker: spare something that fails, and find out when it is well again."""

from __future__ import annotations

import logging
import math
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
from attrs import Factory, define, field, frozen, validators

from workerctx.errors import Abort, CircuitOpen, Snooze, Throttled
from workerctx.lifecycle.groups import collapse
from workerctx.service.layers.keyed import Key, Keyed
from workerctx.service.options import positive_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from workerctx.service.layers.base import Next
    from workerctx.service.request import Request

_log: Final = logging.getLogger("workerctx")

_PROBES_TAKE: Final = 1.0
"""Seconds after which a request that found all probes taken may come back."""


class CircuitState(Enum):
    """What a circuit does with requests."""

    CLOSED = "closed"
    """All pass."""
    OPEN = "open"
    """None passes until the recovery time is over."""
    HALF_OPEN = "half_open"
    """Probes pass, and their outcome decides."""


@frozen
class CircuitRules:
    """When a circuit opens and closes; see `CircuitBreaker`."""

    failure_threshold: int = field(validator=validators.ge(1))
    recovery_timeout: float = field(converter=positive_seconds)
    success_threshold: float = field(validator=[validators.ge(0), validators.le(1)])
    half_open_max_calls: int = field(validator=validators.ge(1))

    @property
    def successes_to_close(self) -> int:
        """How many probes must succeed; one at least, lest nothing be learned from them."""
        return max(1, math.ceil(self.success_threshold * self.half_open_max_calls))


@define(eq=False)
class Circuit:
    """One circuit as a pure machine: it is told the time, and counts.

    Each change of the state begins a new era. What was let in during an earlier one has no say any more.
    """

    rules: CircuitRules
    era: int = field(default=0, init=False)
    _state: CircuitState = field(default=CircuitState.CLOSED, init=False)
    _closes_at: float = field(default=0.0, init=False)
    _successes: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _probes: int = field(default=0, init=False)

    def state(self, now: float) -> CircuitState:
        """Return the state at a time."""
        if self._state is CircuitState.OPEN and now >= self._closes_at:
            return CircuitState.HALF_OPEN
        return self._state

    def time_left(self, now: float) -> float:
        """Return the seconds for which nothing passes."""
        return max(0.0, self._closes_at - now) if self._state is CircuitState.OPEN else 0.0

    def is_fresh(self, now: float) -> bool:
        """Tell whether it is closed and remembers no failure."""
        return self.state(now) is CircuitState.CLOSED and not self._failures

    def admit(self, now: float) -> float | None:
        """Let a request pass and return None, or return the seconds after which to ask again."""
        if self._state is CircuitState.OPEN:
            if now < self._closes_at:
                return self._closes_at - now
            self._enter(CircuitState.HALF_OPEN)
        if self._state is CircuitState.HALF_OPEN:
            if self._probes >= self.rules.half_open_max_calls:
                return min(_PROBES_TAKE, self.rules.recovery_timeout)
            self._probes += 1
        return None

    def withdraw(self, era: int) -> None:
        """Take note that a request of this era ended without telling anything."""
        if era == self.era and self._state is CircuitState.HALF_OPEN:
            self._probes -= 1

    def succeed(self, era: int) -> None:
        """Take note that a request of this era succeeded."""
        if era != self.era:
            return
        self._successes += 1
        if self._state is CircuitState.CLOSED:
            self._failures = 0
        elif self._successes >= self.rules.successes_to_close:
            self._enter(CircuitState.CLOSED)

    def fail(self, era: int, now: float) -> None:
        """Take note that a request of this era failed."""
        if era != self.era:
            return
        self._failures += 1
        if self._state is CircuitState.CLOSED:
            bearable = self.rules.failure_threshold - 1
        else:
            bearable = self.rules.half_open_max_calls - self.rules.successes_to_close
        if self._failures > bearable:
            self._enter(CircuitState.OPEN)
            self._closes_at = now + self.rules.recovery_timeout

    def _enter(self, state: CircuitState) -> None:
        self._state = state
        self.era += 1
        self._successes = self._failures = self._probes = 0


@frozen(eq=False)
class CircuitBreaker:
    """Gives jobs back, at no attempt's cost, while what they need fails.

    After `failure_threshold` failures in a row it opens: nothing passes for `recovery_timeout` seconds, and each job
    is put off until then. After that `half_open_max_calls` jobs pass as probes. Once the share `success_threshold`
    of them has succeeded it closes; once that cannot be reached any more it opens again. Every change of the state
    begins to count anew, and jobs that began before it do not count.

    One object counts together all that it stands around, on each event loop by itself. `Abort`, `Snooze`,
    `Throttled` and cancellations are neither success nor failure.

    Args:
        failure_threshold: At least 1.
        recovery_timeout: Seconds, or a timedelta.
        success_threshold: From 0 to 1.
        half_open_max_calls: At least 1.
        by: Counts the requests of each key for themselves: `by_kind` in the layers of a registry, say.
        counts: Tells which errors are failures; None for all.

    Raises:
        ValueError: A number is out of range.
    """

    failure_threshold: int = 5
    recovery_timeout: float = field(default=60.0, converter=positive_seconds)
    success_threshold: float = 0.5
    half_open_max_calls: int = 3
    by: Key | None = field(default=None, kw_only=True)
    counts: Callable[[Exception], bool] | None = field(default=None, kw_only=True)
    _circuits: Keyed[Circuit] = field(
        default=Factory(lambda self: self.circuits(), takes_self=True), init=False, repr=False
    )
    neutral: ClassVar[tuple[type[Exception], ...]] = (Abort, Snooze, Throttled)

    def circuits(self) -> Keyed[Circuit]:
        """Return circuits that are closed."""
        rules = CircuitRules(
            self.failure_threshold, self.recovery_timeout, self.success_threshold, self.half_open_max_calls
        )
        return Keyed(lambda: Circuit(rules), Circuit.is_fresh, self.by)

    def state(self, key: Hashable = None) -> CircuitState:
        """Return the state on this event loop.

        Args:
            key: What `by` returns for a request; None without `by`.
        """
        return self._circuits.at(key).state(anyio.current_time())

    def time_left(self, key: Hashable = None) -> float:
        """Return the seconds for which nothing passes; 0 unless it is open.

        Args:
            key: What `by` returns for a request; None without `by`.
        """
        return self._circuits.at(key).time_left(anyio.current_time())

    async def __call__(self, request: Request, call_next: Next) -> Any:
        """Run what is inside, unless it is to be spared.

        Raises:
            CircuitOpen: It is; this is `Throttled`, with the seconds until it is worth trying.
        """
        circuit = self._circuits.of(request)
        before = circuit.era
        wait = circuit.admit(anyio.current_time())
        if wait is not None:
            raise CircuitOpen(wait, request.kind)
        era = circuit.era
        if era != before:
            _log.info("the circuit in front of %s lets probes through", request.kind)
        try:
            output = await call_next(request)
        except Exception as exc:
            if self._is_failure(exc):
                circuit.fail(era, anyio.current_time())
                if circuit.era == era + 1:
                    _log.warning("the circuit in front of %s opens", request.kind, exc_info=exc)
            else:
                circuit.withdraw(era)
            raise
        except BaseException:
            circuit.withdraw(era)
            raise
        circuit.succeed(era)
        return output

    def _is_failure(self, error: Exception) -> bool:
        cause = collapse(error)
        if isinstance(cause, self.neutral) or not isinstance(cause, Exception):
            return False
        return self.counts is None or self.counts(cause)
