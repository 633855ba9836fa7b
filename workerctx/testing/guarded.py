"""A store with a guard in front of every call; which calls there are is read from the protocols of the contract."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast

from workerctx.queue import JobQueue, LeaseRenewer, RateLimits, Schedules, Storage, Wakeups, Workers
from workerctx.queue.cargo import Moving

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from types import TracebackType

T = TypeVar("T")

_PARTS: Final[dict[str, type[Any]]] = {
    "jobs": JobQueue,
    "rate_limits": RateLimits,
    "workers": Workers,
    "schedules": Schedules,
    "moving": Moving,
}
_BLOCKS: Final[dict[str, type[Any] | None]] = {"subscribe": None, "wakeups": Wakeups}
"""Methods that return an async context manager, and the protocol of what it yields if that has calls of its own."""
_AHEAD: Final = frozenset({"prepare_claim", "then"})
"""What begins calls behind the guard's back, and so does nothing here."""


class Guard(Protocol):
    """Decides what becomes of a call."""

    async def serve(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], perform: Callable[[], Awaitable[T]]
    ) -> T:
        """Perform an async call, or not."""
        ...

    def serve_sync(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], perform: Callable[[], T]) -> T:
        """Perform a call of the thread that renews leases, or not."""
        ...


def calls_of(protocol: type[Any]) -> dict[str, bool]:
    """Return the public methods of a protocol, and whether each is async."""
    members = inspect.getmembers(protocol, inspect.isfunction)
    names = [(name, member) for name, member in members if not name.startswith("_") and name not in _AHEAD]
    return {name: inspect.iscoroutinefunction(member) for name, member in names}


def _nothing_ahead(_request: object) -> None:
    """Prepare no claim; see `JobQueue.prepare_claim`."""


METHODS: Final = frozenset(
    [
        *(f"{part}.{name}" for part, protocol in _PARTS.items() for name in calls_of(protocol)),
        *(f"wakeups.{name}" for name in calls_of(Wakeups)),
        *(f"renewer.{name}" for name in calls_of(LeaseRenewer)),
        *calls_of(Storage),
        "renewer.open",
        "open",
    ]
)
"""Every call of a store; closing is none, since it always works."""


def guarded(storage: Storage, guard: Guard) -> Storage:
    """Return a storage all of whose calls go through a guard; what else it has is that of the real one."""
    return cast("Storage", _GuardedStorage(storage, "", Storage, guard))


class _Guarded:
    """A part of a store."""

    def __init__(self, real: Any, prefix: str, protocol: type[Any], guard: Guard) -> None:
        self._real = real
        self._prefix = prefix
        self._calls = calls_of(protocol)
        self._guard = guard

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name in _AHEAD:
            return _nothing_ahead
        if name not in self._calls:
            return real
        method, guard = self._prefix + name, self._guard

        def enter(*args: Any, **kwargs: Any) -> Any:
            return self._block(name, real, args, kwargs)

        def call(*args: Any, **kwargs: Any) -> Any:
            return guard.serve_sync(method, args, kwargs, lambda: real(*args, **kwargs))

        async def call_async(*args: Any, **kwargs: Any) -> Any:
            return await guard.serve(method, args, kwargs, lambda: real(*args, **kwargs))

        return enter if name in _BLOCKS else call_async if self._calls[name] else call

    def __repr__(self) -> str:
        return f"<{self._real!r} behind a guard>"

    @asynccontextmanager
    async def _block(
        self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        async with AsyncExitStack() as stack:
            manager = real(*args, **kwargs)
            entered = await self._guard.serve(
                self._prefix + name, args, kwargs, lambda: stack.enter_async_context(manager)
            )
            protocol = _BLOCKS[name]
            yield entered if protocol is None else _Guarded(entered, f"{name}.", protocol, self._guard)


class _GuardedStorage(_Guarded):
    """The whole of it."""

    def __getattr__(self, name: str) -> Any:
        if name in _PARTS:
            return _Guarded(getattr(self._real, name), f"{name}.", _PARTS[name], self._guard)
        return super().__getattr__(name)

    def open_renewer(self) -> LeaseRenewer:
        """Return a renewer that is guarded, too."""
        renewer = self._guard.serve_sync("open_renewer", (), {}, self._real.open_renewer)
        return cast("LeaseRenewer", _GuardedRenewer(renewer, "renewer.", LeaseRenewer, self._guard))

    async def __aenter__(self) -> Self:
        await self._guard.serve("open", (), {}, self._real.__aenter__)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        closed: bool | None = await self._real.__aexit__(exc_type, exc, tb)
        return closed


class _GuardedRenewer(_Guarded):
    """What the lease thread uses."""

    def __enter__(self) -> Self:
        self._guard.serve_sync("renewer.open", (), {}, self._real.__enter__)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._real.__exit__(exc_type, exc, tb)
