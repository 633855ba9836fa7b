"""A memory store, opened: private to one Storage object, or shared in the process by name."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import anyio.lowlevel

from workerctx.errors import InvalidRequest, StoreClosed
from workerctx.queue.memory.clock import Calendar
from workerctx.queue.memory.companions import MemoryRateLimits, MemoryRenewer, MemorySchedules, MemoryWorkers
from workerctx.queue.memory.jobs import MemoryJobs
from workerctx.queue.memory.moving import MemoryMoving
from workerctx.queue.memory.session import Session
from workerctx.queue.memory.store import Store

if TYPE_CHECKING:
    from types import TracebackType

    from workerctx.queue.connect import StoreURL


class MemoryStorage:
    """`Storage` in memory; see there for what it promises.

    What is stored lasts as long as this object, or, if it is shared by name, as long as the process.

    Attributes:
        url: As given to `connect`.
        namespace: Which part of the store.
        jobs: The job queue.
        rate_limits: The rate limits.
        workers: The registered workers.
        schedules: The schedules.
        moving: The way to and from other stores.
    """

    def __init__(self, url: str, namespace: str, store: Store) -> None:
        self.url = url
        self.namespace = namespace
        self._session = Session(store)
        self.jobs: MemoryJobs = MemoryJobs(self._session)
        self.rate_limits: MemoryRateLimits = MemoryRateLimits(self._session)
        self.workers: MemoryWorkers = MemoryWorkers(self._session)
        self.schedules: MemorySchedules = MemorySchedules(self._session)
        self.moving: MemoryMoving = MemoryMoving(self._session, namespace)

    def __repr__(self) -> str:
        return f"<MemoryStorage {self.url!r} namespace={self.namespace!r}>"

    async def __aenter__(self) -> Self:
        if self._session.is_open:
            raise StoreClosed(f"{self!r} is open already: connect() again for another user of a shared store")
        await anyio.lowlevel.checkpoint()
        self._session.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._session.close()

    def open_renewer(self) -> MemoryRenewer:
        """Return a renewer for the leases of this storage.

        Raises:
            StoreClosed: The storage is not open.
        """
        self._session.check_open()
        return MemoryRenewer(self._session)

    async def now(self) -> float:
        """Return the store's time, in seconds since the epoch."""
        await anyio.lowlevel.checkpoint()
        return self._session.now()

    async def advance(self, seconds: float) -> None:
        """Move the store's clock forward.

        Raises:
            InvalidRequest: The seconds are negative.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidRequest(f"a clock moves forward by 0 or more seconds, got {seconds}")
        await anyio.lowlevel.checkpoint()
        with self._session.change():
            self._session.store.calendar.offset += seconds
        self._session.store.alarms.ring_all()


_calendars: Final[dict[str, Calendar]] = {}
_shared: Final[dict[tuple[str, str], Store]] = {}
_lock: Final = threading.Lock()


def open_memory(url: StoreURL) -> MemoryStorage:
    """Return the Storage of a ``memory://`` URL.

    ``memory://`` is a store of its own each time; ``memory://name`` is the same one everywhere in this process.

    Raises:
        InvalidRequest: The URL has a path or an unknown option.
    """
    url.refuse_unknown(frozenset())
    parts = urlsplit(url.location)
    if parts.path.strip("/"):
        raise InvalidRequest(f"{url.raw!r} has a path, and memory has none: write memory:// or memory://name")
    if not parts.netloc:
        return MemoryStorage(url.raw, url.namespace, Store())
    with _lock:
        calendar = _calendars.setdefault(parts.netloc, Calendar())
        store = _shared.setdefault((parts.netloc, url.namespace), Store(calendar))
    return MemoryStorage(url.raw, url.namespace, store)


def is_shared(url: StoreURL) -> bool:
    """Tell whether somebody in this process has the memory that a ``memory://`` URL names."""
    return urlsplit(url.location).netloc in _calendars
