"""A registry's store: which one it is, and opened once per event loop however many ask for it."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

import anyio
from anyio.lowlevel import RunVar
from attrs import Factory, define, field

from workerctx.errors import RegistryInUse, RegistryNotOpen
from workerctx.queue import connect

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from workerctx.queue import Storage

URL_VARIABLE: Final = "WORKERCTX_URL"

_CLOSE_SECONDS: Final = 10.0
"""How long a cancelled owner may still take to close the store."""


@define(eq=False)
class _Opening:
    """The store on one event loop."""

    users: int = 0
    storage: Storage | None = None
    turn: anyio.Lock = Factory(anyio.Lock)


@define(eq=False)
class RegistryStore:
    """Opens a store for its first user on an event loop and closes it after the last; loops do not share it.

    Args:
        given: The store's URL; None reads ``WORKERCTX_URL`` when the store is opened.
    """

    given: str | None
    _override: str | None = field(default=None, init=False)
    _here: RunVar[_Opening | None] = field(factory=lambda: RunVar[_Opening | None]("workerctx store", None), init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _users: int = field(default=0, init=False)

    @property
    def url(self) -> str:
        """The URL as it holds now.

        Raises:
            RegistryNotOpen: None was given, and ``WORKERCTX_URL`` is not set.
        """
        url = self._override or self.given or os.environ.get(URL_VARIABLE)
        if not url:
            raise RegistryNotOpen(
                f'this registry has no store: give it one, `JobRegistry("sqlite:///jobs.db")`, or set {URL_VARIABLE}'
            )
        return url

    @contextmanager
    def override(self, url: str) -> Generator[None]:
        """Use another URL inside the block.

        Raises:
            RegistryInUse: The store is open.
        """
        before = self._override
        self._swap(url)
        try:
            yield
        finally:
            self._swap(before)

    @contextmanager
    def lend(self, storage: Storage) -> Generator[None]:
        """Serve an open store of somebody else on this event loop, inside the block; nobody here closes it.

        Raises:
            RegistryInUse: The registry is open on this loop.
        """
        opening = self._here.get()
        if opening is not None and opening.users:
            raise RegistryInUse("the registry is open on this event loop: run a remote worker outside of it")
        lent = _Opening(storage=storage)
        self._here.set(lent)
        self._count(lent, 1)
        try:
            yield
        finally:
            self._count(lent, -1)
            self._here.set(None)

    @property
    def in_use(self) -> bool:
        """Whether anybody, on any loop, has the store open."""
        return self._users > 0

    @property
    def storage(self) -> Storage:
        """The store of the running event loop.

        Raises:
            RegistryNotOpen: It is not open here.
        """
        try:
            opening = self._here.get()
        except RuntimeError:  # no event loop in this thread
            raise RegistryNotOpen(
                "there is no event loop in this thread: use `handler.enqueue_sync(...)` inside `with jobs.sync:`, "
                "or `ctx.sync` in a handler"
            ) from None
        if opening is None or opening.storage is None:
            elsewhere = "; it is open on another event loop only" if self.in_use else ""
            raise RegistryNotOpen(
                f"the registry is not open here{elsewhere}: put `async with jobs:` around this (a running worker has "
                "opened it already)"
            )
        return opening.storage

    async def __aenter__(self) -> Self:
        """Open the store for one more user.

        Raises:
            RegistryNotOpen: There is no URL.
            UnknownBackend: No backend is installed for it.
            InvalidRequest: It makes no sense to the backend.

        Cancellation: the store is opened or not; the count is right.
        """
        opening = self._here.get()
        if opening is None:
            opening = _Opening()
            self._here.set(opening)
        self._count(opening, 1)
        try:
            async with opening.turn:
                if opening.storage is None:
                    storage = connect(self.url)
                    await storage.__aenter__()
                    opening.storage = storage
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the store if this was its last user on this loop.

        Cancellation: closing goes on, for at most 10 s.
        """
        opening = self._here.get()
        assert opening is not None
        self._count(opening, -1)
        if opening.users:
            return
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            async with opening.turn:
                storage = opening.storage
                if opening.users or storage is None:
                    return
                opening.storage = None
                await storage.__aexit__(None, None, None)

    def _swap(self, url: str | None) -> None:
        if self.in_use:
            raise RegistryInUse("the registry is open: override its store outside of `async with jobs:`")
        self._override = url

    def _count(self, opening: _Opening, change: int) -> None:
        opening.users += change
        with self._lock:
            self._users += change
