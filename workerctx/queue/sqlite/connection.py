"""Opening the file, and saying in our own errors what SQLite says in its own."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import attrs

from workerctx.errors import InvalidRequest, QueueError, SchemaError, StoreBusy, StoreFull, StoreUnavailable
from workerctx.queue.sqlite.line import WritersLine, tries
from workerctx.queue.sqlite.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STORE_ID: Final = "SELECT value FROM workerctx_meta WHERE key = 'store'"

BUSY_TIMEOUT: Final = 30.0
"""Seconds to wait for other writers before a call fails with `StoreBusy`."""

CHECKED_ON_OPEN: Final = 64 * 1024 * 1024
"""Files up to this many bytes are checked for damage whenever they are opened."""

_OLDEST: Final = (3, 35, 0)
_LEVELS: Final = frozenset({"off", "normal", "full", "extra"})
_PREPARED: Final = 256
_JOURNAL_BYTES: Final = 64 * 1024 * 1024
_PRIMARY: Final = 0xFF

REFUSED: Final = (sqlite3.Error, UnicodeError, OverflowError)
"""What `Database.explain` explains: errors of SQLite, and what Python says of values that are none for it."""


class FileConnection(sqlite3.Connection):
    """A connection that knows which file it has open, and writes when it is its turn.

    Attributes:
        file: Device and number of the file.
        path: Where it is.
    """

    file: tuple[int, int]
    path: Path
    _line: WritersLine | None = None

    def begin(self) -> sqlite3.Cursor:
        """Begin a transaction that writes, and return its cursor.

        Raises:
            sqlite3.OperationalError: Others wrote for `BUSY_TIMEOUT` seconds, or something else was wrong.
        """
        cursor = self.cursor()
        if self._line is None:
            # SQLite's own way to wait knows no order.
            cursor.execute("PRAGMA busy_timeout = 0")
            self._line = WritersLine(self.path)
        if not _unless_busy(cursor, "BEGIN IMMEDIATE"):
            try:
                self._line.move_up()
                _insist(cursor, "BEGIN IMMEDIATE")
            finally:
                self._line.leave()
        return cursor

    def close(self) -> None:
        """Close the connection."""
        super().close()
        if self._line is not None:
            self._line.close()


@attrs.frozen
class Database:
    """A database file and how it is written.

    Attributes:
        path: The file.
        synchronous: ``full`` is durable; ``normal`` may lose the last commits when the power fails.
        store_id: Which store it must hold, once that is known.
    """

    path: Path
    synchronous: str = "full"
    store_id: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.synchronous not in _LEVELS:
            raise InvalidRequest(f"synchronous={self.synchronous!r}: use one of {', '.join(sorted(_LEVELS))}")

    def connect(self, *, create: bool = False) -> FileConnection:
        """Open a connection.

        Args:
            create: Whether to make the file if there is none.

        Raises:
            StoreUnavailable: The file cannot be opened, or holds another store by now.
            SchemaError: The file is not a database, has no job tables, or this SQLite is too old.

        Threads: the connection may be used by one thread at a time, whichever.
        """
        if sqlite3.sqlite_version_info < _OLDEST:
            raise SchemaError(
                f"SQLite {sqlite3.sqlite_version} is too old: {'.'.join(map(str, _OLDEST))} or newer is needed"
            )
        connection: FileConnection | None = None
        try:
            connection = sqlite3.connect(
                f"file:{quote(os.fsencode(self.path))}?mode={'rwc' if create else 'rw'}",
                uri=True,
                timeout=BUSY_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=_PREPARED,
                factory=FileConnection,
            )
            connection.path = self.path
            _insist(connection.cursor(), "PRAGMA journal_mode = WAL")
            connection.file = self._file()
            self._check_store(connection)
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")
            connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
            connection.execute("PRAGMA temp_store = MEMORY")
        except BaseException as exc:
            if connection is not None:
                connection.close()
            if isinstance(exc, sqlite3.Error):
                raise self.explain(exc) from exc
            raise
        return connection

    def check_file(self, connection: FileConnection) -> None:
        """See to it that a connection still has the file that is there, and not one that was moved away or removed.

        Raises:
            StoreUnavailable: It has another one; nothing was written to it.
        """
        if self._file() != connection.file:
            raise StoreUnavailable(f"{self.path} was replaced by another file since it was opened; it is opened again")

    def _check_store(self, connection: FileConnection) -> None:
        if self.store_id is not None and connection.execute(STORE_ID).fetchone() != (self.store_id,):
            raise StoreUnavailable(f"{self.path} holds another store than before: start again to use that")

    def _file(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as exc:
            raise StoreUnavailable(f"cannot find {self.path} any more: {exc.strerror}") from exc
        return found.st_dev, found.st_ino

    def prepare(self) -> None:
        """Check the file and bring its tables up to date.

        Raises:
            SchemaError: The file is damaged, is not a database, or has tables of a newer release.
            StoreUnavailable: It cannot be opened or written.
        """
        connection = self.connect(create=True)
        try:
            if self.path.stat().st_size <= CHECKED_ON_OPEN:
                self.check(connection)
            migrate(connection)
        except sqlite3.Error as exc:
            raise self.explain(exc) from exc
        finally:
            connection.close()

    def check(self, connection: sqlite3.Connection) -> None:
        """Look for damage.

        Raises:
            SchemaError: Says what is wrong first.
        """
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise SchemaError(f"{self.path} is damaged: {verdict}; restore it from a backup, or try sqlite3 .recover")

    def explain(self, error: sqlite3.Error | UnicodeError | OverflowError) -> QueueError:
        """Return our own error for one of SQLite's, for a text that is none, or for a number that is too large."""
        if isinstance(error, (UnicodeError, OverflowError)):
            return InvalidRequest(f"SQLite cannot store this: {error}")
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        make = _MEANINGS.get(code & _PRIMARY)
        if make is not None:
            return make(self.path, error)
        if code & _PRIMARY == sqlite3.SQLITE_MISMATCH or "Error binding parameter" in str(error):
            return InvalidRequest(f"SQLite cannot be asked this: {error}")
        if "no such table" in str(error) or "no such column" in str(error):
            return SchemaError(f"the job tables in {self.path} are missing or incomplete ({error}): migrate it")
        return StoreUnavailable(f"SQLite could not do it on {self.path}: {error}")


def _insist(cursor: sqlite3.Cursor, statement: str) -> None:
    """Execute a statement as soon as nobody is in the way, where SQLite itself does not wait."""
    for _ in tries(BUSY_TIMEOUT):
        if _unless_busy(cursor, statement):
            return
    cursor.execute(statement)


def _unless_busy(cursor: sqlite3.Cursor, statement: str) -> bool:
    """Execute a statement; False if others are in the way."""
    try:
        cursor.execute(statement)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


_MEANINGS: Final[dict[int, Callable[[Path, sqlite3.Error], QueueError]]] = {
    sqlite3.SQLITE_BUSY: lambda path, _: StoreBusy(
        f"another program held {path} for more than {BUSY_TIMEOUT:.0f} s; nothing was written, try again"
    ),
    sqlite3.SQLITE_LOCKED: lambda path, _: StoreBusy(f"{path} is locked; nothing was written, try again"),
    sqlite3.SQLITE_FULL: lambda path, _: StoreFull(
        f"no room left for {path}; nothing was written: free some space, or prune finished jobs"
    ),
    sqlite3.SQLITE_CORRUPT: lambda path, exc: SchemaError(
        f"{path} is damaged ({exc}): restore it from a backup, or try sqlite3 .recover"
    ),
    sqlite3.SQLITE_NOTADB: lambda path, _: SchemaError(
        f"{path} is not an SQLite database: use another file name, or move that file away"
    ),
    sqlite3.SQLITE_CANTOPEN: lambda path, _: StoreUnavailable(
        f"cannot open {path}: check that its folder exists and may be written"
    ),
    sqlite3.SQLITE_READONLY: lambda path, _: StoreUnavailable(f"{path} may not be written: check its owner and mode"),
    sqlite3.SQLITE_IOERR: lambda path, exc: StoreUnavailable(f"reading or writing {path} failed: {exc}"),
    sqlite3.SQLITE_INTERRUPT: lambda path, _: StoreUnavailable(f"a call on {path} was given up; nothing was written"),
}
