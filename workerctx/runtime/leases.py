"""Keeping leases alive from a thread, and noticing when the event loop is blocked.

A handler that blocks the event loop must not lose its job, so renewal does not depend on that loop. The same thread
sees that the loop does not answer and says where it is stuck.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final, Self

import anyio
from attrs import define, field

from workerctx.lifecycle.home import Home
from workerctx.lifecycle.latch import Latch
from workerctx.queue import CancelReason
from workerctx.runtime.events import JobLost, LoopBlocked, LoopLag

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import LeaseRenewer, Storage
    from workerctx.runtime.config import WorkerConfig
    from workerctx.runtime.desk import Desk

_log = logging.getLogger("workerctx")

_GOODBYE: Final = 2.0
"""Seconds to wait for the thread's last call to the store."""


@define(eq=False)
class LeaseKeeper:
    """The thread that renews a worker's leases; an async context manager, entered on the worker's event loop."""

    _storage: Storage
    _desk: Desk
    _config: WorkerConfig
    _context: WorkerContext
    _home: Home = field(init=False)
    _loop_thread: int = field(init=False)
    _done: threading.Event = field(factory=threading.Event, init=False)
    _thread: threading.Thread = field(init=False)
    _over: bool = field(default=False, init=False)
    _ended: Latch = field(init=False)
    _pulse: float = field(default=0.0, init=False)
    """When the event loop was asked for an answer last, in `time.monotonic()` seconds."""
    _asked: bool = field(default=False, init=False)
    _blocked_at: str | None = field(default=None, init=False)
    """Where the event loop is blocked, once that was reported."""
    _renewed_at: float = field(default=0.0, init=False)

    async def __aenter__(self) -> Self:
        home = Home.current()
        assert home is not None
        self._home = home
        self._loop_thread = threading.get_ident()
        self._renewed_at = time.monotonic()
        self._ended = Latch(lambda: self._over)
        self._thread = threading.Thread(target=self._keep, name=f"leases of {self._context.name}", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._done.set()
        with anyio.move_on_after(_GOODBYE, shield=True):
            await self._ended.wait()
            self._thread.join()

    @property
    def _tick(self) -> float:
        return min(self._config.heartbeat, self._config.block_warning / 2)

    def _keep(self) -> None:
        failures = 0
        while not self._done.is_set():
            try:
                with self._storage.open_renewer() as renewer:
                    while not self._done.wait(self._tick):
                        self._feel_pulse()
                        self._renew(renewer)
                        failures = 0
            except Exception as exc:  # noqa: BLE001 - logged, and tried again
                if not failures:
                    _log.warning(
                        "worker %r could not renew its leases and goes on trying", self._context.name, exc_info=exc
                    )
                failures += 1
                self._done.wait(self._tick)
        self._over = True
        self._ended.wake()

    def _renew(self, renewer: LeaseRenewer) -> None:
        now = time.monotonic()
        if now - self._renewed_at < self._config.heartbeat:
            return
        leases = list(self._desk.live)
        if leases:
            renewed = renewer.renew(leases, self._config.lease_ttl)
            news = dict.fromkeys(renewed.lost, CancelReason.LEASE_LOST) | renewed.cancelled
            if news:
                self.tell(news)
        self._renewed_at = now

    def tell(self, news: Mapping[str, CancelReason]) -> None:
        """Cancel the runs of leases, each for its reason.

        Threads: any.
        """
        self._home.post(lambda: self._cancel(news))

    def _cancel(self, news: Mapping[str, CancelReason]) -> None:
        for lease_id, reason in news.items():
            run = self._desk.cancel(lease_id, reason)
            if run is not None and reason is CancelReason.LEASE_LOST:
                _log.warning("worker %r lost the lease of job %s; its run is cancelled", self._context.name, run.job.id)
                self._context.emit(JobLost(lease_id=lease_id, after_run=False))

    def _feel_pulse(self) -> None:
        now = time.monotonic()
        if not self._asked:
            self._asked = True
            self._pulse = now
            self._home.post(self._answer)
            return
        seconds = now - self._pulse
        if seconds >= self._config.block_warning and self._blocked_at is None:
            frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented, for debuggers
            frame = frames.get(self._loop_thread)
            self._blocked_at = stack = "".join(traceback.format_stack(frame, limit=20)) if frame else "unknown"
            _log.warning(
                "the event loop of worker %r has been blocked for %.1f seconds, here:\n%s",
                self._context.name,
                seconds,
                stack,
            )

    def _answer(self) -> None:
        seconds = time.monotonic() - self._pulse
        self._asked = False
        if self._context.hears(LoopLag):
            self._context.emit(LoopLag(seconds=seconds))
        if self._blocked_at is not None:
            self._context.emit(LoopBlocked(seconds=seconds, stack=self._blocked_at))
            self._blocked_at = None
