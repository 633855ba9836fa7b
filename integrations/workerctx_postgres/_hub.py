"""Waking waiters: those of this Storage directly, those of other processes by NOTIFY."""

from __future__ import annotations

import hashlib
import logging
import selectors
import socket
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import attrs
import msgspec
import psycopg
from psycopg.sql import SQL, Identifier, Literal

from workerctx.errors import QueueError
from workerctx.queue.ids import new_id
from workerctx.queue.waking import EVERYTHING, Ear, News, WakeupHub
from workerctx_postgres._statements import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.queue.sql.transaction import Cursor
    from workerctx_postgres._connection import Database

_log = logging.getLogger("workerctx")

RECONNECT: Final = (0.05, 5.0)
"""Seconds before the first and between later attempts to listen again; doubled from one to the other."""

_LONGEST_PAYLOAD: Final = 7999
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(News).decode


@attrs.define(eq=False)
class PostgresHub(WakeupHub):
    """The waiters of one Storage, the connection that listens, and the way to those of others."""

    _database: Database
    _namespace: str
    _origin: str = attrs.field(factory=new_id, init=False)

    @property
    def channel(self) -> str:
        """The channel of the namespace, unique in the database."""
        place = f"{self._database.schema}\n{self._namespace}"
        return f"workerctx_{hashlib.sha256(place.encode()).hexdigest()[:24]}"

    def notify(self, cursor: Cursor, news: News, *, told: bool = True) -> None:
        """Tell those who listen, once the cursor's transaction is committed.

        Args:
            cursor: In a transaction.
            news: What to tell.
            told: Whether the waiters of this Storage hear it without that.
        """
        cursor.execute(self._database.sql.notify, (self.channel, self._text(news, told=told)))

    def telling(self, connection: psycopg.Connection, news: News) -> bytes:
        """Return the statement that tells it, to be sent together with others."""
        statement = SQL("NOTIFY {}, {}").format(Identifier(self.channel), Literal(self._text(news, told=True)))
        return statement.as_bytes(connection)

    def announce(self, connection: psycopg.Connection, news: News) -> None:
        """Tell other processes now; if that fails they find out by themselves."""
        with suppress(psycopg.Error):
            connection.execute(self.telling(connection, news), prepare=False)

    def _text(self, news: News, *, told: bool) -> str:
        origin = self._origin if told else ""
        text = _encode(News(news.queues, news.finished, origin))
        if len(text) > _LONGEST_PAYLOAD:
            text = _encode(News(None, news.finished, origin))
        return text.decode()

    def _listen(self) -> Ear:
        return _Ear(self._database, self.channel, self._origin, self.hear)


class _Ear:
    """The thread that listens for notifications, and connects again when it lost its connection."""

    def __init__(self, database: Database, channel: str, origin: str, hear: Callable[[News], None]) -> None:
        self.ready = threading.Event()
        self._database = database
        self._channel = channel
        self._origin = origin
        self._hear = hear
        self._closing, self._closer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="workerctx-postgres-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closer.send(b"x")
        self._thread.join(5)
        self._closer.close()

    def _run(self) -> None:
        first, longest = RECONNECT
        pause = first
        with ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(stack.enter_context(self._closing), selectors.EVENT_READ)
            if self._database.is_deaf:
                self.ready.set()
                selector.select()
                return
            while True:
                try:
                    with self._database.connect(listening=True) as connection:
                        connection.execute(f"LISTEN {quoted(self._channel)}".encode())
                        if pause >= longest:
                            _log.warning("PostgreSQL is listened to again: %s", self._database.place)
                        if self.ready.is_set():
                            # What was told while nobody listened is not known.
                            self._hear(EVERYTHING)
                        self.ready.set()
                        pause = first
                        if self._listen(connection, selector):
                            return
                except (QueueError, psycopg.Error) as exc:
                    if pause < longest <= 2 * pause:
                        _log.warning(
                            "PostgreSQL cannot be listened to, so other processes' jobs wait for a poll: %s", exc
                        )
                self.ready.set()
                if selector.select(pause):
                    return
                pause = min(2 * pause, longest)

    def _listen(self, connection: psycopg.Connection, selector: selectors.BaseSelector) -> bool:
        """Pass on what is told until the ear is closed, which is True, or the connection fails."""
        key = selector.register(connection.fileno(), selectors.EVENT_READ)
        try:
            while True:
                ready = [found.fileobj for found, _ in selector.select()]
                if self._closing in ready:
                    return True
                self._pass_on(connection)
        finally:
            selector.unregister(key.fileobj)

    def _pass_on(self, connection: psycopg.Connection) -> None:
        """Hear everything that has come, so that a burst of commits wakes each waiter once."""
        queues: set[str] = set()
        everyone = finished = False
        for notify in connection.notifies(timeout=0):
            try:
                news = _decode(notify.payload)
            except msgspec.MsgspecError:
                news = EVERYTHING
            if news.origin == self._origin:
                continue
            everyone = everyone or news.queues is None
            queues.update(news.queues or ())
            finished = finished or news.finished
        self._hear(News(None if everyone else tuple(queues), finished))
