"""Handlers that run in processes of their own; the tests of processes serve them, and those processes import this."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from workerctx import JobRegistry
from workerctx.errors import Abort, RetryAfter, Snooze, Throttled
from workerctx.queue import Constant
from workerctx.service import ProcessCtx, Request
from workerctx.service.layers import MapRequest, Retry, Timeout

jobs = JobRegistry()
process = jobs.register(executor="process", max_attempts=1)


def stay(notes: str, *started: subprocess.Popen[bytes]) -> None:
    """Note the processes that are here, and stay until somebody ends them."""
    part = Path(f"{notes}.part")
    part.write_text(" ".join(str(pid) for pid in (os.getpid(), *(each.pid for each in started))))
    part.rename(notes)
    while True:
        time.sleep(60)


def grandchild() -> subprocess.Popen[bytes]:
    """Start a process that stays."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


@process
def whoami() -> int:
    return os.getpid()


@process
def work(number: int) -> list[int]:
    time.sleep(0.02)
    return [number * number, os.getpid()]


@process
def hang(notes: str) -> None:
    stay(notes, grandchild())


@process
def obey(ctx: ProcessCtx, notes: str) -> None:
    Path(notes).write_text(str(os.getpid()))
    while True:
        time.sleep(0.005)
        ctx.cancel.check()


@process
def hurry(ctx: ProcessCtx, notes: str) -> str:
    Path(notes).write_text(str(os.getpid()))
    while not ctx.cancel.is_set():
        time.sleep(0.005)
    return str(ctx.cancel.reason)


@process
def told(ctx: ProcessCtx, notes: str) -> None:
    Path(notes).write_text(str(os.getpid()))
    while not ctx.cancel.is_set():
        time.sleep(0.005)
    stay(f"{notes}.told")


@process
def shoot(notes: str) -> None:
    Path(notes).write_text(str(grandchild().pid))
    os.kill(os.getpid(), signal.SIGKILL)


@process
def leave(status: int) -> None:
    os._exit(status)


@process
def exits() -> None:
    sys.exit(3)


@process
def interrupts() -> None:
    raise KeyboardInterrupt


@process
def steps(ctx: ProcessCtx, count: int, notes: str) -> str:
    ctx.heartbeat("begins")
    ctx.heartbeat({"step": "counts"})
    for done in range(count):
        ctx.progress(done, count)
    ctx.progress(count, count)
    stay(notes)
    return ctx.job_id


@process
def nonsense_progress(ctx: ProcessCtx) -> None:
    ctx.progress(float("nan"))


@process
def nonsense_heartbeat(ctx: ProcessCtx) -> None:
    ctx.heartbeat(object())


@process
def chatter() -> str:
    print("printed")
    os.write(1, b"written\n")
    subprocess.run(["echo", "echoed"], check=True)
    print("complained", file=sys.stderr)
    return str(sys.stdin.read())


@process
def garble() -> None:
    for number in range(3, 64):
        try:
            os.write(number, b"}garbage{\n")
        except OSError:
            continue
    time.sleep(600)


@process
def close_all() -> None:
    os.closerange(3, 64)
    time.sleep(600)


@process
def echo(text: str) -> str:
    return text


@process
def inflate(size: int) -> str:
    return "x" * size


@process
def unwritable() -> object:
    return object()


@process
def fail(message: str) -> None:
    raise ValueError(message)


@jobs.register(executor="process", max_attempts=2)
def verdict(word: str) -> object:
    match word:
        case "abort":
            raise Abort("never again")
        case "snooze":
            raise Snooze(300)
        case "retry":
            raise RetryAfter(300)
        case _:
            return Throttled(300)


def _one_more(request: Request) -> Request:
    (number,) = request.args
    request.args = (number + 1,)
    return request


@jobs.register(executor="process", max_attempts=1, layers=[MapRequest(_one_more)])
def mapped(number: int) -> list[int]:
    return [number, os.getppid()]


@jobs.register(executor="process", max_attempts=1, layers=[Retry(2, Constant(base=0, jitter=False))])
def stubborn(ctx: ProcessCtx, notes: str) -> int:
    with Path(notes).open("a") as file:
        file.write("x")
    tries = len(Path(notes).read_text())
    if tries < 3:
        raise ValueError("not yet")
    return tries


@jobs.register(executor="process", max_attempts=1, layers=[Timeout(0.2)])
def bounded(ctx: ProcessCtx) -> None:
    while True:
        time.sleep(0.005)
        ctx.cancel.check()


@jobs.register(executor="process", max_attempts=1, name="covered")
def twice() -> None:
    """Be covered by the next one of the same name."""


@jobs.register(executor="process", max_attempts=1)
def twice() -> None:  # noqa: F811 - the point
    """Cover the one before."""
