"""How numbers, durations, moments and headers are written on a command line."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from cyclopts import Parameter

from workerctx.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cyclopts import Token

_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|[smhdw]?)")


def parse_duration(text: str) -> float:
    """Return the seconds of a text such as ``90``, ``30s``, ``5m``, ``2h`` or ``7d``.

    Raises:
        ValueError: It is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write seconds, or a number with ms, s, m, h, d or w")
    seconds = float(match[1]) * _UNITS[match[2]]
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is too long")
    return seconds


def parse_moment(text: str) -> float:
    """Return the seconds since the epoch of an ISO 8601 time; without an offset it is local time.

    Raises:
        ValueError: It is not a time.
    """
    try:
        return datetime.fromisoformat(text.strip()).astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as exc:
        raise ValueError(f"{text!r} is not a time: write it as 2030-01-31T08:00 or 2030-01-31T08:00+01:00") from exc


def parse_headers(pairs: Iterable[str]) -> dict[str, str]:
    """Return the headers that ``NAME=VALUE`` texts name.

    Raises:
        CommandError: One of them has no equals sign or no name.
    """
    headers: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise CommandError(f"{pair!r} is not a header: write NAME=VALUE")
        headers[name] = value
    return headers


def _duration(_: Any, tokens: Sequence[Token]) -> float:
    return parse_duration(tokens[0].value)


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _moment(_: Any, tokens: Sequence[Token]) -> float:
    return parse_moment(tokens[0].value)


Duration: TypeAlias = Annotated[float, Parameter(converter=_duration, metavar="DURATION")]
Whole: TypeAlias = Annotated[int, Parameter(converter=_whole)]
Moment: TypeAlias = Annotated[float, Parameter(converter=_moment, metavar="TIME")]
