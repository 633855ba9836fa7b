"""``workerctx migrate``: the tables of a store, brought up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import anyio

from workerctx.cli.output import Output
from workerctx.cli.store import StoreOptions, guarded, sqlite_file
from workerctx.errors import SchemaError
from workerctx.queue import connect
from workerctx.queue.sqlite.schema import MIGRATIONS, version

if TYPE_CHECKING:
    from pathlib import Path


def migrate(*, store: StoreOptions | None = None) -> int:
    """Create the tables of a store, or bring those of an older release up to date, and say their version.

    Opening a store does the same; this does nothing else. It may run any number of times, at once too.
    """
    options = store or StoreOptions()
    return guarded(lambda: _migrate(options.url(), Output(options.json)))


def _migrate(url: str, out: Output) -> int:
    file = sqlite_file(url)
    before = None if file is None else _version(file)

    async def bring_up_to_date() -> None:
        async with connect(url) as storage:
            await storage.now()

    anyio.run(bring_up_to_date)
    after = None if file is None else len(MIGRATIONS)
    if out.as_json:
        out.document({"before": before, "after": after})
    elif file is None:
        out.line("the store could be opened, and is up to date")
    elif before == after:
        out.line(f"{file} has schema version {after} already")
    elif before:
        out.line(f"{file} was brought from schema version {before} to {after}")
    else:
        out.line(f"{file} has got tables of schema version {after}")
    return 0


def _version(file: Path) -> int:
    """Return the version of the tables in a file, 0 if there are none or no file.

    Raises:
        SchemaError: The file is no database, or a newer release made its tables.
    """
    if not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(file)) as connection:
            return version(connection)
    except sqlite3.DatabaseError as exc:
        raise SchemaError(f"the tables in {file} cannot be read: {exc}") from exc
