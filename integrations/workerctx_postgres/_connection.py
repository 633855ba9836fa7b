"""Connecting, and saying in our own errors what PostgreSQL says in its own."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import attrs
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from workerctx.errors import (
    InvalidRequest,
    QueueError,
    SchemaError,
    StoreBusy,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from workerctx_postgres._statements import PostgresStatements

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Moment: TypeAlias = "tuple[int, int | None, list[tuple[str, int | None]]]"
"""The store's time in microseconds, the newest group, and the pauses of queues with their ends."""

STATEMENT_TIMEOUT: Final = 30.0
"""Seconds after which the server gives a statement up, unless the URL says otherwise."""

_LIMITS: Final = {
    "application_name": "workerctx",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""What the driver is told unless the URL says otherwise; in the units of libpq, seconds and milliseconds."""
_START: Final = "workerctx_start"
_SHORTEST_CONNECT: Final = 2
_LONGEST_CONNECT: Final = 10
_LONGEST_NAME: Final = 63
_LARGEST_PORT: Final = 65_535
_MARKS: Final = frozenset("%?'")
"""What means something else in a statement, where the name of a schema stands in it."""


@attrs.frozen
class Database:
    """Where the tables are, and how to get there.

    Attributes:
        conninfo: What the driver needs to know, as libpq writes it.
        schema: Where the tables are.
        timeout: Seconds after which the server gives a statement up.
        pooled: Whether a pooler hands out server connections for one transaction at a time, so that a session can
            have neither settings nor prepared statements.
        listen: What the driver needs to know for the connection that listens for notifications.
        sql: The statements.
    """

    conninfo: str = attrs.field(repr=False)
    schema: str = "public"
    timeout: float = STATEMENT_TIMEOUT
    pooled: bool = False
    listen: str | None = attrs.field(default=None, repr=False)
    sql: PostgresStatements = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        fits = 0 < len(self.schema.encode()) <= _LONGEST_NAME and self.schema.isprintable()
        if not fits or not _MARKS.isdisjoint(self.schema):
            raise InvalidRequest(f"schema={self.schema!r} is no name of a PostgreSQL schema")
        if self.schema.startswith("pg_"):
            raise InvalidRequest(f"schema={self.schema!r}: PostgreSQL keeps names that begin with pg_ for itself")
        object.__setattr__(self, "sql", PostgresStatements(self.schema))

    @property
    def place(self) -> str:
        """What is said of it in messages; without the password."""
        known = conninfo_to_dict(self.conninfo)
        return f"{known.get('dbname', '')} on {known.get('host', 'localhost')}"

    @property
    def is_deaf(self) -> bool:
        """Whether notifications cannot be listened for: a pooler is in between, and nothing leads past it."""
        return self.pooled and self.listen is None

    def connect(self, *, listening: bool = False) -> psycopg.Connection:
        """Open a connection on which every statement is a transaction unless BEGIN says otherwise.

        Raises:
            StoreUnavailable: The server cannot be reached, or lets nobody in now.
            StoreDenied: It does not let this user in, or not into this database.
        """
        conninfo = self.listen if listening and self.listen is not None else self.conninfo
        try:
            connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None if self.pooled else 0)
        except psycopg.Error as exc:
            said = _sentence(exc)
            if _REFUSAL.search(said):
                raise StoreDenied(
                    f"cannot connect to {self.place}: {said}: look at the URL and the server's pg_hba.conf"
                ) from exc
            raise StoreUnavailable(f"cannot connect to {self.place}: {said}") from exc
        # Whatever the database or the role prefers: who waited for a lock has to see what was done meanwhile.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        return connection

    def enter(self) -> psycopg.Connection:
        """Open a connection that `begin` can be used on.

        Raises:
            QueueError: The server cannot be reached, or has no tables for us.
        """
        connection = self.connect()
        if self.pooled:
            return connection
        try:
            connection.execute(f"PREPARE {_START} (bigint) AS {self.sql.start.replace('%s', '$1')}".encode())
        except psycopg.Error as exc:
            connection.close()
            raise self.explain(exc) from exc
        return connection

    def begin(self, cursor: psycopg.Cursor, ns: int, mode: str = "ISOLATION LEVEL READ COMMITTED") -> Moment:
        """Begin a transaction, and return what every one wants to know first: see `PostgresStatements.start`.

        Both in one message to the server: to wait for an answer is what takes time in a process that is busy.
        """
        start = self.sql.start.replace("%s", str(ns)) if self.pooled else f"EXECUTE {_START} ({ns})"
        cursor.execute(f"BEGIN {mode}; {start}".encode(), prepare=False)
        cursor.nextset()
        return cast("Moment", cursor.fetchone())

    def explain(self, error: psycopg.Error | UnicodeError) -> QueueError:
        """Return our own error for one of the driver's, or for a text that is none."""
        if isinstance(error, UnicodeError):
            return InvalidRequest(f"PostgreSQL cannot store this: {error}")
        said = _sentence(error)
        for kinds, make in _MEANINGS:
            if isinstance(error, kinds):
                return make(self, said)
        if isinstance(error, errors.ProgramLimitExceeded) and error.diag.constraint_name is not None:
            return InvalidRequest(f"the names are too long for an index of PostgreSQL: {said}")
        if _is_misfit(error):
            return InvalidRequest(f"PostgreSQL cannot be asked this: {said}")
        return StoreUnavailable(f"PostgreSQL could not do it on {self.place}: {said}")


def _is_misfit(error: psycopg.Error) -> bool:
    """Tell whether a value is of a type that has no business where it is."""
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:  # the driver's own
        return True
    return isinstance(error, (errors.UndefinedFunction, errors.DatatypeMismatch, errors.NotNullViolation))


def connection_info(location: str, options: Mapping[str, str], timeout: float, *, pooled: bool) -> str:
    """Return what libpq needs to know.

    Args:
        location: A URL without options.
        options: Parameters of libpq.
        timeout: Seconds for a statement; a pooled connection cannot be told.
        pooled: Whether there is a pooler.

    Raises:
        InvalidRequest: libpq does not understand it, or would only when it connects.
    """
    try:
        patience = max(_SHORTEST_CONNECT, min(_LONGEST_CONNECT, math.ceil(timeout)))
        known = {**_LIMITS, "connect_timeout": str(patience), **conninfo_to_dict(location), **options}
        # Texts are of any language, whatever the database or the environment prefers.
        known["client_encoding"] = "UTF8"
        if not pooled:
            milliseconds = math.ceil(timeout * 1000)
            settings = {
                "statement_timeout": milliseconds,
                # A process that stands still must not keep its locks.
                "idle_in_transaction_session_timeout": 2 * milliseconds,
                # Our statements find few rows by indexes, however a queue's statistics are out of date.
                "enable_seqscan": "off",
                "enable_hashjoin": "off",
                "enable_mergejoin": "off",
                "jit": "off",
                # Nor is any plan better for particular values, while making one takes as long as the statement.
                "plan_cache_mode": "force_generic_plan",
            }
            ours = " ".join(f"-c {name}={value}" for name, value in settings.items())
            known["options"] = f"{ours} {known.get('options', '')}".strip()
        if not all(map(_is_port, str(known.get("port", "")).split(","))):
            raise InvalidRequest("the port in a URL of PostgreSQL is a number from 1 to 65535, or left out")
        return make_conninfo("", **known)
    except psycopg.ProgrammingError as exc:
        # What it quotes at the end may be a password.
        said = _sentence(exc).partition(': "')[0]
        raise InvalidRequest(f"PostgreSQL does not understand this URL: {said}") from None


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and 0 < int(text) <= _LARGEST_PORT)


def is_lost(error: psycopg.Error) -> bool:
    """Return whether the connection is gone, or about to be."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate[:2] == "08" or error.sqlstate in _SHUT_DOWN
    )


CONFLICTS: Final = (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation)
"""Somebody else was faster: the same transaction, done again, sees what he did."""

_REFUSAL: Final = re.compile(
    r"authentication failed for user|no password supplied|no pg_hba\.conf entry|permission denied for database|"
    r"(role|database) \".*\" does not exist|is not permitted to log in|no such (user|database)|"
    r"invalid \w+ value|bad value for|definition of service \".*\" not found|unrecognized configuration parameter"
)
"""What servers and poolers say to whom they will not let in, and libpq of what makes no sense; no codes are known."""

_SHUT_DOWN: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})


def _sentence(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


_MEANINGS: Final[tuple[tuple[tuple[type[psycopg.Error], ...], Callable[[Database, str], QueueError]], ...]] = (
    (
        (errors.QueryCanceled, errors.LockNotAvailable),
        lambda database, said: StoreBusy(
            f"{database.place} did not do it within {database.timeout:g} s ({said}); nothing was written, try again"
        ),
    ),
    (
        CONFLICTS,
        lambda database, said: StoreBusy(
            f"others changed the same rows of {database.place} again and again ({said}); nothing was written, try again"
        ),
    ),
    (
        (errors.DiskFull,),
        lambda database, said: StoreFull(
            f"no room left on {database.place} ({said}); nothing was written: free some space, or prune finished jobs"
        ),
    ),
    (
        (errors.ReadOnlySqlTransaction,),
        lambda database, _: StoreUnavailable(
            f"{database.place} may only be read, as a standby: connect to the primary, or try again once it is one"
        ),
    ),
    (
        (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName),
        lambda database, said: SchemaError(
            f"the job tables in schema {database.schema!r} of {database.place} are missing or incomplete ({said}): "
            "run workerctx migrate"
        ),
    ),
    (
        (errors.InsufficientPrivilege,),
        lambda database, said: SchemaError(
            f"the role may not use the job tables in schema {database.schema!r} of {database.place} ({said}): "
            "grant what workerctx_postgres.grants() lists"
        ),
    ),
    (
        (psycopg.DataError,),
        lambda _, said: InvalidRequest(f"PostgreSQL cannot store this: {said}"),
    ),
)
