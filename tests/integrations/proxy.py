"""A TCP proxy in front of a real server, for tests of what networks do: it cuts, refuses, stalls, delays and
lies.

It runs in a thread with an event loop of its own, so every method can be called from plain tests and from both event
loops; each returns when it has taken effect.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, Literal, Self, TypeVar

from attrs import define, field

T = TypeVar("T")

Upstream = tuple[str, int] | str
"""Host and port of a server, or the path of its socket."""
Direction = Literal["client", "server"]
"""To whom bytes travel."""

_RESET = struct.pack("ii", 1, 0)
_CHUNK = 64 * 1024


@define(eq=False)
class _Link:
    """One connection of a client and its counterpart to the server."""

    sides: tuple[asyncio.StreamWriter, asyncio.StreamWriter]

    def cut(self) -> None:
        for side in self.sides:
            connection = side.get_extra_info("socket")
            if connection is not None and connection.family != socket.AF_UNIX:
                with suppress(OSError):  # it is closed already
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            side.transport.abort()

    def close(self) -> None:
        for side in self.sides:
            side.close()


@define(eq=False)
class Proxy:
    """Listens on a local port and passes everything on to a server; a context manager.

    Attributes:
        upstream: Where new connections go; may be changed at any time.
        delay: Seconds by which everything is held up, each way.
        tls: With which clients talk to it in TLS, which ends here; None for plain connections.
        host: Where it listens.
        port: Where it listens.
        accepted: How many connections there have been, refused ones included.
    """

    upstream: Upstream
    delay: float = 0.0
    tls: ssl.SSLContext | None = None
    host: str = field(default="127.0.0.1", init=False)
    port: int = field(default=0, init=False)
    accepted: int = field(default=0, init=False)
    _refusing: bool = field(default=False, init=False)
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _thread: threading.Thread = field(init=False)
    _links: set[_Link] = field(factory=set, init=False)
    _open: dict[str, asyncio.Event] = field(factory=dict, init=False)
    _over: asyncio.Event = field(init=False)

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="proxy", daemon=True)
        self._thread.start()
        assert ready.wait(30), "the proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the proxy did not end"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._do(self._cut())

    def say(self, data: bytes) -> None:
        """Send bytes to every client, which the server has not sent."""
        self._do(self._say(data))

    @contextmanager
    def refusing(self) -> Generator[None]:
        """Reset every connection, and each new one at once, inside the block."""
        self._refusing = True
        self.cut()
        try:
            yield
        finally:
            self._refusing = False

    @contextmanager
    def stalling(self, to: Direction | None = None) -> Generator[None]:
        """Pass nothing on inside the block, one way or both, and keep connections; then all that was held back."""
        directions = ("client", "server") if to is None else (to,)
        self._do(self._gate(directions, is_open=False))
        try:
            yield
        finally:
            self._do(self._gate(directions, is_open=True))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _cut(self) -> None:
        while self._links:
            self._links.pop().cut()

    async def _say(self, data: bytes) -> None:
        for link in self._links:
            link.sides[0].write(data)

    async def _gate(self, directions: tuple[str, ...], *, is_open: bool) -> None:
        for direction in directions:
            if is_open:
                self._open[direction].set()
            else:
                self._open[direction].clear()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._open = {"client": asyncio.Event(), "server": asyncio.Event()}
        await self._gate(("client", "server"), is_open=True)
        tasks: set[asyncio.Task[None]] = set()

        def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._pass_on(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(welcome, self.host, self.port, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._over.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await self._dial()
        except OSError:
            _Link((writer, writer)).cut()
            return
        link = _Link((writer, server_writer))
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pump(reader, server_writer, "server"))
                ways.create_task(self._pump(server_reader, writer, "client"))
            link.close()
        except* OSError:
            link.cut()
        except* asyncio.CancelledError:
            link.cut()
        finally:
            self._links.discard(link)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._refusing:
            raise ConnectionRefusedError
        if isinstance(self.upstream, str):
            return await asyncio.open_unix_connection(self.upstream)
        return await asyncio.open_connection(*self.upstream)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, to: Direction) -> None:
        while chunk := await source.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._open[to].wait()
            sink.write(chunk)
            await sink.drain()
        await self._open[to].wait()
        if sink.can_write_eof():
            sink.write_eof()
