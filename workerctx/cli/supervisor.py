"""``workerctx worker --processes N``: several processes of one worker, each restarted when it dies.

The supervisor imports nothing of the application and runs no event loop. Its main thread waits for news: a process that
ended, a signal, files that changed. It talks to the processes over lines (`workerctx.cli.line`) rather than with
signals, so a stop that arrives twice, from a terminal or a service manager that tells the whole group and from here, is
still the first stop.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from attrs import define, field, frozen
from cyclopts import Parameter

from workerctx.cli import line
from workerctx.cli.health import Health, Verdict
from workerctx.cli.values import Whole  # noqa: TC001 - cyclopts reads the annotations
from workerctx.lifecycle.control import OWN_GRACE, OwnGrace
from workerctx.lifecycle.hard_exit import EXIT_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from workerctx.cli.restarts import Restarts

_log = logging.getLogger("workerctx")

_MARGIN: Final = 2.0
"""Seconds that a process has for ending itself at its own hard limit, with its stacks printed, before it is killed."""

_LONGEST_WAIT: Final = 86400.0
"""Seconds to wait for news at a time: some platforms refuse more than they can count."""

_ANSWER_LIMIT: Final = 0.8
"""Seconds in which all processes have to say how they fare; a probe often waits for no more than one."""

_MISUSE: Final = 2


@Parameter(name="*", group="Processes")
@frozen
class ProcessOptions:
    """How many processes serve, and what becomes of those that die.

    Attributes:
        processes: None: this process, without a supervisor.
        restart_delay: Seconds before a process that died is started again the first time.
    """

    processes: Annotated[
        Whole | None,
        Parameter(
            name="--processes",
            env_var="WORKERCTX_PROCESSES",
            help="Serve with so many processes, each started again when it dies.",
        ),
    ] = None
    restart_delay: Annotated[
        float,
        Parameter(
            name="--restart-delay",
            env_var="WORKERCTX_RESTART_DELAY",
            help="With --processes: seconds until one that died starts again; twice as long each time it dies soon.",
        ),
    ] = 0.5


@define(eq=False)
class _Child:
    """A running process."""

    process: subprocess.Popen[bytes]
    line: line.UpperEnd
    began: float
    kill_at: float | None = None
    """When it is killed, once it was told to stop; in `time.monotonic()` seconds."""

    @property
    def was_killed(self) -> bool:
        """Whether it had to be."""
        return self.kill_at is not None and self.process.returncode == -signal.SIGKILL


@define(eq=False)
class _Place:
    """One of the N places, and the process that fills it."""

    number: int
    child: _Child | None = None
    due: float | None = None
    """When it is to be filled, if it is empty and shall be filled."""
    again: bool = False
    """Whether to fill it as soon as its process has ended as it was told to."""
    status: int = 0
    """The exit status of the last process here."""
    fate: str = "starting"
    """What became of it."""

    @property
    def name(self) -> str:
        return line.name_of(self.number)

    def health(self, deadline: float) -> Health:
        """Return how the process fares, which was asked already."""
        child = self.child
        if child is None:
            lacking = Verdict(ok=False, reason=self.fate)
            # Whether a place is filled again is up to the supervisor, which is alive.
            return Health(Verdict(ok=True, reason=self.fate), lacking, lacking)
        found = child.line.answer(deadline)
        if found is not None:
            return found
        if not child.line.answered:
            return line.STARTING
        silent = Verdict(ok=False, reason="the process does not answer")
        return Health(silent, silent, Verdict(ok=True, reason="started"))


@define(eq=False)
class Supervisor:
    """Runs processes of one command, until they have ended or it is told to stop them.

    A process that ends with status 0 was told to, or is done: its place stays empty. One that dies is replaced as
    `restarts` says; without it the place stays empty until `restart`, which is how reloading works.

    Args:
        command: What to run, as a list of arguments.
        size: How many of it.
        grace: Seconds that a stop lets jobs go on, which the processes know; None: no limit.
        hard_limit: Seconds beyond the grace after which a process ends itself; one that does not is killed.
        restarts: When what died is started again.
    """

    _command: Sequence[str]
    _size: int
    _grace: float | None
    _hard_limit: float
    _restarts: Restarts | None
    reason: str | None = field(default=None, init=False)
    """Why it was stopped; None if everything ended by itself."""
    _gave_up: bool = field(default=False, init=False)
    _places: list[_Place] = field(init=False)
    # What threads and signal handlers have to say is done by the main thread; SimpleQueue.put is safe in both.
    _news: queue.SimpleQueue[Callable[[], None]] = field(factory=queue.SimpleQueue["Callable[[], None]"], init=False)
    _asking: threading.Lock = field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._places = [_Place(number) for number in range(1, self._size + 1)]

    def run(self) -> int:
        """Run the processes and return the exit status: 0 if the last in every place ended with 0."""
        try:
            for place in self._places:
                self._fill(place)
            while self._goes_on:
                self._wait_for_news()
                self._look_at_the_clock()
        finally:
            for place in self._places:
                if place.child is not None:
                    place.child.line.close()
        return 1 if self._gave_up else exit_status(place.status for place in self._places)

    def stop(self, reason: str | None = None, *, grace: float | OwnGrace | None = OWN_GRACE) -> None:
        """Stop all processes side by side; a grace of 0 ends the grace of a stop before.

        Threads: any thread, and a signal handler.
        """
        self._news.put(partial(self._stop, reason or "stopped", at_once=grace == 0.0))

    def restart(self, reason: str) -> None:
        """Stop every process gracefully and start it anew; empty places are filled at once.

        Threads: any thread.
        """
        self._news.put(partial(self._restart, reason))

    def health(self) -> dict[str, Health]:
        """Return how each process fares, by its name.

        Threads: any thread.
        """
        with self._asking:
            deadline = time.monotonic() + _ANSWER_LIMIT
            for place in self._places:
                child = place.child
                if child is not None:
                    child.line.ask()
            return {place.name: place.health(deadline) for place in self._places}

    @property
    def _goes_on(self) -> bool:
        if any(place.child is not None or place.due is not None for place in self._places):
            return True
        waits_for_change = self._restarts is None and any(place.status for place in self._places)
        return waits_for_change and self.reason is None

    def _wait_for_news(self) -> None:
        moments = [place.due for place in self._places if place.due is not None]
        moments += [place.child.kill_at for place in self._places if place.child and place.child.kill_at is not None]
        left = min(max(0.0, min(moments) - time.monotonic()), _LONGEST_WAIT) if moments else None
        try:
            act = self._news.get(timeout=left)
        except queue.Empty:
            return
        act()

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.due is not None and place.due <= now:
                self._fill(place)
            child = place.child
            if child is not None and child.kill_at is not None and child.kill_at <= now:
                _log.error("%s has not ended in time and is killed", place.name)
                with suppress(OSError):
                    os.killpg(child.process.pid, signal.SIGKILL)
                child.kill_at = now + _MARGIN

    def _fill(self, place: _Place) -> None:
        place.due, place.again = None, False
        upper, lower = socket.socketpair()
        with lower:
            try:
                process = subprocess.Popen(  # noqa: S603 - our own command line
                    self._command,
                    env={**os.environ, line.VARIABLE: f"{place.number}:{lower.fileno()}"},
                    stdin=subprocess.DEVNULL,
                    pass_fds=[lower.fileno()],
                    # Keys pressed at the terminal reach the supervisor alone.
                    process_group=0,
                )
            except OSError as exc:
                upper.close()
                self._mourn(place, 1, f"could not be started: {exc}", lived=0.0)
                return
        child = place.child = _Child(process, line.UpperEnd(upper), time.monotonic())
        _log.info("%s is process %d", place.name, process.pid)
        threading.Thread(target=self._wait_for, args=(place, child), name=f"end of {place.name}", daemon=True).start()

    def _wait_for(self, place: _Place, child: _Child) -> None:
        child.process.wait()
        self._news.put(partial(self._ended, place, child))

    def _ended(self, place: _Place, child: _Child) -> None:
        place.child = None
        child.line.close()
        status = EXIT_CODE if child.was_killed else child.process.returncode
        lived = time.monotonic() - child.began
        if status == -signal.SIGTERM and self.reason is not None:
            status = 0  # told by somebody else as well, before it could listen
        if place.again:
            self._fill(place)
        elif status == 0:
            place.status, place.fate = 0, "ended"
            _log.info("%s has ended", place.name)
        else:
            self._mourn(place, status, f"died {cause_of(status)}", lived=lived)

    def _mourn(self, place: _Place, status: int, how: str, *, lived: float) -> None:
        """Decide what follows a death."""
        first_try = place.fate == "starting"
        place.status, place.fate = status, how
        if self.reason is not None:
            _log.error("%s %s", place.name, how)
            return
        if self._restarts is None:
            _log.error("%s %s; it is started again when a file changes", place.name, how)
            return
        if status == _MISUSE and first_try:
            self._stop(f"{place.name} {how}", at_once=False)
            return
        now = time.monotonic()
        delay = self._restarts.delay_after_death(place.number, lived, now)
        if delay is None:
            _log.error("%s %s", place.name, how)
            self._gave_up = True
            self._stop("too many processes died", at_once=False)
            return
        _log.error("%s %s; it is started again in %g seconds", place.name, how, delay)
        place.due = now + delay

    def _stop(self, reason: str, *, at_once: bool) -> None:
        if self.reason is None:
            self.reason = reason
            _log.info("all processes are stopped: %s", reason)
        for place in self._places:
            place.due, place.again = None, False
            if place.child is not None:
                self._tell_to_stop(place.child, reason, at_once=at_once)

    def _restart(self, reason: str) -> None:
        if self.reason is not None:
            return
        _log.info("all processes are restarted: %s", reason)
        for place in self._places:
            if place.child is None:
                place.due = time.monotonic()
            elif not place.again:
                place.again = True
                self._tell_to_stop(place.child, reason, at_once=False)

    def _tell_to_stop(self, child: _Child, reason: str, *, at_once: bool) -> None:
        child.line.stop(reason, at_once=at_once)
        grace = 0.0 if at_once else self._grace
        if grace is not None:
            kill_at = time.monotonic() + grace + self._hard_limit + _MARGIN
            child.kill_at = kill_at if child.kill_at is None else min(child.kill_at, kill_at)


def exit_status(statuses: Iterable[int]) -> int:
    """Return the status of a command from those of its processes: misuse first, then a hard exit, then any failure."""
    found = set(statuses) - {0}
    return next((status for status in (_MISUSE, EXIT_CODE) if status in found), 1 if found else 0)


def cause_of(status: int) -> str:
    """Say how a process ended, from its exit status."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"of {signal.Signals(-status).name}"
    except ValueError:
        return f"of signal {-status}"
