"""A request: what a handler is asked to do, and everything it can be given while it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from attrs import define, field

from workerctx.errors import MissingData

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")
D = TypeVar("D")


class DataMap:
    """Values by their type: one value of each.

    Args:
        values: The first values, by type.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[type[Any], object] | None = None) -> None:
        self._values: dict[type[Any], Any] = dict(values or ())

    def extended(self, values: Mapping[type[Any], object]) -> DataMap:
        """Return a copy with more values; neither map sees what is inserted into the other afterwards."""
        return DataMap({**self._values, **values})

    def insert(self, kind: type[T], value: T) -> T | None:
        """Set the value of a type; return the one that stood here before."""
        previous: T | None = self._values.get(kind)
        self._values[kind] = value
        return previous

    @overload
    def get(self, kind: type[T], /) -> T | None: ...
    @overload
    def get(self, kind: type[T], default: D, /) -> T | D: ...
    def get(self, kind: type[Any], default: Any = None, /) -> Any:
        """Return the value of a type, or `default` if there is none."""
        return self._values.get(kind, default)

    def require(self, kind: type[T], /) -> T:
        """Return the value of a type.

        Raises:
            MissingData: There is none.
        """
        try:
            value: T = self._values[kind]
        except KeyError:
            present = ", ".join(sorted(known.__name__ for known in self._values)) or "nothing"
            raise MissingData(
                f"the request carries no {kind.__name__}, only {present}: give the worker one in its data, "
                f"or have a layer insert it with request.data.insert({kind.__name__}, ...)"
            ) from None
        return value

    def remove(self, kind: type[T]) -> T | None:
        """Take the value of a type out and return it."""
        value: T | None = self._values.pop(kind, None)
        return value

    def __contains__(self, kind: type[Any]) -> bool:
        return kind in self._values

    def __iter__(self) -> Iterator[type[Any]]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"DataMap({', '.join(kind.__name__ for kind in self._values)})"


@define(eq=False)
class Request:
    """One run of a handler on its way through the layers.

    A layer may read and change all of it before it passes it on.

    Attributes:
        kind: The handler's stable name.
        data: What can be injected, by type; the `JobCtx` and the `WorkerContext` among it.
        args: Positional arguments of the job, decoded.
        kwargs: Keyword arguments of the job, decoded.
    """

    kind: str
    data: DataMap = field(factory=DataMap)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(factory=dict[str, Any])
