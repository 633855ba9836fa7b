"""How a gateway works: every setting, with its unit and default."""

from __future__ import annotations

import math
from typing import Final

from attrs import asdict, field, frozen

from workerctx.errors import InvalidConfig
from workerctx.runtime.settings import naming, number, optional_seconds, seconds, whole

_MAY_BE_NONE: Final = ("grace", "store_patience")


@frozen(kw_only=True, field_transformer=naming)
class GatewayConfig:
    """The settings of a `Gateway`, checked together; durations in seconds (float or timedelta), sizes in bytes.

    Attributes:
        lease_ttl: After how long the jobs of a gateway that fell silent go to others.
        heartbeat: Between two renewals of leases, which also bring the news of cancelled jobs.
        silence: After how long a worker that holds jobs and says nothing is taken for gone; one that holds none, after
            twice as long.
        resume_window: How long the jobs of a worker that is gone wait for it, before they go to others.
        poll_interval: After how long to look for jobs although no wake-up came.
        reap_interval: Between two looks for expired leases of any worker.
        grace: How long a stop lets workers finish what they have; None for no limit.
        store_patience: How long a start waits for a store that cannot be reached; None for no limit, as ``workerctx
            gateway`` has it. One that refuses the user, or whose tables are not ours, is not waited for.
        register_timeout: How long a worker may take to register once its connection is open.
        send_timeout: How long a worker may take to read a message.
        max_sessions: How many workers may be connected at once.
        max_message: Largest message from a worker.
        max_concurrency: How many jobs one worker may have at once, whatever it asks for.
        max_requests: How many requests of a worker's handlers may wait for an answer at once; each that waits for
            another job's result is one.
        max_rate: How many messages a second a worker may send for long; a faster one is read more slowly.

    Raises:
        InvalidConfig: Names every setting that is out of range.
    """

    lease_ttl: float = field(default=30.0, converter=seconds)
    heartbeat: float = field(default=2.0, converter=seconds)
    silence: float = field(default=30.0, converter=seconds)
    resume_window: float = field(default=10.0, converter=seconds)
    poll_interval: float = field(default=1.0, converter=seconds)
    reap_interval: float = field(default=5.0, converter=seconds)
    grace: float | None = field(default=30.0, converter=optional_seconds)
    store_patience: float | None = field(default=0.0, converter=optional_seconds)
    register_timeout: float = field(default=10.0, converter=seconds)
    send_timeout: float = field(default=10.0, converter=seconds)
    max_sessions: int = field(default=10_000, converter=whole)
    max_message: int = field(default=8 * 1024 * 1024, converter=whole)
    max_concurrency: int = field(default=1000, converter=whole)
    max_requests: int = field(default=1000, converter=whole)
    max_rate: float = field(default=2000.0, converter=number)

    @property
    def idle_silence(self) -> float:
        """After how long a worker that holds no jobs and says nothing is taken for gone."""
        return 2 * self.silence

    def __attrs_post_init__(self) -> None:
        wrong = [
            f"{name} must be more than 0 and finite, not {value!r}"
            for name, value in asdict(self).items()
            if name not in _MAY_BE_NONE and not 0 < value < math.inf
        ] + [
            f"{name} must not be negative, and is {value}"
            for name in _MAY_BE_NONE
            if (value := getattr(self, name)) is not None and not value >= 0
        ]
        if not wrong and self.heartbeat > self.lease_ttl / 2:
            wrong.append(f"heartbeat ({self.heartbeat}) must be at most half of lease_ttl ({self.lease_ttl})")
        if not wrong and self.heartbeat > self.resume_window / 2:
            wrong.append(f"heartbeat ({self.heartbeat}) must be at most half of resume_window ({self.resume_window})")
        if wrong:
            raise InvalidConfig("; ".join(wrong))
