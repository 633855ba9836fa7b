"""What a request must look like for a worker to be found in it."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class DataByType(Protocol):
    """Looks values up by their type."""

    def require(self, kind: type[T], /) -> T:
        """Return the value of this type, or raise `MissingData`."""
        ...


class CarriesData(Protocol):
    """A request whose `data` maps types to values."""

    @property
    def data(self) -> DataByType:
        """The request's values by type."""
        ...
