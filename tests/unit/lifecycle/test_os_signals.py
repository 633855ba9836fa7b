"""Operating system signals: opt-in, in real processes."""

import signal
import threading

import pytest

from workerctx.errors import WorkerError
from workerctx.lifecycle import Shutdown, WorkerContext, stop_on_signals

PROGRAM = """
import os, signal, sys, threading, time
import anyio
from workerctx.lifecycle import WorkerContext, stop_on_signals

main_thread = threading.get_ident()
ctx = WorkerContext("sig", grace=60)
heard = []

def hear(ctx, event):
    import sys
    inside = False
    frame = sys._getframe()
    while frame is not None:
        inside |= frame.f_code.co_qualname in ("Handler.__call__", "plain")
        frame = frame.f_back
    heard.append((type(event).__name__, threading.get_ident() == main_thread, inside))

ctx.listen(hear)

def kill(number, times=1):
    def later():
        for _ in range(times):
            time.sleep(0.1)
            os.kill(os.getpid(), number)
    threading.Thread(target=later, daemon=True).start()
"""


def test_the_library_installs_no_handler(program, anyio_backend):
    """L33: without stop_on_signals nothing touches the handlers of the process."""
    done = program(
        PROGRAM
        + """
before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]

async def main():
    async with ctx:
        now = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
        assert now == [before[0], before[2]], now

anyio.run(main, backend=BACKEND)
assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
""",
        anyio_backend,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_and_drains(program, anyio_backend, number):
    """L33: the first signal asks for a stop; accepted work ends; the handlers from before are back."""
    done = program(
        PROGRAM
        + f"""
async def work():
    await ctx.wait_stopping()
    await anyio.sleep(0.05)
    print("worked to the end")

async def main():
    async with ctx:
        ctx.spawn(work)
        kill(signal.{number})
        await ctx

before = signal.getsignal(signal.{number})
with stop_on_signals(ctx):
    anyio.run(main, backend=BACKEND)
assert signal.getsignal(signal.{number}) is before
print(ctx.outcome.value, "|", ctx.reason)
assert heard == [(name, True, False) for name in ("Start", "Stop", "Success", "Exit")] or sorted(heard) == sorted(
    (name, True, False) for name in ("Start", "Stop", "Success", "Exit")
), heard
""",
        anyio_backend,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["worked to the end", f"clean | signal {number}"]


def test_a_second_signal_escalates(program, anyio_backend):
    """L33: the second signal, whichever it is, cancels at once."""
    done = program(
        PROGRAM
        + """
async def main():
    async with ctx:
        ctx.spawn(anyio.sleep_forever)
        kill(signal.SIGTERM)
        await ctx.wait_stopping()
        kill(signal.SIGINT)
        await anyio.sleep_forever()

with stop_on_signals(ctx):
    anyio.run(main, backend=BACKEND)
print(ctx.outcome.value, "|", ctx.reason)
""",
        anyio_backend,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cancelled", "|", "signal", "SIGTERM"]


@pytest.mark.parametrize("busy", [False, True])
def test_every_sync_method_in_a_plain_handler(program, anyio_backend, busy):
    """L32: all sync methods may be called in a plain signal handler, asleep or busy; listeners run at home."""
    done = program(
        PROGRAM
        + f"""
busy = {busy}

def plain(number, frame):
    ctx.pause()
    ctx.resume()
    ctx.emit("from a handler")
    ctx.mark_unready("no")
    ctx.statistics(), repr(ctx), ctx.running
    ctx.listen(lambda *_: None).disconnect()
    ctx.stop("from a handler", grace=30)

signal.signal(signal.SIGUSR1, plain)

async def main():
    with anyio.fail_after(20):
        async with ctx:
            kill(signal.SIGUSR1)
            if busy:
                while not ctx.is_stopped:
                    await anyio.lowlevel.checkpoint()
                    sum(range(1000))
            await ctx.wait_stopping()

import anyio.lowlevel
anyio.run(main, backend=BACKEND)
print(ctx.outcome.value, [name for name, _, _ in heard])
assert all(main and not inside for _, main, inside in heard), heard
""",
        anyio_backend,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "clean ['Start', 'Pause', 'Resume', 'Custom', 'Stop', 'Exit']"


def test_a_handler_may_interrupt_anything(program, anyio_backend):
    """L32: a storm of signals in the middle of transitions and tracked work loses nothing and blocks nobody."""
    done = program(
        PROGRAM
        + """
import anyio.lowlevel
calls = 0

def plain(number, frame):
    global calls
    calls += 1
    ctx.emit(calls)
    if calls >= 300:  # not ==: a handler may be interrupted by the next one
        ctx.stop("enough")
    if calls >= 350:  # on a busy machine nothing but handlers would run
        signal.setitimer(signal.ITIMER_REAL, 0)

signal.signal(signal.SIGALRM, plain)

async def noop():
    pass

async def main():
    with anyio.fail_after(25):
        async with ctx:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            while not ctx.is_stopped:
                try:
                    await ctx.track(noop())
                    ctx.pause()
                    ctx.resume()
                except Exception:
                    assert ctx.is_stopped
                await anyio.lowlevel.checkpoint()
            signal.setitimer(signal.ITIMER_REAL, 0)

anyio.run(main, backend=BACKEND)
customs = [event for event in heard if event[0] == "Custom"]
assert len(customs) >= 300, len(customs)
names = [event[0] for event in heard if event[0] in ("Start", "Pause", "Resume", "Stop", "Exit")]
assert names[0] == "Start" and names[-2:] == ["Stop", "Exit"], names[-3:]
body = names[1:-2]
assert body[::2] == ["Pause"] * len(body[::2]) and body[1::2] == ["Resume"] * len(body[1::2])
print(ctx.outcome.value, ctx.task_count)
""",
        anyio_backend,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["clean", "0"]


def test_only_the_main_thread():
    """L33: elsewhere it is refused with a sentence, and nothing is installed."""
    raised = []

    def elsewhere():
        try:
            with stop_on_signals(WorkerContext()):
                pass
        except WorkerError as exc:
            raised.append(exc)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_are_restored_whatever_happens():
    """L33: nested or left by an exception, the previous handlers come back."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(OSError):
        with stop_on_signals(WorkerContext()):
            outer = signal.getsignal(signal.SIGTERM)
            with stop_on_signals(Shutdown(), signal.SIGTERM):
                assert signal.getsignal(signal.SIGTERM) is not outer
            assert signal.getsignal(signal.SIGTERM) is outer
            raise OSError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_handler_that_was_set_meanwhile_stays():
    """L33: who lets signals do something else from then on is not overruled at the end."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with stop_on_signals(WorkerContext(), signal.SIGTERM):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_cannot_be_caught_changes_nothing():
    """L33: asking for a signal that cannot be handled is an error that leaves the others as they were."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((OSError, ValueError)):
        with stop_on_signals(WorkerContext(), signal.SIGTERM, signal.SIGKILL):
            raise AssertionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_then_is_called_after_the_target_was_told():
    """L33: `then` sees each signal, after the stop."""
    seen = []
    token = Shutdown()
    with stop_on_signals(token, signal.SIGUSR1, then=lambda number, _: seen.append((number, token.reason))):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
    assert seen == [(signal.SIGUSR1, "signal SIGUSR1")] * 2


def test_one_token_for_many(program, anyio_backend):
    """L33: a Shutdown token hears signals for any number of contexts, escalation included."""
    done = program(
        PROGRAM
        + """
from workerctx.lifecycle import Shutdown
token = Shutdown()
contexts = [WorkerContext(name, shutdown=token, grace=60) for name in "abc"]

async def host(ctx):
    async with ctx:
        ctx.spawn(anyio.sleep_forever)
        await ctx

async def main():
    async with anyio.create_task_group() as tasks:
        for ctx in contexts:
            tasks.start_soon(host, ctx)
        kill(signal.SIGTERM, times=2)

with stop_on_signals(token):
    anyio.run(main, backend=BACKEND)
print(*(ctx.outcome.value for ctx in contexts))
""",
        anyio_backend,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cancelled"] * 3


def test_a_main_thread_that_comes_late_to_a_signal(program):
    """L26, L33: a signal during a call into C is acted upon by a thread, and the late handler does not do it again."""
    done = program(
        PROGRAM
        + """
import hashlib
from workerctx.lifecycle.overheard import Ear

stops = []
then = []

class Target:
    def stop(self, reason=None, *, grace=None):
        stops.append((reason, threading.get_ident() == main_thread))

def block():
    kill(signal.SIGTERM)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)

reader, writer = __import__("socket").socketpair()
writer.setblocking(False)
signal.set_wakeup_fd(writer.fileno())
with stop_on_signals(Target(), then=lambda number, _: then.append(number)):
    with Ear(0.01):
        block()
        assert stops == [("signal SIGTERM", False)], stops
        assert then == [signal.SIGTERM], then
        block()
        assert stops[1:] == [("signal SIGTERM again", False)], stops
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        assert stops[2:] == [("signal SIGINT again", True)], stops
    os.kill(os.getpid(), signal.SIGINT)
    assert len(stops) == len(then) == 4, stops
assert reader.recv(64) == bytes([signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT])
assert signal.set_wakeup_fd(-1) == writer.fileno()
with Ear():
    signal.set_wakeup_fd(writer.fileno())
assert signal.set_wakeup_fd(-1) == writer.fileno()
""",
        "asyncio",
    )
    assert done.returncode == 0, done.stderr
