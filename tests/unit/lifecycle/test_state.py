"""A worker's states, and the facts that can be polled."""

import itertools
import threading

import anyio
import pytest

from workerctx.errors import InvalidTransition, NotAccepting, WorkerFailed
from workerctx.lifecycle import TRANSITIONS, Operation, Outcome, Tracked, WorkerContext, WorkerState

OPERATIONS = {
    Operation.START: WorkerContext.start,
    Operation.PAUSE: WorkerContext.pause,
    Operation.RESUME: WorkerContext.resume,
    Operation.STOP: WorkerContext.stop,
}


def reach(state):
    """A new, unhosted context in this state."""
    ctx = WorkerContext("billing")
    if state is not WorkerState.PENDING:
        ctx.start()
    if state is WorkerState.PAUSED:
        ctx.pause()
    if state is WorkerState.STOPPED:
        ctx.stop()
    return ctx


def test_there_are_four_states_with_lower_case_names():
    """L1: the public states are pending, running, paused and stopped."""
    assert [state.value for state in WorkerState] == ["pending", "running", "paused", "stopped"]


@pytest.mark.parametrize(("state", "operation"), list(itertools.product(WorkerState, Operation)))
async def test_every_operation_in_every_state(state, operation):
    """L1: an operation does what the published table says, or is refused and changes nothing."""
    ctx = reach(state)
    if (state, operation) in TRANSITIONS:
        OPERATIONS[operation](ctx)
        assert ctx.state is TRANSITIONS[state, operation]
    elif operation is Operation.STOP:
        assert ctx.stop() is False
        assert ctx.state is WorkerState.STOPPED
    else:
        before = ctx.statistics().reason, ctx.outcome, ctx.state
        with pytest.raises(InvalidTransition) as refused:
            OPERATIONS[operation](ctx)
        assert (ctx.statistics().reason, ctx.outcome, ctx.state) == before
        error = refused.value
        assert (error.state, error.operation) == (state.value, operation.value)
        for part in ("billing", operation.value, state.value, error.remedy):
            assert part in str(error)
    ctx.stop()
    await ctx


async def test_remedies_are_of_use():
    """L1: a refusal says what would help."""
    assert "start it first" in refusal(reach(WorkerState.PENDING).pause)
    running = reach(WorkerState.RUNNING)
    assert "runs already" in refusal(running.start)
    running.pause()
    assert "resume()" in refusal(running.pause)
    running.stop()
    assert "make a new one" in refusal(running.resume)
    await running


def refusal(operation):
    with pytest.raises(InvalidTransition) as refused:
        operation()
    return str(refused.value)


async def test_stopped_is_terminal():
    """L2: nothing brings a stopped context back, finished or not."""
    ctx = reach(WorkerState.STOPPED)
    for again in (ctx.start, ctx.pause, ctx.resume):
        with pytest.raises(InvalidTransition):
            again()
    await ctx
    with pytest.raises(InvalidTransition, match="make a new one"):
        await ctx.__aenter__()
    assert ctx.is_stopped
    assert ctx.is_finished


async def test_stop_drain_and_finish_are_distinct():
    """L3: stop asked, drained and finished are seen one after the other."""
    release = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with WorkerContext() as ctx:
            assert not ctx.is_stopped
            ctx.spawn(release.wait)
            tasks.start_soon(release_when, ctx, release)
            ctx.stop()
            assert (ctx.is_stopped, ctx.is_shutting_down) == (True, True)
            assert (ctx.has_pending_tasks, ctx.is_finished, ctx.outcome) == (True, False, None)
        assert (ctx.has_pending_tasks, ctx.is_finished) == (False, True)
    assert ctx.outcome is Outcome.CLEAN


async def release_when(ctx, release):
    await ctx.wait_stopping()
    assert not ctx.is_finished
    release.set()


@pytest.mark.parametrize("how", [Outcome.CLEAN, Outcome.FAILED, Outcome.CANCELLED, Outcome.NEVER_STARTED])
async def test_every_outcome(how):
    """L3: outcome is one of clean, failed, cancelled and never started."""
    ctx = WorkerContext(grace=0 if how is Outcome.CANCELLED else 5)
    if how is Outcome.NEVER_STARTED:
        ctx.stop()
    elif how is Outcome.FAILED:
        with pytest.raises(WorkerFailed):
            async with ctx:
                ctx.fail(OSError("gone"))
    else:
        async with ctx:
            if how is Outcome.CANCELLED:
                ctx.spawn(anyio.sleep_forever)
    assert ctx.outcome is how


async def test_paused_is_not_shutting_down():
    """L3: an idle paused worker stays alive, is not shutting down, and resumes."""
    async with WorkerContext() as ctx:
        ctx.pause("maintenance")
        await anyio.wait_all_tasks_blocked()
        assert ctx.is_paused
        assert not ctx.is_shutting_down
        assert ctx.is_alive
        ctx.resume()
        assert ctx.is_running
        assert await ctx.spawn(anyio.sleep, 0) is None


async def test_resume_lets_waiting_work_go_on_by_itself():
    """L3: a paused worker takes its waiting work up at resume without another nudge."""
    async with WorkerContext() as ctx:
        ctx.pause()
        done = ctx.spawn(anyio.lowlevel.checkpoint)
        await anyio.wait_all_tasks_blocked()
        assert not done.done
        ctx.resume()
        await done


async def test_resume_after_stop_is_refused():
    """L4: a late resume never overwrites a stop."""
    ctx = reach(WorkerState.PAUSED)
    assert ctx.stop("deploy")
    with pytest.raises(InvalidTransition):
        ctx.resume()
    assert (ctx.state, ctx.reason) == (WorkerState.STOPPED, "deploy")
    await ctx


@pytest.mark.parametrize("operation", [Operation.START, Operation.PAUSE, Operation.RESUME, Operation.STOP])
async def test_racing_callers_have_one_winner(operation, in_thread):
    """L4: of many threads that race for an edge exactly one wins it."""
    states = {Operation.PAUSE: WorkerState.RUNNING, Operation.RESUME: WorkerState.PAUSED}
    for _ in range(20):
        ctx = reach(states.get(operation, WorkerState.PENDING))
        won = []
        together = threading.Barrier(8)

        def race(ctx=ctx, won=won, together=together):
            together.wait()
            try:
                if OPERATIONS[operation](ctx) is not False:
                    won.append(1)
            except InvalidTransition:
                pass

        def all_race(race=race):
            threads = [threading.Thread(target=race) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        await in_thread(all_race)
        assert len(won) == 1
        ctx.stop()
        await ctx


async def test_stop_is_idempotent_and_the_first_reason_wins():
    """L5: stop is legal again and again; one call did it, and its reason stays."""
    ctx = reach(WorkerState.RUNNING)
    assert ctx.stop("deploy") is True
    assert ctx.stop("other") is False
    assert ctx.reason == "deploy"
    await ctx
    assert ctx.stop("late") is False
    assert ctx.reason == "deploy"


@pytest.mark.parametrize("state", [WorkerState.PENDING, WorkerState.RUNNING, WorkerState.PAUSED])
async def test_stop_is_legal_in_every_state(state):
    """L5: stop returns at once from every state, True for the one that stopped."""
    ctx = reach(state)
    assert ctx.stop() is True
    assert ctx.is_stopped
    await ctx


async def test_stop_before_start(record, names):
    """L6: a worker stopped before its start is finished at once, never started, and told of no Start."""
    ctx = WorkerContext("early")
    heard = record(ctx)
    assert ctx.stop("changed my mind")
    assert (ctx.outcome, ctx.is_finished) == (Outcome.NEVER_STARTED, True)
    with pytest.raises(InvalidTransition):
        ctx.start()
    await ctx
    await ctx.wait_started()
    await ctx.wait_stopping()
    assert names(heard) == ["Stop", "Exit"]
    assert heard[1].outcome is Outcome.NEVER_STARTED


async def test_waiters_of_a_worker_that_never_starts_return():
    """L6: whoever waited before the stop returns too."""
    ctx = WorkerContext()
    async with anyio.create_task_group() as tasks:
        for wait in (ctx.__await__, ctx.wait_started, ctx.wait_stopping):
            tasks.start_soon(_await, wait)
        await anyio.wait_all_tasks_blocked()
        ctx.stop()


async def _await(make):
    made = make()
    if hasattr(made, "__await__"):
        await made
    else:
        await _Wrapped(made)


class _Wrapped:
    def __init__(self, steps):
        self.steps = steps

    def __await__(self):
        return self.steps


async def test_what_listeners_learn_can_be_polled(record):
    """L13: state, counts, outcome, reason, failure and sequence of what happened are there for those who look."""
    async with WorkerContext("polled", service="mail", max_tasks=3) as ctx:
        heard = record(ctx)
        ctx.pause("lunch")
        assert (ctx.state, ctx.reason) == (WorkerState.PAUSED, heard[-1].reason)
        ctx.resume()
        assert (ctx.state, ctx.reason) == (WorkerState.RUNNING, None)
        task = ctx.spawn(anyio.sleep_forever, name="nap")
        assert (ctx.task_count, ctx.has_pending_tasks) == (1, True)
        assert [running.name for running in ctx.running] == ["nap"]
        assert ctx.running[0].age >= 0
        figures = ctx.statistics()
        assert (figures.name, figures.state, figures.tasks, figures.accepted) == ("polled", ctx.state, 1, 1)
        task.cancel()
        ctx.stop("enough")
    assert (heard[-1].outcome, heard[-1].reason) == (ctx.outcome, ctx.reason)
    assert ctx.service == "mail"
    assert ctx.running == ()


async def test_from_request_asks_for_the_type():
    """L1: a handler finds its worker in the request's typed data."""
    ctx = WorkerContext()

    class Data:
        @staticmethod
        def require(kind):
            assert kind is WorkerContext
            return ctx

    class Request:
        data = Data

    assert WorkerContext.from_request(Request) is ctx


@pytest.mark.parametrize("grace", [-1.5, -0.001, float("nan")])
def test_a_bad_grace_is_refused(grace):
    """L26: a grace that is negative or no number is refused before anything happens."""
    with pytest.raises(ValueError, match="grace"):
        WorkerContext(grace=grace)
    ctx = WorkerContext()
    with pytest.raises(ValueError, match="grace"):
        ctx.stop(grace=grace)
    assert ctx.is_pending


def test_bad_max_tasks_are_refused():
    """L17: a limit below one is refused."""
    with pytest.raises(ValueError, match="max_tasks"):
        WorkerContext(max_tasks=0)


async def test_a_stopping_worker_says_what_it_refuses():
    """L22: the refusal names the worker, its state, its reason and the work."""

    async def parcel():
        raise AssertionError

    ctx = reach(WorkerState.RUNNING)
    ctx.stop("deploy")
    with pytest.raises(NotAccepting) as refused:
        ctx.track(parcel())
    for part in ("billing", "stopping", "deploy", "parcel", "another worker"):
        assert part in str(refused.value)
    await ctx
    assert isinstance(ctx, WorkerContext)
    assert Tracked.__doc__
