"""Who hears of what, in which order, and what a listener may do."""

import asyncio
import functools
import itertools
import logging
import math
import threading
from unittest.mock import patch

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import InvalidTransition, SelfAwait
from workerctx.lifecycle import (
    Custom,
    Error,
    Event,
    Exit,
    HeartBeat,
    Idle,
    ListenerError,
    Outcome,
    Pause,
    Resume,
    Start,
    Stop,
    Success,
    WorkerContext,
    WorkerState,
    worker_event,
)
from workerctx.testing.polling import wait_until


async def ok():
    await anyio.lowlevel.checkpoint()


async def fail():
    raise ValueError("broken")


async def test_each_transition_is_heard_once_in_order(record, names):
    """L7: every transition is one event, in order, with sequence, time and reason."""
    ctx = WorkerContext()
    heard = record(ctx)
    async with ctx:
        ctx.pause("lunch")
        ctx.resume()
        ctx.pause()
        ctx.stop("deploy")
        ctx.stop("again")
    assert names(heard) == ["Start", "Pause", "Resume", "Pause", "Stop", "Exit"]
    assert [event.sequence for event in heard] == [1, 2, 3, 4, 5, 6]
    assert all(earlier.at <= later.at for earlier, later in itertools.pairwise(heard))
    assert [heard[1].reason, heard[3].reason, heard[4].reason, heard[5].reason] == ["lunch", None, "deploy", "deploy"]


async def test_the_state_is_new_and_nothing_is_locked(in_thread):
    """L7: a listener sees the new state, and may call every method, in any thread, without a deadlock."""
    seen = []

    def listener(ctx, event):
        seen.append((type(event), ctx.state, ctx.outcome))
        ctx.listen(lambda *_: None).disconnect()
        ctx.statistics()

    ctx = WorkerContext()
    ctx.listen(listener)
    async with ctx:
        ctx.pause()
        ctx.resume()
    assert seen == [
        (Start, WorkerState.RUNNING, None),
        (Pause, WorkerState.PAUSED, None),
        (Resume, WorkerState.RUNNING, None),
        (Stop, WorkerState.STOPPED, None),
        (Exit, WorkerState.STOPPED, Outcome.CLEAN),
    ]


async def test_a_transition_inside_a_listener_is_queued():
    """L8: all listeners hear one event before any hears the next; a nested transition comes after."""
    order = []

    def first(ctx, event):
        order.append(("first", type(event)))
        if isinstance(event, Start):
            ctx.pause()
            assert ctx.is_paused
            order.append("paused")

    def second(ctx, event):
        order.append(("second", type(event)))
        if isinstance(event, Pause):
            ctx.stop()

    ctx = WorkerContext()
    ctx.listen(first)
    ctx.listen(second)
    ctx.start()
    assert order == [
        ("first", Start),
        "paused",
        ("second", Start),
        ("first", Pause),
        ("second", Pause),
        ("first", Stop),
        ("second", Stop),
    ]
    await ctx


async def test_a_stop_inside_every_kind_of_listener():
    """L8: stop() may be called while hearing of any event."""
    for event_type in (Start, Pause, Resume, Stop, Exit, Success, Error, Custom):
        ctx = WorkerContext()
        ctx.listen(lambda ctx, _: ctx.stop("heard enough"), event_type)
        async with ctx:
            for cause in (ctx.pause, ctx.resume, functools.partial(ctx.emit, "x")):
                if not ctx.is_stopped:
                    cause()
            for work in (ok, fail):
                await anyio.wait_all_tasks_blocked()
                if not ctx.is_stopped:
                    ctx.spawn(work)
        assert ctx.outcome is Outcome.CLEAN


async def test_order_of_listeners():
    """L9: wrapped listeners come first, the newest in front; listen() appends; all are plain functions of two."""
    order = []
    ctx = WorkerContext()
    ctx.listen(lambda *_: order.append("listen 1"))
    ctx.wrap_listener(lambda *_: order.append("wrap 1"))
    ctx.listen(lambda *_: order.append("listen 2"))
    ctx.wrap_listener(lambda *_: order.append("wrap 2"))
    ctx.start()
    assert order == ["wrap 2", "wrap 1", "listen 1", "listen 2"]
    ctx.stop()
    await ctx


async def test_handles_disconnect_and_hold_strong_references():
    """L9: lambdas and bound methods of temporaries go on hearing until their handle disconnects them."""
    heard = []

    class Hearer:
        def hear(self, ctx, event):
            heard.append("method")

    ctx = WorkerContext()
    handles = [ctx.listen(Hearer().hear), ctx.wrap_listener(lambda *_: heard.append("lambda"))]
    ctx.start()
    assert heard == ["lambda", "method"]
    for handle in handles:
        handle.disconnect()
        handle.disconnect()
    with ctx.listen(lambda *_: heard.append("with")):
        ctx.pause()
    ctx.resume()
    assert heard == ["lambda", "method", "with"]
    ctx.stop()
    await ctx


async def test_types_are_filtered(record, names):
    """L9: a listener hears only the types it asked for, subclasses included."""

    class Progress(Custom):
        pass

    ctx = WorkerContext()
    few, customs, everything = record(ctx, Start, Exit), record(ctx, Custom), record(ctx)
    async with ctx:
        ctx.emit(Progress(value=1))
    assert names(few) == ["Start", "Exit"]
    assert names(customs) == ["Progress"]
    assert names(everything) == ["Start", "Progress", "Stop", "Exit"]


async def test_success_and_error_once_per_task(record, names):
    """L9: each task that ends by itself is one Success or Error, with name and seconds; a cancelled one is neither."""
    async with WorkerContext() as ctx:
        heard = record(ctx, Success, Error)
        await ctx.track(ok())
        with pytest.raises(ValueError):
            await ctx.track(fail())
        await ctx.spawn(ok, name="spawned")
        failing = ctx.spawn(fail, name="failing")
        with pytest.raises(ValueError):
            await failing
        cancelled = ctx.spawn(anyio.sleep_forever)
        cancelled.cancel()
    assert [(type(event), event.name) for event in heard] == [
        (Success, "ok"),
        (Error, "fail"),
        (Success, "spawned"),
        (Error, "failing"),
    ]
    assert all(0 <= event.seconds < 60 for event in heard)
    assert [event.as_error() is None for event in heard] == [True, False, True, False]
    assert {event.sequence for event in heard} == {1}


async def test_a_task_that_was_running_is_told_to_a_late_listener(record, names):
    """L9: a listener that comes while a task runs hears how it ends; the count has fallen by then."""
    counts = []
    async with WorkerContext() as ctx:
        release = anyio.Event()
        ctx.spawn(release.wait)
        await anyio.wait_all_tasks_blocked()
        heard = record(ctx, Success)
        ctx.listen(lambda ctx, _: counts.append(ctx.task_count), Success)
        release.set()
    assert names(heard) == ["Success"]
    assert counts == [0]


async def test_emit_makes_custom_events(record):
    """L9: emit() passes an Event as it is and wraps anything else as Custom."""
    async with WorkerContext() as ctx:
        heard = record(ctx)
        beat, idle, custom = HeartBeat(in_flight=2), Idle(), Custom(value=1)
        for value in (beat, idle, custom, {"a": 1}, None):
            ctx.emit(value)
        assert heard[:3] == [beat, idle, custom]
        assert [event.value for event in heard[3:]] == [{"a": 1}, None]
        assert heard[3].sequence == 1
        assert heard[0].as_error() is None


async def test_one_failure_is_nobody_elses(record, names, caplog):
    """L10: a listener's exception is logged and told as ListenerError; the others hear everything."""
    error = RuntimeError("bad listener")

    def bad(ctx, event):
        raise error

    ctx = WorkerContext()
    ctx.listen(bad, Start)
    heard = record(ctx)
    ctx.start()
    assert names(heard) == ["Start", "ListenerError"]
    told = heard[1]
    assert (told.listener, told.event, told.error, told.as_error()) == (bad, heard[0], error, error)
    (logged,) = caplog.records
    assert "bad" in logged.getMessage()
    assert logged.exc_info[1] is error
    ctx.stop()
    await ctx


async def test_listener_errors_cannot_recurse(caplog):
    """L10: a listener that fails on ListenerError too is only logged."""
    calls = []

    def bad(ctx, event):
        calls.append(type(event))
        raise RuntimeError

    ctx = WorkerContext()
    ctx.listen(bad)
    ctx.start()
    assert calls == [Start, ListenerError]
    assert len(caplog.records) == 2
    ctx.stop()
    await ctx


class Abrupt(BaseException):
    pass


async def test_a_base_exception_is_raised_when_all_have_heard(record, names):
    """L10: what is no Exception leaves the call that caused the event; state and the other listeners are right."""

    def abrupt(ctx, event):
        raise Abrupt

    ctx = WorkerContext()
    ctx.listen(abrupt, Start, Stop)
    heard = record(ctx)
    with pytest.raises(Abrupt):
        ctx.start()
    assert ctx.is_running
    with pytest.raises(Abrupt):
        ctx.stop("deploy")
    await ctx
    assert ctx.outcome is Outcome.CLEAN
    assert names(heard) == ["Start", "Stop", "Exit"]


async def test_a_base_exception_while_never_started(record, names):
    """L10: so it is when stop() finishes at once: Exit is told and waiters are released."""

    def abrupt(ctx, event):
        raise Abrupt

    ctx = WorkerContext()
    ctx.listen(abrupt)
    heard = record(ctx)
    with pytest.raises(Abrupt):
        ctx.stop()
    await ctx
    assert names(heard) == ["Stop", "Exit"]


async def test_a_base_exception_on_the_home_loop_fails_the_worker(in_thread):
    """L10: with nobody to be raised to, as after a call from a thread, it fails the worker."""

    def abrupt(ctx, event):
        raise Abrupt

    ctx = WorkerContext()
    ctx.start()
    ctx.listen(abrupt, Pause)
    await in_thread(ctx.pause)
    await ctx.wait_stopping()
    assert isinstance(ctx.failure, Abrupt)


async def test_a_base_exception_of_a_listener_does_not_save_the_children():
    """L10: a listener that breaks the parent's stop does not keep it from the children."""

    def abrupt(ctx, event):
        raise Abrupt

    with pytest.raises(Abrupt):
        async with WorkerContext() as ctx:
            children = [ctx.child(f"c{number}") for number in range(3)]
            for child in children:
                child.start()
                child.listen(abrupt, Stop)
            ctx.listen(abrupt, Stop)
            try:
                ctx.stop()
            finally:
                assert all(child.is_stopped for child in children)
    for child in children:
        await child


async def test_sync_listeners_run_inline_at_home(record):
    """L11: a call on the home loop has told its listeners when it returns."""
    async with WorkerContext() as ctx:
        heard = record(ctx)
        ctx.pause()
        assert len(heard) == 1


async def test_sync_listeners_are_posted_home(in_thread):
    """L11: a call from elsewhere tells them on the home loop, in order."""
    threads = []
    home = threading.get_ident()
    ctx = WorkerContext()
    ctx.start()
    ctx.listen(lambda _, event: threads.append((threading.get_ident(), type(event))))

    def elsewhere():
        ctx.pause()
        ctx.resume()
        ctx.stop()

    await in_thread(elsewhere)
    await ctx
    assert threads == [(home, Pause), (home, Resume), (home, Stop), (home, Exit)]


async def test_async_listeners_keep_order_and_delay_nobody(names):
    """L11: each async listener has its own ordered queue; a slow one holds up neither the others nor the worker."""
    release = anyio.Event()
    fast, slow, sync = [], [], []

    async def hear_fast(ctx, event):
        fast.append(event)

    async def hear_slow(ctx, event):
        await release.wait()
        await anyio.lowlevel.checkpoint()
        slow.append(event)

    ctx = WorkerContext()
    ctx.listen(hear_slow)
    ctx.listen(hear_fast)
    ctx.listen(lambda _, event: sync.append(event))
    async with ctx:
        ctx.pause()
        ctx.resume()
        await anyio.wait_all_tasks_blocked()
        assert names(sync) == names(fast) == ["Start", "Pause", "Resume"]
        assert slow == []
        ctx.stop()
        release.set()
    assert names(slow) == names(fast) == names(sync) == ["Start", "Pause", "Resume", "Stop", "Exit"]


async def test_async_listeners_are_drained_before_the_end():
    """L11: the context has not finished for its waiters until the async listeners have heard Exit."""
    order = []

    async def hear(ctx, event):
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        order.append(type(event))

    async def wait(ctx):
        await ctx
        order.append("end")

    async with anyio.create_task_group() as tasks:
        ctx = WorkerContext()
        ctx.listen(hear, Stop, Exit)
        tasks.start_soon(wait, ctx)
        async with ctx:
            pass
    assert order == [Stop, Exit, "end"]


async def test_a_failing_async_listener_is_isolated(record, names, caplog):
    """L11: an async listener that fails is reported and goes on hearing."""
    calls = []

    async def bad(ctx, event):
        calls.append(type(event))
        await anyio.lowlevel.checkpoint()
        if isinstance(event, (Start, Stop)):
            raise RuntimeError

    ctx = WorkerContext()
    ctx.listen(bad)
    heard = record(ctx, ListenerError)
    async with ctx:
        await anyio.wait_all_tasks_blocked()
    assert calls == [Start, ListenerError, Stop, Exit, ListenerError]
    assert names(heard) == ["ListenerError"] * 2
    assert len(caplog.records) == 2


async def test_a_stuck_async_listener_ends_with_the_deadline(virtual_time, caplog):
    """L26: an async listener that never comes back is cancelled at the deadline, and what it missed is reported."""

    async def stuck(ctx, event):
        await anyio.sleep_forever()

    ctx = WorkerContext("slow", grace=7)
    ctx.listen(stuck)
    async with ctx:
        virtual_time()
    assert 6.9 < virtual_time() < 7.5
    assert ctx.outcome is Outcome.CLEAN
    assert "worker 'slow' ended before its async listeners had taken 3 events" in caplog.messages


async def test_a_stuck_async_listener_has_a_moment_after_grace_zero(virtual_time):
    """L26: with the deadline passed, async listeners still hear the end, within a fixed moment."""
    heard = []

    async def hear(ctx, event):
        await anyio.sleep(0.05)
        heard.append(type(event))

    ctx = WorkerContext(grace=0)
    ctx.listen(hear, Stop, Exit)
    async with ctx:
        ctx.spawn(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        virtual_time()
    assert heard == [Stop, Exit]
    assert virtual_time() < 0.5


async def test_with_no_grace_limit_a_slow_listener_is_waited_for(virtual_time):
    """L26: grace None waits for async listeners as well."""
    heard = []

    async def hear(ctx, event):
        await anyio.sleep(1000)
        heard.append(type(event))

    ctx = WorkerContext(grace=None)
    ctx.listen(hear)
    async with ctx:
        virtual_time()
    assert heard == [Start, Stop, Exit]
    assert math.isclose(virtual_time(), 3000, abs_tol=1)


async def test_async_listeners_come_and_go_while_it_runs(names, in_thread):
    """L11: an async listener added later, here or in a thread, is served; a disconnected one gets what was queued."""
    heard = {"late": [], "thread": [], "gone": []}

    def hearer(name):
        async def hear(ctx, event):
            await anyio.lowlevel.checkpoint()
            heard[name].append(event)

        return hear

    async with WorkerContext() as ctx:
        ctx.listen(hearer("late"))
        gone = ctx.listen(hearer("gone"))
        await in_thread(lambda: ctx.listen(hearer("thread")))
        ctx.pause()
        gone.disconnect()
        ctx.resume()
    assert names(heard["late"]) == ["Pause", "Resume", "Stop", "Exit"]
    assert names(heard["thread"]) == ["Pause", "Resume", "Stop", "Exit"]
    assert names(heard["gone"]) == ["Pause"]


async def test_an_async_listener_that_comes_at_the_end_does_not_hang(caplog):
    """L11: one that is added while the last events are told cannot hold up the end."""

    async def nothing(ctx, event):
        raise AssertionError

    async def hear(ctx, event):
        await anyio.lowlevel.checkpoint()
        ctx.listen(nothing)

    ctx = WorkerContext(grace=None)
    ctx.listen(hear, Exit)
    async with ctx:
        pass
    assert ctx.is_finished
    with pytest.raises(InvalidTransition, match="ended"):
        ctx.listen(nothing)


async def test_listeners_added_and_removed_while_delivering(names):
    """L8: one that is added during a delivery hears the next event; one that is removed hears no more at once."""
    heard = []
    handles = {}

    def first(ctx, event):
        heard.append(("first", type(event)))
        if isinstance(event, Start):
            handles["second"].disconnect()
            ctx.listen(lambda _, event: heard.append(("added", type(event))))

    ctx = WorkerContext()
    ctx.listen(first)
    handles["second"] = ctx.listen(lambda *_: heard.append("second"))
    ctx.start()
    ctx.stop()
    await ctx
    assert heard == [("first", Start), ("first", Stop), ("added", Stop), ("first", Exit), ("added", Exit)]


async def test_async_functions_are_recognised(caplog):
    """L11: partials, bound methods and callable objects that are async are served as such."""
    heard = []

    class Callable:
        async def __call__(self, ctx, event):
            heard.append("call")

        async def method(self, ctx, event):
            heard.append("method")

    async def plain(word, ctx, event):
        heard.append(word)

    ctx = WorkerContext()
    for function in (functools.partial(plain, "partial"), Callable(), Callable().method):
        ctx.listen(function, Start)
    async with ctx:
        await anyio.wait_all_tasks_blocked()
    assert sorted(heard) == ["call", "method", "partial"]
    assert caplog.records == []


async def test_a_coroutine_from_a_plain_listener_is_reported(caplog, record, names):
    """L10: a lambda that returns a coroutine is told so instead of losing it."""
    ctx = WorkerContext()
    ctx.listen(lambda *_: ok(), Start)
    heard = record(ctx, ListenerError)
    ctx.start()
    assert names(heard) == ["ListenerError"]
    assert "async function" in str(heard[0].error)
    ctx.stop()
    await ctx


async def test_awaiting_the_context_from_its_listeners_and_tasks():
    """L11: awaiting the context from what it waits for raises instead of deadlocking."""
    raised = []

    async def wait(ctx, *_):
        with pytest.raises(SelfAwait, match=r"'w'.*for ever"):
            await ctx
        raised.append(1)

    async def deeper(ctx):
        await wait(ctx)

    ctx = WorkerContext("w", grace=None)
    ctx.listen(wait, Start, Exit)
    async with ctx:
        await ctx.track(wait(ctx))
        await ctx.track(deeper(ctx))
        await ctx.spawn(wait, ctx)
        ctx.spawn(wait, ctx)
    assert len(raised) == 6


async def test_unheard_events_are_not_built(monkeypatch):
    """L12: with nobody listening no event object is made; with a listener for one type, only that type."""
    built = []

    for event_type in (Start, Pause, Stop, Exit, Success, Error, Custom):
        original = event_type.__init__

        def counting(self, *args, _original=original, **kwargs):
            built.append(type(self))
            _original(self, *args, **kwargs)

        monkeypatch.setattr(event_type, "__init__", counting)

    async def life(ctx):
        async with ctx:
            ctx.pause()
            ctx.resume()
            ctx.emit("nobody hears")
            await ctx.track(ok())
            with pytest.raises(ValueError):
                await ctx.track(fail())

    await life(WorkerContext())
    assert built == []
    ctx = WorkerContext()
    ctx.listen(lambda *_: None, Pause)
    await life(ctx)
    assert built == [Pause]


async def test_events_are_values():
    """L7: an event cannot be changed, and knows when it was."""
    event = Custom(value=3)
    with pytest.raises(AttributeError):
        event.value = 4
    assert event.at > 0
    assert isinstance(event, Event)
    assert worker_event.name == "worker_event"


async def test_emit_after_the_end(record, names):
    """L9: a finished worker's sync listeners still hear what is emitted; nothing piles up for async ones."""

    async def hear(ctx, event):
        pass

    async with WorkerContext() as ctx:
        ctx.listen(hear)
        heard = record(ctx)
    ctx.emit("late")
    assert names(heard) == ["Stop", "Exit", "Custom"]
    assert all(listener.mailbox is None for listener in ctx._shell.outbox.listeners)


async def test_never_started_async_listeners_are_reported(caplog):
    """L6: async listeners of a worker that never had a task group cannot be told; that is logged."""
    caplog.set_level(logging.WARNING, "workerctx")

    async def hear(ctx, event):
        raise AssertionError

    ctx = WorkerContext("early")
    ctx.listen(hear)
    ctx.stop()
    assert "worker 'early' ended before its async listeners had taken 2 events" in caplog.messages


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_listener_that_awaits_what_was_cancelled_disturbs_nobody():
    """L10: a cancellation that no scope asked for is a failure of the listener, which hears on."""
    heard = []

    async def listener(ctx, event):
        heard.append(type(event))
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    failures = []
    async with WorkerContext("web") as ctx:
        ctx.listen(listener, Pause, Resume)
        ctx.listen(lambda _, event: failures.append(event.error), ListenerError)
        ctx.pause()
        ctx.resume()
        await wait_until(lambda: len(failures) == 2)
        assert ctx.is_running
    assert ctx.outcome is Outcome.CLEAN
    assert heard == [Pause, Resume]
    assert "no scope asked for" in str(failures[0])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_spawn_that_cannot_be_is_not_counted():
    """L18: where no task can be made, as in a bare callback of asyncio, nothing is left for a drain to wait for."""
    refused = []

    async def work(): ...

    def spawn(ctx, event):
        with patch.object(ctx._shell.host.work, "create_task", side_effect=RuntimeError("no task here")):
            try:
                ctx.spawn(work)
            except RuntimeError as exc:
                refused.append(exc)

    with anyio.fail_after(10):
        async with WorkerContext("web", grace=None) as ctx:
            ctx.listen(spawn, Pause)
            ctx.pause()
            assert ctx.task_count == 0
            ctx.resume()
    assert len(refused) == 1
