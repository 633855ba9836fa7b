"""The process of a handler: runs one job after the other that its worker writes to its pipe.

Usage: python -m workerctx.service.child; workers start it, and it lives no longer than they do.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec
from attrs import define, field

from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.service.handler import JobHandler
from workerctx.service.layers.catch import crash_of
from workerctx.service.processctx import ProcessCtx
from workerctx.service.signature import Contract
from workerctx.service.target import Target
from workerctx.service.wire import Began, Done, Failed, Report, Start, decode_command, encode

if TYPE_CHECKING:
    from workerctx.service.wire import Answer

_VERDICTS: Final = (Abort, RetryAfter, Snooze, Throttled)
_PAUSE: Final = 0.05
"""Seconds for which reports of a run are gathered, so that a tight loop does not flood the worker."""
_FAREWELL: Final = 1.0
"""Seconds for what an idle process does at its exit."""


@define(eq=False)
class _Answers:
    """The way to the worker, for any thread."""

    _pipe: int
    _lock: threading.RLock = field(factory=threading.RLock, init=False)
    _newest: dict[str, Any] = field(factory=dict[str, Any], init=False)
    _due: threading.Timer | None = field(default=None, init=False)

    def send(self, answer: Answer) -> None:
        """Write an answer, after the reports that were not written yet."""
        with self._lock:
            self._write_newest()
            self._write(encode(answer))

    def report(self, news: dict[str, Any]) -> None:
        """Write what the handler says of its run soon; of each thing only the newest word counts."""
        with self._lock:
            self._newest |= news
            if self._due is None:
                self._due = threading.Timer(_PAUSE, self._write_newest)
                self._due.daemon = True
                self._due.start()

    def _write_newest(self) -> None:
        with self._lock:
            due, self._due = self._due, None
            if due is not None:
                due.cancel()
            news, self._newest = self._newest, {}
            if news:
                self._write(encode(Report(news)))

    def _write(self, line: bytes) -> None:
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[os.write(self._pipe, rest) :]


@define(eq=False)
class _Run:
    """One job that was asked for."""

    start: Start
    payload: bytes
    ctx: ProcessCtx

    def answer(self) -> Answer:
        """Run the job."""
        try:
            sys.path[:] = self.start.path
            found: Any = Target(self.start.module, self.start.qualname).find()
            contract = found.contract if isinstance(found, JobHandler) else Contract.of(found, in_process=True)
            args, kwargs = contract.payload.decode(self.payload)
            leading = (self.ctx,) if contract.contexts else ()
            output = contract.function(*leading, *args, **kwargs)
            if isinstance(output, _VERDICTS):
                return Failed.of(output)
            return Done(msgspec.Raw(contract.result.encode(output)))
        except Exception as exc:  # noqa: BLE001 - whatever it is, it goes to the worker
            return Failed.of(exc)
        except BaseException as exc:  # noqa: BLE001 - the process goes on, the job has failed
            return Failed.of(crash_of(exc))


@define(eq=False)
class _Ears:
    """Listens to the worker, in a thread of its own: a handler that computes does not."""

    _pipe: IO[bytes]
    _answers: _Answers
    runs: SimpleQueue[_Run | None] = field(factory=SimpleQueue["_Run | None"], init=False)
    busy: bool = field(default=False, init=False)

    def listen(self) -> None:
        """Take in what the worker writes, until it ends or lets this process go."""
        run: _Run | None = None
        for line in self._pipe:
            command = decode_command(line)
            if isinstance(command, Start):
                ctx = ProcessCtx(command.job_id, command.attempt, report=self._answers.report)
                run = _Run(command, self._pipe.readline(), ctx)
                self.busy = True
                self.runs.put(run)
            elif run is not None:
                run.ctx.cancel.set(command.reason)
        if not self.busy:
            self.runs.put(None)
            time.sleep(_FAREWELL)
        _end()


def main() -> None:
    """Run jobs until the worker lets this process go."""
    commands, answers = _take_pipes()
    ears = _Ears(commands, answers)
    threading.Thread(target=ears.listen, name="workerctx worker's word", daemon=True).start()
    while (run := ears.runs.get()) is not None:
        answers.send(Began())
        answer = run.answer()
        sys.stdout.flush()
        ears.busy = False
        answers.send(answer)


def _take_pipes() -> tuple[IO[bytes], _Answers]:
    """Move the worker's pipes to where no handler finds them by accident; what handlers print goes to stderr."""
    commands, answers = os.fdopen(os.dup(0), "rb"), _Answers(os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, answers


def _end() -> None:
    """End at once, with every process that handlers have started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
