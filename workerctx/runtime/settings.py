"""What a setting may look like: numbers, durations and names, in code or as the texts of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

from workerctx.errors import InvalidConfig
from workerctx.queue.request import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from attrs import Attribute

ENV_PREFIX: Final = "WORKERCTX_"
"""Of the variables that hold settings."""

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


def naming(_: type, settings: list[Attribute[Any]]) -> list[Attribute[Any]]:
    """Let what each converter refuses name the setting; the field transformer of every configuration."""
    return [setting.evolve(converter=_checked(setting)) for setting in settings]


def _checked(setting: Attribute[Any]) -> Callable[[object], object] | None:
    convert: Callable[[object], object] | None = cast("Any", setting).converter
    if convert is None:
        return None

    def checked(value: object) -> object:
        try:
            return convert(value)
        except InvalidConfig:
            raise
        except (TypeError, ValueError) as exc:
            raise InvalidConfig(f"{value!r} is not a value for {setting.name}: {exc}") from None

    return checked


def whole(value: float | str) -> int:
    """Read a whole number."""
    _refuse_truth(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("it is not a whole number")
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a whole number") from None


def number(value: float | str) -> float:
    """Read a number."""
    _refuse_truth(value)
    return float(value)


def seconds(value: float | str | timedelta) -> float:
    """Read a duration."""
    return value.total_seconds() if isinstance(value, timedelta) else number(value)


def optional_seconds(value: float | str | timedelta | None) -> float | None:
    """Read a duration that may be None, ``none`` as a text."""
    return None if value is None or (isinstance(value, str) and value.strip().lower() == "none") else seconds(value)


def truth(value: bool | str) -> bool:
    """Read whether something is so."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
    if word not in (*_TRUE, *_FALSE):
        raise ValueError("it is neither true nor false")
    return word in _TRUE


def text(value: str) -> str:
    """Read a text."""
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise TypeError("it is not a text")
    return value


def names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Read names, separated by commas in a text; each counts once."""
    found = [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
    for name in found:
        if name or not isinstance(value, str):
            check_name("each name", name)
    return tuple(dict.fromkeys(filter(None, found)))


def numbers(value: str | Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """Read names with a whole number each, ``a=2,b=1`` as a text."""
    found = value if is_mapping(value) else _once(map(_pair, names(value)))
    for name in found:
        check_name("each name", name)
    return {name: whole(each) for name, each in found.items()}


def is_mapping(value: object) -> TypeGuard[Mapping[str, int]]:
    """Tell whether names come with their numbers."""
    return isinstance(value, Mapping)


def _refuse_truth(value: object) -> None:
    if isinstance(value, bool):
        raise TypeError("it is not a number")


def _pair(word: str) -> tuple[str, int]:
    name, equals, amount = word.partition("=")
    if not equals:
        raise ValueError(f"{word!r} has no number: write {word}=2, for example")
    return name.strip(), whole(amount)


def _once(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, amount in pairs:
        if found.setdefault(name, amount) != amount:
            raise ValueError(f"{name!r} has two numbers, {found[name]} and {amount}")
    return found
