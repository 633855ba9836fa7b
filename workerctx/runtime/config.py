"""How a worker loop works: every setting, with its unit and default."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from attrs import Converter, evolve, field, fields, frozen

from workerctx.errors import InvalidConfig
from workerctx.queue.request import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from attrs import Attribute

ENV_PREFIX: Final = "WORKERCTX_"


def _whole(value: float | str) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("it is not a whole number")
    return int(value)


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    for name in names:
        if name or not isinstance(value, str):
            check_name("each name", name)
    return tuple(dict.fromkeys(filter(None, names)))


def _seconds(value: float | str | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _optional_seconds(value: float | str | timedelta | None) -> float | None:
    return None if value is None or (isinstance(value, str) and value.strip().lower() == "none") else _seconds(value)


def _setting(default: Any, text: str, convert: Callable[[Any], object]) -> Any:
    def checked(value: object, setting: Attribute[Any]) -> object:
        try:
            return convert(value)
        except (TypeError, ValueError) as exc:
            raise InvalidConfig(f"{value!r} is not a value for {setting.name} ({text}): {exc}") from None

    converter: Any = Converter(checked, takes_field=True)
    return field(default=default, converter=converter, metadata={"help": text})


@frozen(kw_only=True)
class WorkerConfig:
    """The settings of a `WorkerLoop`, checked together.

    Durations are in seconds (float or timedelta). Each field can be set by an environment variable of its name in
    capitals after ``WORKERCTX_``, see `from_env`.

    Raises:
        InvalidConfig: names every setting that is out of range.
    """

    queues: tuple[str, ...] = _setting(("default",), "which queues to serve, in this order", _names)
    concurrency: int = _setting(10, "how many jobs run at once", _whole)
    prefetch: int = _setting(2000, "how many jobs may wait in memory for a slot, at the most", _whole)
    prefetch_window: float = _setting(
        0.05, "seconds after which a prefetched job that has not begun is given back", _seconds
    )
    lease_ttl: float = _setting(30.0, "seconds after which a silent worker's jobs go to others", _seconds)
    heartbeat: float = _setting(
        2.0, "seconds between two renewals of leases, which also bring the news of cancelled jobs", _seconds
    )
    reap_interval: float = _setting(5.0, "seconds between two looks for expired leases of any worker", _seconds)
    poll_interval: float = _setting(1.0, "seconds after which to look for jobs although no wake-up came", _seconds)
    grace: float | None = _setting(
        30.0, "seconds that a stop lets running jobs go on; 'none' for no limit", _optional_seconds
    )
    hard_limit: float = _setting(
        5.0, "seconds beyond the grace after which the process is ended, where the loop owns it", _seconds
    )
    block_warning: float = _setting(
        1.0, "seconds that the event loop may be blocked before the blocker's stack is logged", _seconds
    )
    labels: tuple[str, ...] = _setting((), "what this worker offers to jobs that require labels", _names)

    def __attrs_post_init__(self) -> None:
        wrong = [
            complaint
            for holds, complaint in (
                (bool(self.queues), "queues must name at least one queue"),
                (self.concurrency >= 1, f"concurrency must be at least 1, not {self.concurrency}"),
                (self.prefetch >= 0, f"prefetch must not be negative, and is {self.prefetch}"),
                (self.grace is None or self.grace >= 0, f"grace must not be negative, and is {self.grace}"),
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
            environ: where to look; the process environment by default.
            settings: fields that are set here whatever the environment says; None leaves a field to it.

        Raises:
            InvalidConfig: a value is out of range or not of its type.
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
