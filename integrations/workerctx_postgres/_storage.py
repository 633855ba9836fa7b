"""A namespace of a PostgreSQL schema, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import attrs
import psycopg

from workerctx.errors import InvalidRequest
from workerctx.queue.sql.storage import SqlStorage
from workerctx_postgres._callers import CallersTransaction
from workerctx_postgres._connection import STATEMENT_TIMEOUT, Database, connection_info
from workerctx_postgres._engine import Reader, Writer
from workerctx_postgres._hub import PostgresHub
from workerctx_postgres._migrations import PostgresMigrations
from workerctx_postgres._renewer import PostgresRenewer
from workerctx_postgres._schema import version

if TYPE_CHECKING:
    from workerctx.queue.connect import StoreURL
    from workerctx.queue.sql.transaction import Transaction

LONGEST_TIMEOUT: Final = 1_000_000
"""Seconds; the server counts milliseconds, and twice as many, in 32 bits."""

_OWN: Final = frozenset({"schema", "timeout", "pooled", "listen"})
_SECRET: Final = frozenset({"password", "sslpassword", "listen"})
_YES: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def open_postgres(url: StoreURL) -> PostgresStorage:
    """Return the storage that a ``postgresql:`` URL names.

    Its options are ``namespace``, ``schema``, ``timeout`` (seconds for a statement), ``pooled`` (there is a pooler in
    transaction mode), ``listen`` (a URL without the pooler, for notifications), and every parameter of libpq.

    Raises:
        InvalidRequest: An option is not known, or its value makes no sense.
    """
    if "@" in url.path:
        raise InvalidRequest("there is an @ behind the host of this URL: write %2F for a / in a user name or password")
    options = {name: value for name, value in url.options.items() if name not in _OWN}
    pooled = _YES.get(url.options.get("pooled", "no").lower())
    if pooled is None:
        raise InvalidRequest(f"pooled={url.options['pooled']!r}: write yes or no")
    try:
        timeout = float(url.options.get("timeout", STATEMENT_TIMEOUT))
    except ValueError as exc:
        raise InvalidRequest(f"timeout={url.options['timeout']!r} is no number of seconds") from exc
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise InvalidRequest(
            f"timeout={timeout:g}: a statement needs more than 0 seconds, and at most {LONGEST_TIMEOUT} are possible"
        )
    listen = url.options.get("listen")
    return PostgresStorage(
        url=_without_password(url.raw),
        namespace=url.namespace,
        database=Database(
            connection_info(url.location, options, timeout, pooled=pooled),
            url.options.get("schema", "public"),
            timeout,
            pooled,
            None if listen is None else connection_info(listen, {}, timeout, pooled=False),
        ),
    )


@attrs.define(eq=False, kw_only=True)
class PostgresStorage(SqlStorage):
    """`Storage` in PostgreSQL; see there for what each method promises."""

    _database: Database = attrs.field(alias="database")
    _hub: PostgresHub = attrs.field(init=False, repr=False)
    _callers: CallersTransaction = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._hub = PostgresHub(self._database, self.namespace)
        self._callers = CallersTransaction(self._database, self._hub, self._number)
        self._assemble("postgres", self._hub, self._callers, hang_limit=2 * self._database.timeout)

    @property
    def migrations(self) -> PostgresMigrations:
        """The tables of the schema; see `Migrations`."""
        return PostgresMigrations(self._database)

    def open_renewer(self) -> PostgresRenewer:
        """Return a renewer for the leases of this storage.

        Raises:
            StoreClosed: The storage is not open.
        """
        return PostgresRenewer(self._database, self._number())

    def _find_namespace(self) -> int:
        database = self._database
        try:
            with database.connect() as connection:
                if version(connection, database.schema) < self.migrations.newest:
                    self.migrations.apply()
                with connection.transaction():
                    (self._callers.store_id,) = connection.execute(database.sql.store_id.encode()).fetchone() or ("",)
                    found = connection.execute(database.sql.find_namespace.encode(), (self.namespace,)).fetchone()
                    if found is None:
                        connection.execute(database.sql.add_namespace.encode(), (self.namespace,))
                        found = connection.execute(database.sql.find_namespace.encode(), (self.namespace,)).fetchone()
        except psycopg.Error as exc:
            raise database.explain(exc) from exc
        assert found is not None
        ns: int = found[0]
        return ns

    def _make_writer(self) -> Writer:
        return Writer(self._database, self._number(), self._broadcast, self._hub)

    def _make_reader(self) -> Reader:
        return Reader(self._database, self._number())

    def _move_clock(self, tx: Transaction, micros: int) -> None:
        tx.run(self._database.sql.move_clock, micros)


def _without_password(url: str) -> str:
    """Return a URL as it may be seen by anybody."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if ":" in user:
        parts = parts._replace(netloc=f"{user.partition(':')[0]}:***{at}{host}")
    options = [
        (name, "***" if name in _SECRET else value) for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    return f"{shown}?{urlencode(options, safe='/:*')}" if options else shown
