"""The tables in a schema that nobody has opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import psycopg

from workerctx.errors import SchemaError
from workerctx_postgres import _schema as schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx_postgres._connection import Database


@attrs.frozen
class PostgresMigrations:
    """`Migrations` of a schema; see there for what each method promises."""

    _database: Database

    @property
    def place(self) -> str:
        """The schema and the database."""
        return f"schema {self._database.schema} of {self._database.place}"

    @property
    def newest(self) -> int:
        """The version that this release wants."""
        return len(schema.MIGRATIONS)

    def version(self) -> int:
        """Return the version of the tables."""
        database = self._database
        with database.connect() as connection:
            try:
                return schema.version(connection, database.schema)
            except psycopg.Error as exc:
                raise database.explain(exc) from exc

    def pending(self) -> Sequence[str]:
        """Return the statements that would bring the tables up to date."""
        database = self._database
        with database.connect() as connection:
            try:
                found = schema.version(connection, database.schema)
                has_schema = schema.is_there(connection, database.schema)
            except psycopg.Error as exc:
                raise database.explain(exc) from exc
        return list(schema.pending(found, database.schema, has_schema=has_schema))

    def apply(self) -> None:
        """Bring the tables up to date, and make the schema if need be."""
        database = self._database
        with database.connect() as connection:
            try:
                schema.migrate(connection, schema=database.schema)
            except psycopg.errors.InsufficientPrivilege as exc:
                raise SchemaError(
                    f"{self.place} needs tables of version {self.newest}, and this role may not make them: "
                    "run workerctx migrate as their owner"
                ) from exc
            except psycopg.Error as exc:
                raise database.explain(exc) from exc
