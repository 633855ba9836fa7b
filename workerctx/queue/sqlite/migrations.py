"""The tables in a SQLite file that nobody has opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import attrs

from workerctx.errors import SchemaError
from workerctx.queue.sqlite import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.sqlite.connection import Database


@attrs.frozen
class SqliteMigrations:
    """`Migrations` of a file; see there for what each method promises."""

    _database: Database

    @property
    def place(self) -> str:
        """The path of the file."""
        return str(self._database.path)

    @property
    def newest(self) -> int:
        """The version that this release wants."""
        return len(schema.MIGRATIONS)

    def version(self) -> int:
        """Return the version of the tables, 0 also if there is no file."""
        path = self._database.path
        if not path.exists():
            return 0
        try:
            with closing(sqlite3.connect(path)) as connection:
                return schema.version(connection)
        except sqlite3.DatabaseError as exc:
            raise SchemaError(f"the tables in {path} cannot be read: {exc}") from exc

    def pending(self) -> Sequence[str]:
        """Return the statements that would bring the tables up to date."""
        return list(schema.pending(self.version()))

    def apply(self) -> None:
        """Bring the tables up to date, in a new file if there is none."""
        self._database.prepare()
