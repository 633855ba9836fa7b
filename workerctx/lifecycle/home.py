"""The event loop that a worker lives on, and how to reach it from elsewhere."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from typing import TYPE_CHECKING, Protocol, cast

import anyio
import anyio.lowlevel
from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_SUSPENDABLE = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class _TrioToken(Protocol):
    def run_sync_soon(self, callback: Callable[[], object], /) -> None: ...


@frozen(eq=False)
class Home:
    """A running event loop, by the handle that reaches it from any thread."""

    native: object
    _process: int = field(factory=os.getpid, init=False)

    @classmethod
    def current(cls) -> Home | None:
        """Return the loop that runs in this thread, if one does."""
        try:
            return cls(anyio.lowlevel.current_token().native_token)
        except RuntimeError:
            pass
        try:  # a bare callback of an asyncio loop belongs to no task, and anyio does not know it then
            return cls(asyncio.get_running_loop())
        except RuntimeError:
            return None

    def now(self) -> float:
        """Return the loop's clock, in seconds; callable from its callbacks too.

        Threads: the loop's own.
        """
        loop = self.native
        return loop.time() if isinstance(loop, asyncio.AbstractEventLoop) else anyio.current_time()

    def clock(self) -> Callable[[], float]:
        """Return the quickest way to what `now` returns, for who asks all the time; called on the loop.

        Threads: the loop's own.
        """
        if isinstance(self.native, asyncio.AbstractEventLoop):
            return self.native.time
        from trio.lowlevel import current_clock

        return current_clock().current_time

    def is_current(self) -> bool:
        """Tell whether the loop runs in this thread."""
        current = Home.current()
        return current is not None and current.native is self.native and self._process == os.getpid()

    def is_here(self) -> bool:
        """Tell whether this code runs on the loop, and not in a signal handler that merely interrupted it."""
        return self.is_current() and not in_signal_handler()

    def post(self, callback: Callable[[], object]) -> bool:
        """Have the loop call `callback` soon; False if the loop is gone, or belongs to the process we forked from.

        Threads: any thread, any other loop, and a signal handler. The callback must not raise.
        """
        if self._process != os.getpid():
            return False
        try:
            if isinstance(self.native, asyncio.AbstractEventLoop):
                self.native.call_soon_threadsafe(callback)
            else:
                cast("_TrioToken", self.native).run_sync_soon(callback)
        except RuntimeError:  # both backends say so when the loop has ended
            return False
        return True


def in_signal_handler() -> bool:
    """Tell whether the calling code was entered by a Python signal handler.

    A handler is a plain function that was given, as an argument, the very frame that it interrupted: its own
    caller. Code of the loop itself sits above a coroutine, which ends the search.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    frame = inspect.currentframe()
    while frame is not None and not frame.f_code.co_flags & _SUSPENDABLE:
        caller = frame.f_back
        if caller is not None and any(argument is caller for argument in _arguments(frame)):
            return True
        frame = caller
    return False


def _arguments(frame: FrameType) -> list[object]:
    code = frame.f_code
    count = code.co_argcount + bool(code.co_flags & inspect.CO_VARARGS) + code.co_kwonlyargcount
    if not count:
        return []
    values = frame.f_locals
    found: list[object] = []
    for name in code.co_varnames[:count]:
        value: object = values.get(name)
        found.extend(cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,))
    return found
