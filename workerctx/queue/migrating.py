"""Tables that are brought up to date by somebody, not by whoever opens them first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence


class Migrations(Protocol):
    """The tables of a store, which need not be open.

    Threads: every method blocks until the database has answered.
    """

    @property
    def place(self) -> str:
        """Where the tables are, as people call it; without passwords."""
        ...

    @property
    def newest(self) -> int:
        """The version that this release wants."""
        ...

    def version(self) -> int:
        """Return the version of the tables, 0 if there are none.

        Raises:
            SchemaError: A newer release made them, or it is no database.
            StoreUnavailable: The store cannot be reached.
        """
        ...

    def pending(self) -> Sequence[str]:
        """Return the statements that would bring the tables up to date now, to be run in one transaction.

        Raises:
            SchemaError: As `version`.
            StoreUnavailable: As `version`.
        """
        ...

    def apply(self) -> None:
        """Bring the tables up to date in one transaction, under a lock; harmless when they are.

        Raises:
            SchemaError: As `version`, or the role may not change tables.
            StoreUnavailable: As `version`.
        """
        ...


@runtime_checkable
class Migrated(Protocol):
    """A Storage that keeps its jobs in tables."""

    @property
    def migrations(self) -> Migrations:
        """The tables and how they come up to date."""
        ...
