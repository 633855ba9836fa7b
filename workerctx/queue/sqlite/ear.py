"""Waking waiters: those of this Storage directly, those of other processes by a datagram after each commit.

Whoever waits binds a socket in a per-user folder named after the database file; whoever commits sends one datagram
to each socket there. A waiting process costs nothing while nothing happens, except a look at SQLite's change counter
every `FALLBACK` seconds, for writers that send no datagrams.
"""

from __future__ import annotations

import selectors
import socket
import sqlite3
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import attrs
import msgspec

from workerctx.errors import QueueError
from workerctx.queue.ids import new_id
from workerctx.queue.sqlite.meeting import meeting_place, short_name
from workerctx.queue.waking import EVERYTHING, Ear, News, WakeupHub

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workerctx.queue.sqlite.connection import Database, FileConnection

FALLBACK: Final = 0.5
"""Seconds between two looks at the change counter."""

_LARGEST_DATAGRAM: Final = 8192
_HAS_SOCKETS: Final = hasattr(socket, "AF_UNIX")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(News).decode


@attrs.define(eq=False)
class SqliteHub(WakeupHub):
    """The waiters of one Storage, its socket, and the way to the sockets of others."""

    _database: Database
    _namespace: str
    _folder: Path | None = attrs.field(default=None, init=False)
    _name: str = attrs.field(factory=lambda: f"{new_id()[-12:]}.sock", init=False)

    def open(self) -> None:
        """Find the folder of the sockets."""
        if _HAS_SOCKETS:
            self._folder = _socket_folder(self._database.path, self._namespace)

    def tell(self, news: News) -> None:
        """Wake the waiters that the news concern, here and elsewhere.

        Threads: any.
        """
        self.hear(news)
        if self._folder is not None:
            _send(self._folder, self._name, news)

    def _listen(self) -> Ear:
        return _Ear(self._database, None if self._folder is None else self._folder / self._name, self.hear)


class _Ear:
    """The thread that listens for datagrams and, now and then, looks at the change counter."""

    def __init__(self, database: Database, path: Path | None, hear: Callable[[News], None]) -> None:
        self.ready = threading.Event()
        self._database = database
        self._path = path
        self._hear = hear
        self._connection: FileConnection | None = None
        self._version = 0
        self._closing, self._closer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="workerctx-sqlite-wakeups", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closer.send(b"x")
        self._thread.join(5)
        self._closer.close()

    def _run(self) -> None:
        with ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(stack.enter_context(self._closing), selectors.EVENT_READ)
            listener = self._bind()
            if listener is not None:
                assert self._path is not None
                stack.callback(self._path.unlink, missing_ok=True)
                selector.register(stack.enter_context(listener), selectors.EVENT_READ)
            stack.callback(self._disconnect)
            self._has_changed()
            self.ready.set()
            while True:
                ready = {key.fileobj for key, _ in selector.select(FALLBACK)}
                if self._closing in ready:
                    return
                if listener is not None and listener in ready:
                    self._receive(listener)
                elif self._has_changed():
                    self._hear(EVERYTHING)

    def _has_changed(self) -> bool:
        """Look at the change counter, which tells of every commit by another connection; True if it cannot be seen."""
        try:
            if self._connection is None:
                self._connection, self._version = self._database.connect(), 0
            self._database.check_file(self._connection)
            before = self._version
            (self._version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except (QueueError, sqlite3.Error):
            self._disconnect()
            return True
        return before != self._version

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _bind(self) -> socket.socket | None:
        if self._path is None:
            return None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            listener.setblocking(False)
            listener.bind(str(self._path))
        except OSError:
            # Too long a path, or no room: the change counter is looked at all the same.
            listener.close()
            return None
        return listener

    def _receive(self, listener: socket.socket) -> None:
        """Take every datagram that waits, so that a burst of commits wakes each waiter once."""
        queues: set[str] = set()
        finished = False
        for _ in range(1000):
            try:
                news = _decode(listener.recv(_LARGEST_DATAGRAM))
            except BlockingIOError:
                break
            except msgspec.MsgspecError:
                news = EVERYTHING
            if news.queues is None:
                self._hear(news)
            else:
                queues.update(news.queues)
            finished = finished or news.finished
        self._hear(News(tuple(queues), finished))


def _send(folder: Path, own: str, news: News) -> None:
    try:
        paths = [path for path in folder.iterdir() if path.name != own]
    except OSError:
        return
    if not paths:
        return
    message = _encode(news)
    if len(message) > _LARGEST_DATAGRAM:
        message = _encode(News(None, news.finished))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for path in paths:
            try:
                sender.sendto(message, str(path))
            except ConnectionRefusedError:
                # Its process is gone without having tidied up.
                with suppress(OSError):
                    path.unlink()
            except OSError:
                # Full: it has wake-ups enough. Gone: it has left.
                continue


def _socket_folder(database: Path, namespace: str) -> Path | None:
    """Return the folder for the sockets of a namespace, made if need be; None if there is no safe one."""
    place = meeting_place()
    if place is None:
        return None
    folder = place / short_name(database, namespace)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder
