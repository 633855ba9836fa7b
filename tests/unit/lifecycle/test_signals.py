"""The process-wide blinker signals."""

import gc

import pytest

from workerctx.lifecycle import (
    Custom,
    ListenerError,
    WorkerContext,
    worker_event,
    worker_exited,
    worker_paused,
    worker_resumed,
    worker_started,
    worker_stopped,
)

SIGNALS = {
    "started": worker_started,
    "paused": worker_paused,
    "resumed": worker_resumed,
    "stopped": worker_stopped,
    "exited": worker_exited,
}


@pytest.fixture(autouse=True)
def nobody_left():
    """No receiver survives its test."""
    yield
    for signal in (*SIGNALS.values(), worker_event):
        signal.receivers.clear()
        signal._by_receiver.clear()
        signal._by_sender.clear()


async def test_every_context_is_heard(names):
    """L9: receivers get (sender, event=) from every context, transitions on their own signal, all on worker_event."""
    by_signal, everything = [], []
    receivers = {}
    for name, signal in SIGNALS.items():
        receivers[name] = lambda sender, event, name=name: by_signal.append((sender.name, name, type(event).__name__))
        signal.connect(receivers[name])

    @worker_event.connect
    def hear(sender, event):
        everything.append((sender.name, type(event).__name__))

    for name in ("a", "b"):
        async with WorkerContext(name) as ctx:
            ctx.pause()
            ctx.resume()
            ctx.emit(1)
    for name in ("a", "b"):
        told = ["Start", "Pause", "Resume", "Stop", "Exit"]
        assert [event for sender, _, event in by_signal if sender == name] == told
        assert [event for sender, event in everything if sender == name] == [*told[:3], "Custom", *told[3:]]
    assert [signal for _, signal, _ in by_signal[:5]] == list(SIGNALS)


async def test_receivers_per_sender():
    """L9: a receiver may ask for one context only."""
    heard = []
    one, other = WorkerContext("one"), WorkerContext("other")

    @worker_started.connect_via(one)
    def hear(sender, event):
        heard.append(sender.name)

    for ctx in (other, one):
        async with ctx:
            pass
    assert heard == ["one"]


async def test_weak_receivers_vanish():
    """L9: blinker keeps receivers weakly by its own rules; a vanished one is no error."""
    heard = []

    def connect():
        def hear(sender, event):
            heard.append(event)

        worker_event.connect(hear)

    connect()
    gc.collect()
    async with WorkerContext() as ctx:
        ctx.emit("nobody")
    assert heard == []


async def test_a_raising_receiver_starves_nobody(record, names, caplog):
    """L10: a receiver's exception is logged, reported as ListenerError, and the other receivers are called."""
    heard = []

    def bad(sender, event):
        if not isinstance(event, ListenerError):
            raise RuntimeError("bad receiver")

    def good(sender, event):
        heard.append(event)

    for receiver in (bad, good):
        worker_event.connect(receiver)
    ctx = WorkerContext()
    ctx.start()
    ctx.stop()
    await ctx
    assert sorted(names(heard)) == ["Exit", "ListenerError", "ListenerError", "ListenerError", "Start", "Stop"]
    assert len(caplog.records) == 3
    assert next(event for event in heard if isinstance(event, ListenerError)).listener is bad


async def test_an_async_receiver_is_reported(record, caplog):
    """L9: a receiver cannot be async; its coroutine is closed and the report says what to do."""

    async def hear(sender, event):
        raise AssertionError

    worker_started.connect(hear)
    ctx = WorkerContext()
    errors = record(ctx, ListenerError)
    ctx.start()
    (told,) = errors
    assert "ctx.listen()" in str(told.error)
    ctx.stop()
    await ctx


async def test_muted_signals_are_mute():
    """L9: blinker's muted() is honoured."""
    heard = []

    def hear(sender, event):
        heard.append(type(event).__name__)

    worker_event.connect(hear)
    async with WorkerContext() as ctx:
        with worker_event.muted():
            ctx.emit("unheard")
            ctx.pause()
        ctx.resume()
        ctx.emit(Custom(value=1))
    assert heard == ["Start", "Resume", "Custom", "Stop", "Exit"]


async def test_listeners_come_before_receivers():
    """L9: a context's own listeners hear an event before the process-wide receivers."""
    order = []

    def hear(sender, event):
        order.append("receiver")

    worker_started.connect(hear)
    ctx = WorkerContext()
    ctx.listen(lambda *_: order.append("listener"))
    ctx.start()
    assert order == ["listener", "receiver"]
    ctx.stop()
    await ctx
