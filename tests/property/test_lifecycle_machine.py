"""The state machine against a small model, every short history, and threads that race."""

import functools
import itertools
import sys
import threading
import time
from collections import Counter

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from workerctx.errors import InvalidTransition
from workerctx.lifecycle import TRANSITIONS, Machine, Operation, Outcome, WorkerContext, WorkerState, state
from workerctx.lifecycle.state import Change, Effect

STATES = {"start": "running", "pause": "paused", "resume": "running"}
ALLOWED = {("pending", "start"), ("running", "pause"), ("paused", "resume")}


class Model:
    """What a worker's life should be, in the fewest words."""

    def __init__(self):
        self.state, self.started, self.reason = "pending", False, None
        self.deadline, self.failure, self.outcome, self.sequence = None, None, None, 0

    def move(self, operation, reason=None):
        if (self.state, operation) not in ALLOWED:
            return False
        self.state, self.reason, self.sequence = STATES[operation], reason, self.sequence + 1
        self.started = True
        return True

    def stop(self, reason, deadline, failure):
        if self.state == "stopped":
            if self.outcome is None:
                self.deadline = min((d for d in (self.deadline, deadline) if d is not None), default=None)
                self.failure = self.failure or failure
            return False
        self.state, self.reason, self.deadline, self.failure = "stopped", reason, deadline, failure
        self.sequence += 1
        return True

    def finish(self, overdue):
        if self.state != "stopped" or self.outcome:
            return False
        clean = "cancelled" if overdue else "clean"
        self.outcome = "failed" if self.failure else clean if self.started else "never_started"
        self.sequence += 1
        return True


def facts(machine):
    now = machine.snapshot
    return (
        now.state.value,
        now.started,
        now.reason,
        now.deadline,
        now.failure,
        now.outcome and now.outcome.value,
        now.sequence,
    )


def expected(model):
    return (
        model.state,
        model.started,
        model.reason,
        model.deadline,
        model.failure,
        model.outcome,
        model.sequence,
    )


def moved(machine, operation, *args):
    before = facts(machine)
    try:
        step = getattr(machine, operation)(*args)
    except InvalidTransition as refused:
        assert facts(machine) == before
        assert refused.operation == operation
        return False
    assert step.effects == (Effect.ANNOUNCE, Effect.WAKE)
    return True


REASONS = st.none() | st.sampled_from(["deploy", "idle"])
DEADLINES = st.none() | st.floats(0, 100)


class MachineAgainstModel(RuleBasedStateMachine):
    """Any sequence of operations leaves the machine with the facts of the model."""

    snapshots = Bundle("snapshots")

    def __init__(self):
        super().__init__()
        self.machine, self.model, self.at = Machine("modelled"), Model(), 0.0

    def tick(self):
        self.at += 1.0
        return self.at

    @rule()
    def start(self):
        assert moved(self.machine, "start", self.tick()) is self.model.move("start")

    @rule(reason=REASONS)
    def pause(self, reason):
        assert moved(self.machine, "pause", self.tick(), reason) is self.model.move("pause", reason)

    @rule()
    def resume(self):
        assert moved(self.machine, "resume", self.tick()) is self.model.move("resume")

    @rule(reason=REASONS, deadline=DEADLINES, fails=st.booleans())
    def stop(self, reason, deadline, fails):
        failure = OSError() if fails else None
        started = self.model.started
        step = self.machine.stop(self.tick(), reason, deadline, failure)
        first = step.snapshot is not None and step.snapshot.change is Change.STOP
        assert first is self.model.stop(reason, deadline, failure)
        if first:
            assert (Effect.FINISH in step.effects) is not started
            assert (Effect.BOUND in step.effects) is started

    @rule(overdue=st.booleans())
    def finish(self, overdue):
        step = self.machine.finish(self.tick(), overdue=overdue)
        assert (step.snapshot is not None) is self.model.finish(overdue)

    @rule(target=snapshots)
    def look(self):
        return self.machine.snapshot, facts(self.machine)

    @rule(seen=snapshots)
    def a_snapshot_never_changes(self, seen):
        snapshot, then = seen
        assert (snapshot.state.value, snapshot.started, snapshot.reason) == then[:3]

    @invariant()
    def agree(self):
        assert facts(self.machine) == expected(self.model)
        assert self.machine.snapshot.at <= self.at


MachineAgainstModel.TestCase.settings = settings(max_examples=200, stateful_step_count=30)


class TestMachine(MachineAgainstModel.TestCase):
    """L1: the machine does what a model of twenty lines does, in any sequence of operations."""


MOVES = ["start", "pause", "resume", "stop", "fail", "finish"]
FAILURE = OSError()


def play(machine, model, move, at):
    match move:
        case "stop" | "fail":
            failure = FAILURE if move == "fail" else None
            step = machine.stop(at, move, at + 10, failure)
            first = step.snapshot is not None and step.snapshot.change is Change.STOP
            assert first is model.stop(move, at + 10, failure)
        case "finish":
            step = machine.finish(at)
            assert (step.snapshot is not None) is model.finish(overdue=False)
        case _:
            assert moved(machine, move, at) is model.move(move)


def test_every_history_up_to_length_six():
    """L1: all sequences of up to six operations give the model's facts, step by step."""
    histories = 0
    for length in range(1, 7):
        for moves in itertools.product(MOVES, repeat=length):
            machine, model = Machine("short"), Model()
            for at, move in enumerate(moves):
                play(machine, model, move, float(at))
            assert facts(machine) == expected(model), moves
            histories += 1
    assert histories == sum(6**length for length in range(1, 7))


def test_the_published_table_is_what_the_machine_does():
    """L1: the table has every legal transition, and stop from each state but the last."""
    table = {(state.value, operation.value): target.value for (state, operation), target in TRANSITIONS.items()}
    assert {key for key in table if key[1] != "stop"} == ALLOWED
    assert {key[0] for key in table if key[1] == "stop"} == {"pending", "running", "paused"}
    assert all(target == STATES.get(operation, "stopped") for (_, operation), target in table.items())
    assert {state for state, _ in TRANSITIONS} == set(WorkerState) - {WorkerState.STOPPED}
    assert {operation for _, operation in TRANSITIONS} == set(Operation)


@pytest.fixture
def tiny_switch_interval():
    """Make threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def race(*functions):
    together = threading.Barrier(len(functions))
    raised = []

    def run(function):
        together.wait()
        try:
            function()
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []


def test_threads_that_race_for_an_edge(tiny_switch_interval):
    """L4: in a storm of threads each transition has one winner, and nothing comes after a stop."""
    for _ in range(60):
        machine = Machine("stormy")
        machine.start(0.0)
        won = Counter()
        lock = threading.Lock()

        def toggle(machine=machine, won=won, lock=lock):
            mine = Counter()
            for _ in range(60):
                for operation in ("pause", "resume"):
                    try:
                        step = getattr(machine, operation)(1.0)
                    except InvalidTransition:
                        continue
                    mine[step.snapshot.sequence] += 1
            with lock:
                won.update(mine)

        def stop(machine=machine, won=won, lock=lock):
            for _ in range(200):
                machine.snapshot  # noqa: B018 - give the others time
            step = machine.stop(2.0, "enough", None)
            if step.snapshot is not None and step.snapshot.change is Change.STOP:
                with lock:
                    won[step.snapshot.sequence] += 1

        race(toggle, toggle, toggle, stop, stop)
        now = machine.snapshot
        assert now.state is WorkerState.STOPPED
        assert set(won) == set(range(2, now.sequence + 1))
        assert set(won.values()) == {1}


def change_threads_at_every_instruction(frame, event, _):
    """Trace a thread so that, inside the machine, another may run between any two instructions."""
    if frame.f_code.co_filename != state.__file__:
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        time.sleep(0)
    return change_threads_at_every_instruction


def test_threads_that_race_between_instructions():
    """L4: with a change of threads between any two instructions of the machine, a stop still has one winner."""
    for _ in range(25):
        machine = Machine("fine-grained")
        machine.start(0.0)
        won = []

        def contend(operation, machine=machine, won=won):
            sys.settrace(change_threads_at_every_instruction)
            try:
                for _ in range(3):
                    step = operation(1.0)
                    if step.snapshot is not None:
                        won.append(step.snapshot.sequence)
            except InvalidTransition:
                pass
            finally:
                sys.settrace(None)

        def stop(at, machine=machine):
            return machine.stop(at, "enough", None)

        race(*(functools.partial(contend, operation) for operation in (machine.pause, machine.pause, stop, stop)))
        now = machine.snapshot
        assert now.state is WorkerState.STOPPED
        assert sorted(won) == list(range(2, now.sequence + 1))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_listeners_hear_each_transition_once_and_in_order(tiny_switch_interval, backend):
    """L7: with many threads making transitions, every listener hears each exactly once, in order."""
    heard = {"sync": [], "async": []}
    ctx = WorkerContext("stormy", grace=None)
    ctx.listen(lambda _, event: heard["sync"].append(event))

    async def hear(ctx, event):
        await anyio.lowlevel.checkpoint()
        heard["async"].append(event)

    ctx.listen(hear)
    transitions = Counter()

    def toggle():
        for _ in range(100):
            for operation in (ctx.pause, ctx.resume):
                try:
                    operation()
                except InvalidTransition:
                    continue
                transitions[threading.get_ident()] += 1

    async def main():
        async with ctx:
            threads = [threading.Thread(target=toggle) for _ in range(4)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                await anyio.lowlevel.checkpoint()
            ctx.stop()

    anyio.run(main, backend=backend)
    total = sum(transitions.values()) + 3
    for name in ("sync", "async"):
        assert [event.sequence for event in heard[name]] == list(range(1, total + 1)), name
    kinds = [type(event).__name__ for event in heard["sync"]]
    assert kinds[0] == "Start"
    assert kinds[-2:] == ["Stop", "Exit"]
    assert all(one != other for one, other in itertools.pairwise(kinds))


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["track", "close", "run", "fail", "cancel", "pause", "resume", "drop"]), max_size=25))
def test_the_count_is_always_what_is_in(moves):
    """L18: whatever is tracked, run, failed, cancelled, closed and dropped, the count is that of a plain list."""

    async def work(error):
        await anyio.lowlevel.checkpoint()
        if error:
            raise ValueError

    async def main():
        ctx = WorkerContext()
        ctx.start()
        held, paused = [], False
        for move in moves:
            match move:
                case "track":
                    held.append(ctx.track(work(False)))
                case "pause" | "resume" if paused is (move == "resume"):
                    getattr(ctx, move)()
                    paused = not paused
                case "close" | "drop" if held:
                    held.pop().close()
                case "run" if held and not paused:
                    await held.pop(0)
                case "fail" if not paused:
                    with pytest.raises(ValueError):
                        await ctx.track(work(True))
                case "cancel":
                    with anyio.CancelScope() as scope:
                        scope.cancel()
                        await ctx.track(work(False))
            assert ctx.task_count == len(held)
        for tracked in held:
            tracked.close()
        ctx.stop()
        await ctx
        assert (ctx.task_count, ctx.outcome) == (0, Outcome.CLEAN)

    anyio.run(main)


def test_counting_under_threads_that_drop(tiny_switch_interval):
    """L18: tasks that finish at home while other threads drop theirs are all counted out, exactly once."""

    async def noop():
        pass

    async def main():
        ctx = WorkerContext()
        ctx.start()
        ours = 20_000
        held = [[ctx.track(noop()) for _ in range(5_000)] for _ in range(3)]

        def drop(mine):
            for tracked in mine:
                tracked.close()

        threads = [threading.Thread(target=drop, args=(mine,)) for mine in held]
        for thread in threads:
            thread.start()
        for _ in range(ours):
            await ctx.track(noop())
        while any(thread.is_alive() for thread in threads):
            await anyio.lowlevel.checkpoint()
        for thread in threads:
            thread.join()
        assert ctx.task_count == 0
        ctx.stop()
        await ctx
        assert ctx.statistics().accepted == ours + 15_000

    anyio.run(main)
