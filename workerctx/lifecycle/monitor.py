"""`Monitor`: several workers run together, restarted when they fail, stopped in reverse order."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
from attrs import define, field

from workerctx.errors import InvalidTransition, MonitorFailed, UnknownService, WorkerError
from workerctx.lifecycle.context import WorkerContext
from workerctx.lifecycle.control import OWN_GRACE, OwnGrace, seconds_of
from workerctx.lifecycle.groups import stray
from workerctx.lifecycle.hard_exit import HardExit
from workerctx.lifecycle.latch import Latch
from workerctx.lifecycle.overheard import Ear
from workerctx.lifecycle.shutdown import DEFAULT_SIGNALS, stop_on_signals
from workerctx.lifecycle.state import Outcome
from workerctx.lifecycle.supervised import (
    Hosted,
    Restart,
    Service,
    ServiceStatistics,
    Supervised,
    as_service,
    label_of_factory,
)

if TYPE_CHECKING:
    import signal
    from collections.abc import Awaitable, Callable, Sequence
_log = logging.getLogger("workerctx")


@define(eq=False)
class Monitor:
    """Runs several workers together, from the first start to the last end.

    They start in the order in which they were added and are stopped in the reverse order, all draining side by side
    under one deadline. One that fails leaves the others alone; a restart is a new worker from its factory. When more
    than `max_restarts` restarts fall within `within` seconds, everything is stopped and `run` raises.

    Args:
        name: for people and logs.
        grace: seconds that a stop lets accepted work go on; a worker's own shorter grace counts. None: no limit.
        max_restarts: how many restarts, of all services together, are borne ...
        within: ... within this many seconds.
        delay: seconds to wait before a restart.

    Raises:
        ValueError: a negative number.
    """

    name: str = "monitor"
    grace: float | None = field(default=30.0, kw_only=True)
    max_restarts: int = field(default=3, kw_only=True)
    within: float = field(default=60.0, kw_only=True)
    delay: float = field(default=0.0, kw_only=True)
    failures: list[tuple[str, BaseException]] = field(factory=list[tuple[str, BaseException]], init=False)
    """Every failure so far, restarted or not, oldest first."""
    _entries: dict[str, Supervised] = field(factory=dict[str, Supervised], init=False)
    _order: list[Supervised] = field(factory=list[Supervised], init=False)
    _final: list[tuple[str, BaseException]] = field(factory=list[tuple[str, BaseException]], init=False)
    _restarted_at: deque[float] = field(factory=deque[float], init=False)
    _stop: tuple[str | None, float] | None = field(default=None, init=False)
    _stopping: Latch = field(init=False)
    _hard_exit: HardExit | None = field(default=None, init=False)
    _ran: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        for label, value in (("grace", self.grace), ("max_restarts", self.max_restarts), ("delay", self.delay)):
            if value is not None and value < 0:
                raise ValueError(f"{label} must not be negative, and is {value!r}")
        self._stopping = Latch(lambda: self._stop is not None)

    def add(
        self,
        service: WorkerContext | Service | Callable[[], WorkerContext | Service],
        *,
        name: str | None = None,
        restart: Restart | None = None,
    ) -> None:
        """Add a worker, something that runs one, or a factory of either.

        Args:
            service: a factory is called again for each restart.
            name: by which `pause`, `resume` and `stop_one` find it; the worker's name, or the factory's, by default.
            restart: ON_FAILURE by default for a factory; an instance cannot be restarted.

        Raises:
            ValueError: a name that is taken, or a restart policy for an instance.
        """
        given = service
        if isinstance(given, (WorkerContext, Service)) and not isinstance(given, type):
            if restart not in {None, Restart.NEVER}:
                raise ValueError(f"{given!r} can run once only: add a factory of it to have it restarted")
            instance = as_service(given)
            self._enter(Supervised(name or instance.context.name, lambda: instance, Restart.NEVER))
            return
        factory = given
        label = name or label_of_factory(factory)
        self._enter(Supervised(label, lambda: as_service(factory()), restart or Restart.ON_FAILURE))

    def serve(
        self,
        func: Callable[[WorkerContext], Awaitable[object]],
        *,
        name: str | None = None,
        restart: Restart = Restart.ON_FAILURE,
    ) -> None:
        """Add an async function that is given a new, entered worker each time it is run; returning ends it.

        Raises:
            ValueError: a name that is taken.
        """
        label = name or label_of_factory(func)
        self._enter(Supervised(label, lambda: Hosted(WorkerContext(label, grace=self.grace), func), restart))

    async def run(
        self,
        *,
        signals: bool | Sequence[signal.Signals] = False,
        hard_exit: bool = False,
        hard_limit: float = 5.0,
    ) -> None:
        """Run everything until all workers have ended, by themselves or by `stop`.

        Args:
            signals: True stops on SIGTERM and SIGINT, a second one with grace 0; or which signals. Main thread only.
            hard_exit: end the process with status 70, printing all stacks, when it outlives the deadline of a stop by
                `hard_limit` seconds. For programs that own their process.
            hard_limit: seconds.

        Raises:
            MonitorFailed: at least one worker failed for good, or there were too many restarts.
            WorkerError: it ran already.

        Cancellation: cancels every worker; the cancellation is re-raised when they have unwound.
        """
        if self._ran:
            raise WorkerError(f"monitor {self.name!r} ran already: make a new one to run its services again")
        self._ran = True
        with ExitStack() as stack:
            if hard_exit:
                self._hard_exit = HardExit(lambda: self._deadline, hard_limit, self._describe)
                stack.enter_context(self._hard_exit)
                stack.enter_context(Ear())
            if signals:
                chosen = DEFAULT_SIGNALS if signals is True else signals
                stack.enter_context(stop_on_signals(self, *chosen))
            async with anyio.create_task_group() as group:
                for entry in list(self._entries.values()):
                    group.start_soon(self._supervise, entry, name=f"monitor of {entry.name}")
                    await entry.bring_up()
        if self._final:
            names = ", ".join(f"{name} ({error!r})" for name, error in self._final)
            failed = MonitorFailed(f"monitor {self.name!r} failed: {names}; see failures and __cause__", self._final)
            raise failed from self._final[0][1]

    def stop(self, reason: str | None = None, *, grace: float | OwnGrace | None = OWN_GRACE) -> bool:
        """Stop every worker, the last started first; True for the call that did it. A later call shortens the drain.

        Threads: any thread, and a signal handler.
        """
        seconds = self.grace if grace is OWN_GRACE else seconds_of(grace)
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        first = self._stop is None
        if self._stop is not None:
            reason, deadline = self._stop[0], min(self._stop[1], deadline)
        self._stop = (reason, deadline)
        if self._hard_exit is not None:
            self._hard_exit.look()
        self._stopping.wake()
        for entry in reversed(list(self._order)):
            self._stop_entry(entry)
        return first

    def pause(self, name: str, reason: str | None = None) -> None:
        """Pause one worker.

        Raises:
            UnknownService: no such name.
            InvalidTransition: it is not running.
        """
        self.context(name).pause(reason)

    def resume(self, name: str) -> None:
        """Resume one worker.

        Raises:
            UnknownService: no such name.
            InvalidTransition: it is not paused.
        """
        self.context(name).resume()

    def stop_one(self, name: str, reason: str | None = None, *, grace: float | OwnGrace | None = OWN_GRACE) -> bool:
        """Stop one worker for good; True for the call that did it.

        Raises:
            UnknownService: no such name.
        """
        entry = self._find(name)
        entry.retired = True
        return entry.context is not None and entry.context.stop(reason, grace=grace)

    def context(self, name: str) -> WorkerContext:
        """Return the worker that a service runs now, or ran last.

        Raises:
            UnknownService: no such name, or nothing has run under it yet.
        """
        context = self._find(name).context
        if context is None:
            raise UnknownService(
                f"service {name!r} of monitor {self.name!r} has not started yet: run the monitor first"
            )
        return context

    def statistics(self) -> dict[str, ServiceStatistics]:
        """Return the figures of every service, by name."""
        return {entry.name: entry.statistics() for entry in self._entries.values()}

    def _enter(self, entry: Supervised) -> None:
        if entry.name in self._entries:
            raise ValueError(f"monitor {self.name!r} has a service {entry.name!r} already: give this one another name")
        self._entries[entry.name] = entry

    def _find(self, name: str) -> Supervised:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(sorted(self._entries)) or "none"
            raise UnknownService(f"monitor {self.name!r} has no service {name!r}; it has: {known}") from None

    async def _supervise(self, entry: Supervised) -> None:
        entry.began = time.monotonic()
        while self._stop is None and not entry.retired:
            error = await self._run_once(entry)
            entry.note_tried()
            if not self._wants_restart(entry, error):
                return
            with anyio.move_on_after(self.delay):
                await self._stopping.wait()
        entry.note_tried()
        if entry.last_error is not None:
            self._final.append((entry.name, entry.last_error))

    async def _run_once(self, entry: Supervised) -> BaseException | None:
        try:
            service = entry.make()
            entry.context = service.context
            self._order = [*(other for other in self._order if other is not entry), entry]
            entry.made.wake()
            self._stop_entry(entry)
            await service.run()
            error = service.context.failure
        except Exception as exc:  # noqa: BLE001 - reported here and in MonitorFailed
            stopped_first = entry.context is not None and entry.context.outcome is Outcome.NEVER_STARTED
            error = None if stopped_first and isinstance(exc, InvalidTransition) else exc
        except anyio.get_cancelled_exc_class() as exc:
            error = stray(exc, f"service {entry.name!r}")
        if error is not None:
            entry.last_error = error
            self.failures.append((entry.name, error))
            _log.error("service %r of monitor %r failed", entry.name, self.name, exc_info=error)
        return error

    def _wants_restart(self, entry: Supervised, error: BaseException | None) -> bool:
        wanted = entry.restart is Restart.ALWAYS or (error is not None and entry.restart is Restart.ON_FAILURE)
        if not wanted or entry.retired or self._stop is not None:
            if error is not None:
                self._final.append((entry.name, error))
            return False
        now = time.monotonic()
        while self._restarted_at and now - self._restarted_at[0] > self.within:
            self._restarted_at.popleft()
        if len(self._restarted_at) >= self.max_restarts:
            if error is None:
                self.failures.append((entry.name, WorkerError(f"service {entry.name!r} ended too often")))
            self._final = list(self.failures)
            self.stop(f"more than {self.max_restarts} restarts within {self.within:g} seconds")
            return False
        self._restarted_at.append(now)
        entry.restarts += 1
        _log.warning("service %r of monitor %r is restarted (restart %d)", entry.name, self.name, entry.restarts)
        return True

    def _stop_entry(self, entry: Supervised) -> None:
        if self._stop is None or entry.context is None:
            return
        reason, deadline = self._stop
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        own = entry.context.grace
        entry.context.stop(reason, grace=own if left is None else left if own is None else min(own, left))

    @property
    def _deadline(self) -> float | None:
        return None if self._stop is None or self._stop[1] == math.inf else self._stop[1]

    def _describe(self) -> str:
        lines = [f"Workers of monitor {self.name!r}:"]
        for entry in self._entries.values():
            if entry.context is not None and not entry.context.is_finished:
                names = ", ".join(task.name for task in entry.context.running)
                lines.append(f"  {entry.context!r}: {names or 'no spawned task'}")
        return "\n".join(lines)
