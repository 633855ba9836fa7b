"""How a worker loop works: every setting, with its unit and default."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, fields, frozen

from workerctx.errors import InvalidConfig
from workerctx.queue.turns import preference
from workerctx.runtime.settings import (
    ENV_PREFIX,
    is_mapping,
    names,
    naming,
    numbers,
    optional_seconds,
    seconds,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def _weights(value: str | Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    if is_mapping(value):
        return numbers(value)
    queues = names(value)
    if any("=" in name for name in queues):
        return numbers([name if "=" in name else f"{name}=1" for name in queues])
    return preference(queues)


@frozen(kw_only=True, field_transformer=naming)
class WorkerConfig:
    """The settings of a `WorkerLoop`, checked together.

    Durations are in seconds (float or timedelta). Each field can be set by an environment variable of its name in
    capitals after ``WORKERCTX_``, see `from_env`; names with numbers are written ``high=3,default=1`` there.

    Attributes:
        queues: Which queues to serve, and how often each compared to the others while none of them is empty:
            ``{"high": 3, "default": 1}``. Of names alone, ``["high", "default"]``, each is served 4 times as often as
            the one after it. Default: ``default``.
        concurrency: How many jobs run at once. Default: 10.
        concurrency_per_kind: Of each of these kinds, how many jobs run at once; it goes before the handler's own
            ``concurrency``. Default: no kind is limited.
        prefetch: How many jobs may wait in memory for a slot, at the most. Default: 2000.
        prefetch_window: Seconds after which a prefetched job that has not begun is given back. Default: 0.05.
        lease_ttl: Seconds after which a silent worker's jobs go to others. Default: 30.
        heartbeat: Seconds between two renewals of leases, which also bring the news of cancelled jobs; at most half of
            `lease_ttl`. Default: 2.
        reap_interval: Seconds between two looks for expired leases of any worker. Default: 5.
        poll_interval: Seconds after which to look for jobs although no wake-up came. Default: 1.
        grace: Seconds that a stop lets running jobs go on; None, or ``none`` as a text, for no limit. Default: 30.
        hard_limit: Seconds beyond the grace after which the process is ended, where the loop owns it. Default: 5.
        block_warning: Seconds that the event loop may be blocked before the blocker's stack is logged. Default: 1.
        overrun_warning: Seconds that a sync handler may run on after it was told to stop before its thread's stack is
            logged. Default: 5.
        store_patience: Seconds that a start waits for a store that cannot be reached, as a restart would only meet the
            same store; None, or ``none`` as a text, for no limit. One that refuses the user, or whose tables are not
            ours, is not waited for. Default: no limit.
        labels: What this worker offers to jobs that require labels. Default: none.

    Raises:
        InvalidConfig: Names every setting that is out of range.
    """

    queues: Mapping[str, int] = field(default={"default": 1}, converter=_weights)
    concurrency: int = field(default=10, converter=whole)
    concurrency_per_kind: Mapping[str, int] = field(default={}, converter=numbers)
    prefetch: int = field(default=2000, converter=whole)
    prefetch_window: float = field(default=0.05, converter=seconds)
    lease_ttl: float = field(default=30.0, converter=seconds)
    heartbeat: float = field(default=2.0, converter=seconds)
    reap_interval: float = field(default=5.0, converter=seconds)
    poll_interval: float = field(default=1.0, converter=seconds)
    grace: float | None = field(default=30.0, converter=optional_seconds)
    hard_limit: float = field(default=5.0, converter=seconds)
    block_warning: float = field(default=1.0, converter=seconds)
    overrun_warning: float = field(default=5.0, converter=seconds)
    store_patience: float | None = field(default=None, converter=optional_seconds)
    labels: tuple[str, ...] = field(default=(), converter=names)

    def __attrs_post_init__(self) -> None:
        wrong = [
            complaint
            for holds, complaint in (
                (bool(self.queues), "queues must name at least one queue"),
                *(
                    (weight >= 1, f"the weight of queue {queue!r} must be at least 1, not {weight}")
                    for queue, weight in self.queues.items()
                ),
                (self.concurrency >= 1, f"concurrency must be at least 1, not {self.concurrency}"),
                *(
                    (number >= 1, f"concurrency_per_kind of {kind!r} must be at least 1, not {number}")
                    for kind, number in self.concurrency_per_kind.items()
                ),
                (self.prefetch >= 0, f"prefetch must not be negative, and is {self.prefetch}"),
                (self.grace is None or self.grace >= 0, f"grace must not be negative, and is {self.grace}"),
                (
                    self.store_patience is None or self.store_patience >= 0,
                    f"store_patience must not be negative, and is {self.store_patience}",
                ),
                (self.hard_limit >= 0, f"hard_limit must not be negative, and is {self.hard_limit}"),
                *(
                    (
                        0 < getattr(self, name) < math.inf,
                        f"{name} must be more than 0 seconds, and finite, not {getattr(self, name)}",
                    )
                    for name in (
                        "prefetch_window",
                        "lease_ttl",
                        "heartbeat",
                        "reap_interval",
                        "poll_interval",
                        "block_warning",
                        "overrun_warning",
                    )
                ),
                (
                    self.heartbeat <= self.lease_ttl / 2,
                    f"heartbeat ({self.heartbeat}) must be at most half of lease_ttl ({self.lease_ttl})",
                ),
            )
            if not holds
        ]
        if wrong:
            raise InvalidConfig("; ".join(wrong))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> WorkerConfig:
        """Read settings from ``WORKERCTX_QUEUES``, ``WORKERCTX_CONCURRENCY`` and so on.

        Args:
            environ: Where to look; the process environment by default.
            settings: Fields that are set here whatever the environment says; None leaves a field to it.

        Raises:
            InvalidConfig: A value is out of range or not of its type.
        """
        environ = os.environ if environ is None else environ
        chosen: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        for setting in fields(cls):
            text = environ.get(ENV_PREFIX + setting.name.upper())
            if text is not None:
                chosen.setdefault(setting.name, text)
        return cls(**chosen)

    def with_options(self, **settings: Any) -> WorkerConfig:
        """Return the same settings with some of them changed."""
        return evolve(self, **settings)
