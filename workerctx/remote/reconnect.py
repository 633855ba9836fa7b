"""When to connect, to wait and to give up: the life of a worker's sessions as a pure state machine.

```text
            connect_failed            registered             replayed
  CONNECTING ----------> WAITING        |                      |
      ^  |                 |            v                      v
      |  +-----------------|------> REPLAYING -----------> SERVING
      +--------------------+            |      lost            |
             waited        ^------------+----------------------+
```

No clock, no I/O: every event is a method that is told the time where it matters and answers with the next `Step`. From
each phase a denial, an exhausted budget or a shutdown leads to the end.
"""

from __future__ import annotations

import math
import random
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from attrs import define, field, frozen

from workerctx.errors import CleanCloseExhausted, InvalidConfig, RemoteError
from workerctx.runtime.settings import naming, number, seconds, whole

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST_EXPONENT: Final = 64


@frozen(kw_only=True, field_transformer=naming)
class ReconnectConfig:
    """How patient a remote worker is with its gateway.

    Durations are in seconds (float or timedelta).

    Attributes:
        initial_backoff: Seconds before the second try.
        max_backoff: Longest pause between two tries, in seconds; also how long a registration or a message may take,
            and how long a session must last to count as healthy.
        max_attempts: How many tries in a row to open a session may fail, and how many sessions may break, before the
            worker gives up.
        jitter: Which part of each pause is random, so that many workers do not come back at once.

    Raises:
        InvalidConfig: A value is out of range.
    """

    initial_backoff: float = field(default=0.5, converter=seconds)
    max_backoff: float = field(default=30.0, converter=seconds)
    max_attempts: int = field(default=10, converter=whole)
    jitter: float = field(default=0.2, converter=number)

    def __attrs_post_init__(self) -> None:
        wrong = [
            complaint
            for holds, complaint in (
                (
                    0 < self.initial_backoff < math.inf,
                    f"initial_backoff must be more than 0 seconds, and finite, not {self.initial_backoff}",
                ),
                (
                    self.initial_backoff <= self.max_backoff < math.inf,
                    (
                        f"max_backoff ({self.max_backoff}) must be finite and at least initial_backoff"
                        f" ({self.initial_backoff})"
                    ),
                ),
                (self.max_attempts >= 1, f"max_attempts must be at least 1, not {self.max_attempts}"),
                (0 <= self.jitter < 1, f"jitter must be at least 0 and below 1, not {self.jitter}"),
            )
            if not holds
        ]
        if wrong:
            raise InvalidConfig("; ".join(wrong))

    def delay(self, failures: int) -> float:
        """Return the longest pause after so many failures in a row, in seconds."""
        return min(self.initial_backoff * 2.0 ** min(failures - 1, _LARGEST_EXPONENT), self.max_backoff)


class Phase(StrEnum):
    """What a worker's session is doing."""

    CONNECTING = "connecting"
    """One is being opened and registered."""
    REPLAYING = "replaying"
    """What was not acknowledged in earlier ones is being told again."""
    SERVING = "serving"
    """Jobs come, and outcomes go."""
    WAITING = "waiting"
    """There is none; the next try is due in a while."""
    ENDED = "ended"
    """There will be no other."""


@frozen
class Connect:
    """Open a session and register; then `Reconnect.registered` or `Reconnect.connect_failed`."""


@frozen
class Replay:
    """Tell what was not acknowledged; then `Reconnect.replayed` or `Reconnect.lost`."""


@frozen
class Serve:
    """Grant credit and serve; then `Reconnect.lost`."""


@frozen
class Wait:
    """Let time pass; then `Reconnect.waited`.

    Attributes:
        seconds: How long.
    """

    seconds: float


@frozen
class End:
    """It is over.

    Attributes:
        error: Why; None if all is well.
    """

    error: RemoteError | None = None


Step: TypeAlias = Connect | Replay | Serve | Wait | End


@define(eq=False)
class Reconnect:
    """Decides what follows from what happens to a worker's sessions.

    Args:
        config: How patient to be.
        uniform: Source of numbers in [0, 1), for the jitter.
    """

    config: ReconnectConfig
    _uniform: Callable[[], float] = random.random
    phase: Phase = field(default=Phase.CONNECTING, init=False)
    """What is going on."""
    drops: int = field(default=0, init=False)
    """How much of the budget of broken sessions is used up."""
    _tries: int = field(default=0, init=False)
    """How many tries in a row to open a session have failed."""
    _pending: RemoteError | None = field(default=None, init=False)
    """The failure of a session that is being recovered from."""
    _registered_at: float = field(default=0.0, init=False)
    _reported: bool = field(default=False, init=False)
    """Whether an outcome was reported in this session."""
    _drained_at: float | None = field(default=None, init=False)
    """When the gateway announced the end of this session, if it did."""
    _finishing: bool = field(default=False, init=False)
    """Whether a shutdown waits for this session to tell the last outcomes."""

    # Opening a session --------------------------------------------------------

    def begin(self) -> Step:
        """Begin; the first try is made at once."""
        return self._connect()

    def registered(self, now: float) -> Step:
        """Go on with a session that is open and registered since `now`, in seconds of any clock."""
        self.phase = Phase.REPLAYING
        self._registered_at = now
        self._tries = 0
        self._reported, self._drained_at = False, None
        self._pending = None
        return Replay()

    def connect_failed(self, error: RemoteError) -> Step:
        """Go on after a try that failed: wait, or give up with this error."""
        self._tries += 1
        if not error.retryable or self._tries >= self.config.max_attempts:
            return self._end(error)
        return self._wait(self._tries)

    def waited(self) -> Step:
        """Go on after the pause."""
        return self._connect()

    # In a session -------------------------------------------------------------

    def replayed(self) -> Step:
        """Go on after everything was told again, which does not prove health."""
        self.phase = Phase.SERVING
        return Serve()

    def reported(self) -> None:
        """Take note that an outcome was sent: this session is healthy."""
        if self.phase is Phase.SERVING:
            self._reported = True

    def drained(self, now: float) -> None:
        """Take note that the gateway has announced the end of this session, however it comes."""
        if self._drained_at is None:
            self._drained_at = now

    @property
    def is_draining(self) -> bool:
        """Whether the gateway has announced the end of this session."""
        return self._drained_at is not None

    def lost(self, error: RemoteError | None, now: float) -> Step:
        """Go on after the end of a session: wait, or give up.

        Args:
            error: How it broke; None if the gateway closed it.
            now: When, on the clock of `registered`.
        """
        if self._finishing:
            return self._end(error)
        lived = (now if self._drained_at is None else self._drained_at) - self._registered_at
        if self._reported or lived > self.config.max_backoff:
            self.drops = 0
        if self.is_draining:
            return self._wait(1)
        if error is not None and not error.retryable:
            return self._end(error)
        self.drops += 1
        if self.drops >= self.config.max_attempts:
            return self._end(error or self._exhausted())
        self._pending = error
        return self._wait(self.drops)

    # Shutdown -----------------------------------------------------------------

    def shutdown(self) -> Step:
        """Come to an end: at once without a working session, otherwise once the last outcomes are told.

        Returns:
            `Serve` as long as the session is needed, see `finished`.
        """
        if self.phase is not Phase.SERVING:
            return self._end(self._pending)
        self._finishing = True
        return Serve()

    def finished(self) -> Step:
        """End well: after a shutdown, nothing is left to tell."""
        return self._end(None)

    def _connect(self) -> Step:
        self.phase = Phase.CONNECTING
        return Connect()

    def _wait(self, failures: int) -> Step:
        self.phase = Phase.WAITING
        return Wait(self.config.delay(failures) * (1 - self.config.jitter * self._uniform()))

    def _end(self, error: RemoteError | None) -> Step:
        self.phase = Phase.ENDED
        return End(error)

    def _exhausted(self) -> RemoteError:
        return CleanCloseExhausted(
            f"the gateway has closed {self.drops} sessions in a row without a word: look into its log, or let this"
            " worker be more patient (reconnect.max_attempts)"
        )
