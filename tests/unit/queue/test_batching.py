"""Group commit: many callers, one transaction, and nobody stranded by another's cancellation."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence

import anyio
import pytest

from workerctx.errors import StoreClosed, StoreUnavailable
from workerctx.queue import batching
from workerctx.queue.batching import Batcher
from workerctx.queue.hand import Call


class Ledger:
    """An engine that applies functions to a list and can be held up."""

    def __init__(self) -> None:
        self.entries: list[object] = []
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.interrupted = threading.Event()
        self.closed = False

    def perform(self, calls: Sequence[Call]) -> None:
        self.entered.set()
        self.gate.wait(10)
        self.batches.append(len(calls))
        for call in calls:
            try:
                call.result = call.operation(self.entries)
            except ValueError as exc:
                call.error = exc

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
async def batcher(ledger):
    batcher = Batcher(lambda: ledger, "test-batcher")
    await anyio.to_thread.run_sync(batcher.start)
    yield batcher
    ledger.gate.set()
    await anyio.to_thread.run_sync(batcher.close)


def _append(value):
    def append(entries):
        if value is None:
            raise ValueError("bad entry")
        entries.append(value)
        return value

    return append


async def _held(ledger):
    """Wait until the thread is inside a batch."""
    await anyio.to_thread.run_sync(ledger.entered.wait, 10)


async def test_calls_that_pile_up_share_a_batch(batcher, ledger):
    """What comes while a batch is being written goes into the next one, all of it."""
    ledger.gate.clear()
    results = []

    async def call(value):
        results.append(await batcher.call(_append(value)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, 0)
        await _held(ledger)
        for value in range(1, 21):
            tasks.start_soon(call, value)
        await anyio.wait_all_tasks_blocked()
        ledger.gate.set()
    assert sorted(results) == list(range(21))
    assert ledger.batches == [1, 20]


async def test_a_failing_call_fails_alone(batcher, ledger):
    """An operation that raises does so for its own caller only."""
    outcomes = {}

    async def call(value):
        try:
            outcomes[value] = await batcher.call(_append(value))
        except ValueError as exc:
            outcomes[value] = exc

    async with anyio.create_task_group() as tasks:
        for value in (1, None, 2):
            tasks.start_soon(call, value)
    assert isinstance(outcomes[None], ValueError)
    assert sorted(ledger.entries) == [1, 2]


async def test_an_engine_that_fails_fails_every_call(batcher, ledger):
    """When the commit fails, nobody is told that his write happened."""

    def explode(calls):
        raise StoreUnavailable("no disk")

    ledger.perform = explode
    with pytest.raises(StoreUnavailable, match="no disk"):
        await batcher.call(_append(1))


async def test_a_connection_that_failed_is_opened_again():
    """W4: after a failure the next call gets a fresh connection, or the reason why there is none yet."""
    first, second = Ledger(), Ledger()
    opened = iter([first, StoreUnavailable("still away"), second])

    def open_next():
        engine = next(opened)
        if isinstance(engine, Exception):
            raise engine
        return engine

    def explode(calls):
        raise StoreUnavailable("the disk is gone")

    batcher = Batcher(open_next, "test-reopening")
    await anyio.to_thread.run_sync(batcher.start)
    first.perform = explode
    for reason in ("gone", "still away"):
        with pytest.raises(StoreUnavailable, match=reason):
            await batcher.call(_append(1))
    assert first.closed
    assert await batcher.call(_append(2)) == 2
    await anyio.to_thread.run_sync(batcher.close)
    assert second.entries == [2]


async def test_a_call_cancelled_before_it_was_taken_never_runs(batcher, ledger):
    """A waiting operation is withdrawn with its caller."""
    ledger.gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.call, _append("first"))
        await _held(ledger)
        with anyio.move_on_after(0):
            await batcher.call(_append("withdrawn"))
        ledger.gate.set()
    await batcher.call(_append("last"))
    assert ledger.entries == ["first", "last"]


def _undo(value):
    return lambda entries: entries.append(f"undo {value}")


async def test_a_call_cancelled_while_it_runs_is_undone(batcher, ledger):
    """An operation that was being performed when its caller was cancelled is undone when the caller is gone."""
    ledger.gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.call, _append("claimed"), _undo)
        await _held(ledger)
        tasks.cancel_scope.cancel()
        ledger.gate.set()
    assert ledger.entries == ["claimed", "undo claimed"]


async def test_a_caller_does_not_wait_for_a_store_that_hangs(batcher, ledger, monkeypatch):
    """W3: a cancelled caller is let go after a while; what it asked for is undone once the store comes back."""
    monkeypatch.setattr(batching, "SETTLING", 0.01)
    ledger.gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(batcher.call, _append("claimed"), _undo)
        await _held(ledger)
        tasks.cancel_scope.cancel()
    assert ledger.entries == []
    ledger.gate.set()
    while len(ledger.entries) < 2:
        await batcher.call(len)
    assert ledger.entries == ["claimed", "undo claimed"]


def _added(word):
    """An operation that adds a word, and the one that takes it away again."""
    return (lambda entries: entries.append(word) or word), (lambda word: lambda entries: entries.remove(word))


async def test_a_prepared_call_is_made_by_whoever_begins_it(batcher, ledger):
    """Nothing happens before; a thread begins it, once however often, and its owner gets what came of it."""
    prepared = batcher.prepare(*_added("word"))
    await batcher.call(len)
    assert ledger.entries == []
    for _ in range(3):
        await anyio.to_thread.run_sync(prepared.begin)
    await batcher.call(len)
    assert ledger.entries == ["word"]
    assert await prepared.result() == "word"
    prepared.drop()
    await batcher.call(len)
    assert ledger.entries == ["word"]


async def test_a_prepared_call_that_nobody_began_is_made_for_its_result(batcher, ledger):
    """Its owner need not know whether anybody has begun it."""
    assert await batcher.prepare(*_added("word")).result() == "word"
    assert ledger.entries == ["word"]


async def test_a_prepared_call_that_is_dropped_is_never_made(batcher, ledger):
    """A wake-up that comes too late begins nothing."""
    prepared = batcher.prepare(*_added("word"))
    prepared.drop()
    prepared.begin()
    await batcher.call(len)
    assert ledger.batches == [1]


@pytest.mark.parametrize("when", ["in the inbox", "under way", "done"])
async def test_a_prepared_call_that_was_begun_and_dropped_is_undone(batcher, ledger, when):
    """What it did does not last, wherever it is when it is dropped."""
    held = when != "done"
    if held:
        ledger.gate.clear()
    if when == "in the inbox":
        batcher.prepare(*_added("other")).begin()
        await anyio.to_thread.run_sync(ledger.entered.wait)
    prepared = batcher.prepare(*_added("word"))
    prepared.begin()
    if when == "under way":
        await anyio.to_thread.run_sync(ledger.entered.wait)
    if not held:
        await batcher.call(len)
        assert "word" in ledger.entries
    prepared.drop()
    ledger.gate.set()
    await batcher.call(len)  # behind the call
    await batcher.call(len)  # behind what undoes it
    assert "word" not in ledger.entries


async def test_the_owner_of_a_prepared_call_is_cancelled(batcher, ledger):
    """It is undone like any other call whose caller is gone."""
    ledger.gate.clear()
    prepared = batcher.prepare(*_added("word"))
    prepared.begin()
    await anyio.to_thread.run_sync(ledger.entered.wait)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prepared.result)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        ledger.gate.set()
    await batcher.call(len)
    assert ledger.entries == []


async def test_a_prepared_call_of_a_closed_batcher(batcher):
    """Beginning it is no error where nobody could be told; asking for the result is one."""
    prepared = batcher.prepare(*_added("word"))
    await anyio.to_thread.run_sync(batcher.close)
    prepared.begin()
    with pytest.raises(StoreClosed):
        await prepared.result()
    prepared.drop()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_strands_nobody(batcher, ledger):
    """A task that is cancelled by asyncio itself, in the middle of a batch, leaves the others their results."""
    ledger.gate.clear()
    leader = asyncio.create_task(batcher.call(_append("leader")))
    await _held(ledger)
    follower = asyncio.create_task(batcher.call(_append("follower")))
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    ledger.gate.set()
    assert await follower == "follower"


async def test_nothing_is_stranded_under_random_cancellation(batcher, ledger):
    """Of many calls, half of them cancelled at random, each either happened once, was undone, or never ran."""
    dice = random.Random(7)
    finished: list[int] = []

    async def call(value, patience):
        with anyio.move_on_after(patience):
            await batcher.call(_append(value), lambda got: lambda entries: entries.remove(got))
            finished.append(value)

    for start in range(0, 1000, 50):
        async with anyio.create_task_group() as tasks:
            for value in range(start, start + 50):
                tasks.start_soon(call, value, dice.choice([0, 0.0005, 5]))
    # Undoing is handed over like any other call; it has happened once what is handed over now has.
    for _ in range(3):
        await batcher.call(len)
    assert sorted(ledger.entries) == sorted(finished)


async def test_a_hung_store_is_given_up_and_replaced():
    """W3: a batch that hangs fails its lone caller, its connection is interrupted, and a fresh one takes over."""
    ledgers = [Ledger(), Ledger()]
    hung = ledgers[0]
    opened = iter(ledgers)
    batcher = Batcher(lambda: next(opened), "test-hung", hang_limit=1.0)
    await anyio.to_thread.run_sync(batcher.start)
    hung.gate.clear()
    with anyio.fail_after(8), pytest.raises(StoreUnavailable, match="within 1 s; whether the call was done is unknown"):
        await batcher.call(_append("hung"))
    assert hung.interrupted.is_set()
    assert await batcher.call(_append("fresh")) == "fresh"
    hung.gate.set()
    await anyio.to_thread.run_sync(batcher.close)
    assert ledgers[1].entries == ["fresh"]


class Slow(Ledger):
    """An engine whose call ends because it is interrupted, and before anybody hears of the interruption."""

    def __init__(self, end) -> None:
        super().__init__()
        self.gate.clear()
        self.end = end
        self.thread = None

    def perform(self, calls: Sequence[Call]) -> None:
        self.thread = threading.current_thread()
        self.gate.wait(10)
        for call in calls:
            call.result, call.error = None, None
        self.end()

    def interrupt(self) -> None:
        self.gate.set()
        self.thread.join(10)


def _break() -> None:
    raise StoreUnavailable("the connection broke")


@pytest.mark.parametrize("end", [_break, lambda: None], ids=["fails", "goes on"])
async def test_what_comes_of_a_call_that_was_given_up_does_not_count(end):
    """W3: whatever an interrupted batch ends with, its callers hear that it was given up, and that nobody knows."""
    ledgers = iter([Slow(end), Ledger()])
    batcher = Batcher(lambda: next(ledgers), "test-given-up", hang_limit=0.5)
    await anyio.to_thread.run_sync(batcher.start)
    with anyio.fail_after(8), pytest.raises(StoreUnavailable, match="whether the call was done is unknown"):
        await batcher.call(_append("hung"))
    await anyio.to_thread.run_sync(batcher.close)


async def test_a_closed_batcher_says_so(ledger):
    """Calls before opening and after closing are refused, and closing twice is harmless."""
    batcher = Batcher(lambda: ledger, "test-closed")
    with pytest.raises(StoreClosed, match="not open"):
        await batcher.call(_append(1))
    await anyio.to_thread.run_sync(batcher.start)
    await batcher.call(_append(1))
    await anyio.to_thread.run_sync(batcher.close)
    await anyio.to_thread.run_sync(batcher.close)
    assert ledger.closed
    with pytest.raises(StoreClosed):
        await batcher.call(_append(2))


async def test_an_engine_that_cannot_be_opened_says_why():
    """The error of opening reaches whoever opens."""

    def fail():
        raise StoreUnavailable("no such folder")

    with pytest.raises(StoreUnavailable, match="folder"):
        await anyio.to_thread.run_sync(Batcher(fail, "test-failing").start)
