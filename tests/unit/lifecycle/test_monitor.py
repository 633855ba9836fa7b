"""Several workers under one monitor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import MonitorFailed, UnknownService, WorkerError
from workerctx.lifecycle import Monitor, Outcome, Restart, WorkerContext, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_contexts_run_together_and_stop_in_reverse_order() -> None:
    """Workers start in the order of adding and are stopped in the reverse order."""
    monitor = Monitor()
    seen: list[str] = []
    for name in ("a", "b", "c"):
        context = WorkerContext(name)
        context.listen(lambda ctx, event: seen.append(f"{ctx.name} {type(event).__name__}"))
        monitor.add(context)
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.run)
        with anyio.fail_after(5):
            for name in ("a", "b", "c"):
                while name not in monitor.statistics() or monitor.statistics()[name].state is not WorkerState.RUNNING:
                    await anyio.lowlevel.checkpoint()
        monitor.stop("enough")
    starts = [entry for entry in seen if entry.endswith("Start")]
    stops = [entry for entry in seen if entry.endswith("Stop")]
    assert starts == ["a Start", "b Start", "c Start"]
    assert stops == ["c Stop", "b Stop", "a Stop"]
    assert monitor.context("a").outcome is Outcome.CLEAN


async def test_one_failure_leaves_the_others_alive_and_all_failures_are_raised() -> None:
    """A worker that fails for good is reported at the end together with the others that failed."""
    monitor = Monitor()
    survivor = anyio.Event()

    async def first(ctx: WorkerContext) -> None:
        raise KeyError("first")

    async def second(ctx: WorkerContext) -> None:
        raise ValueError("second")

    async def third(ctx: WorkerContext) -> None:
        survivor.set()

    monitor.serve(first, name="first", restart=Restart.NEVER)
    monitor.serve(second, name="second", restart=Restart.NEVER)
    monitor.serve(third, name="third", restart=Restart.NEVER)
    with pytest.raises(MonitorFailed) as caught:
        await monitor.run()
    assert survivor.is_set()
    assert [name for name, _ in caught.value.failures] == ["first", "second"]
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_failing_service_is_restarted_as_a_new_worker() -> None:
    """L2: a restart is a new context, made by the factory; statistics count it."""
    monitor = Monitor(max_restarts=2)
    contexts: list[WorkerContext] = []

    async def flaky(ctx: WorkerContext) -> None:
        contexts.append(ctx)
        if len(contexts) < 3:
            raise OSError(f"try {len(contexts)}")

    monitor.serve(flaky, name="flaky")
    await monitor.run()
    assert len({id(context) for context in contexts}) == 3
    assert monitor.statistics()["flaky"].restarts == 2
    assert [str(error) for _, error in monitor.failures] == ["try 1", "try 2"]
    assert [context.outcome for context in contexts] == [Outcome.FAILED, Outcome.FAILED, Outcome.CLEAN]


async def test_too_many_restarts_fail_the_monitor_with_all_causes_and_stop_the_rest() -> None:
    """L2: the restart intensity is bounded; beyond it everything stops and every cause is told."""
    monitor = Monitor(max_restarts=2, within=60)

    async def broken(ctx: WorkerContext) -> None:
        raise OSError("broken")

    monitor.add(WorkerContext("steady"))
    monitor.serve(broken, name="broken")
    with pytest.raises(MonitorFailed) as caught:
        await monitor.run()
    assert [name for name, _ in caught.value.failures] == ["broken"] * 3
    assert monitor.context("steady").outcome is Outcome.CLEAN


async def test_restarts_of_long_ago_do_not_count() -> None:
    """L2: only the restarts within the stated time are bounded."""
    monitor = Monitor(max_restarts=1, within=1e-9)
    runs = 0

    async def flaky(ctx: WorkerContext) -> None:
        nonlocal runs
        runs += 1
        if runs < 5:
            raise OSError("again")

    monitor.serve(flaky, name="flaky")
    await monitor.run()
    assert monitor.statistics()["flaky"].restarts == 4


async def test_a_service_that_always_ends_at_once_is_given_up() -> None:
    """L2: restarts after clean ends are bounded too, and the failure says that nothing was raised."""
    monitor = Monitor(max_restarts=2, within=60)

    async def short(ctx: WorkerContext) -> None:
        return

    monitor.serve(short, name="short", restart=Restart.ALWAYS)
    with pytest.raises(MonitorFailed, match="'short' ended too often"):
        await monitor.run()
    assert monitor.statistics()["short"].restarts == 2


async def test_restart_always_makes_a_new_worker_after_a_clean_end() -> None:
    """Restart.ALWAYS runs again whatever the end was, until it is stopped by name."""
    monitor = Monitor(max_restarts=10)
    runs = 0

    async def short(ctx: WorkerContext) -> None:
        nonlocal runs
        runs += 1
        if runs == 4:
            monitor.stop_one("short")

    monitor.serve(short, name="short", restart=Restart.ALWAYS)
    await monitor.run()
    assert runs == 4


async def test_pause_resume_and_stop_one_by_name() -> None:
    """A single worker is paused, resumed and stopped by its name; an unknown name lists the known ones."""
    monitor = Monitor()
    monitor.add(WorkerContext("a"))
    monitor.add(WorkerContext("b"))
    with pytest.raises(UnknownService, match="has not started"):
        monitor.context("a")
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.run)
        while monitor.statistics()["b"].state is not WorkerState.RUNNING:
            await anyio.lowlevel.checkpoint()
        monitor.pause("a", "maintenance")
        assert monitor.context("a").is_paused
        assert monitor.context("b").is_running
        monitor.resume("a")
        assert monitor.stop_one("a")
        await monitor.context("a")
        assert monitor.context("b").is_running
        with pytest.raises(UnknownService, match=r"'c'.*a, b"):
            monitor.pause("c")
        monitor.stop()


async def test_all_workers_ended_means_the_monitor_returns_and_cannot_run_again() -> None:
    """The monitor ends with its last worker; a second run is refused with a sentence."""
    monitor = Monitor()

    async def done(ctx: WorkerContext) -> None:
        return

    monitor.serve(done, name="done")
    await monitor.run()
    with pytest.raises(WorkerError, match="ran already"):
        await monitor.run()


async def test_a_factory_that_fails_counts_as_a_failure() -> None:
    """A factory that raises is reported under the service's name."""
    monitor = Monitor()

    def factory() -> WorkerContext:
        raise RuntimeError("no socket")

    monitor.add(factory, name="made", restart=Restart.NEVER)
    with pytest.raises(MonitorFailed, match="no socket"):
        await monitor.run()


async def test_a_stop_before_run_starts_nothing() -> None:
    """A monitor that was stopped before it ran starts none of its services."""
    monitor = Monitor()
    monitor.add(WorkerContext("a"))
    monitor.stop()
    with anyio.fail_after(5):
        await monitor.run()
    assert monitor.statistics()["a"].state is None


async def test_a_later_stop_shortens_the_drain() -> None:
    """L26: a second stop can only shorten the one deadline of all workers."""
    monitor = Monitor(grace=None)

    async def stubborn(ctx: WorkerContext) -> None:
        ctx.spawn(anyio.sleep_forever)
        await ctx.wait_stopping()

    monitor.serve(stubborn, name="stubborn")
    async with anyio.create_task_group() as group:
        group.start_soon(monitor.run)
        while monitor.statistics()["stubborn"].state is not WorkerState.RUNNING:
            await anyio.lowlevel.checkpoint()
        assert monitor.stop("first")
        assert not monitor.stop("second", grace=0)
    assert monitor.context("stubborn").outcome is Outcome.CANCELLED
    assert monitor.context("stubborn").reason == "first"


def test_names_are_unique_and_instances_are_not_restarted() -> None:
    """A taken name and a restart policy for an instance are refused before anything runs."""
    monitor = Monitor()
    monitor.add(WorkerContext("a"))
    with pytest.raises(ValueError, match="already"):
        monitor.add(WorkerContext("a"))
    with pytest.raises(ValueError, match="factory"):
        monitor.add(WorkerContext("b"), restart=Restart.ALWAYS)
    with pytest.raises(ValueError, match="negative"):
        Monitor(max_restarts=-1)


_PROGRAM = """
    import os, signal, sys, time
    import anyio
    from workerctx.lifecycle import Monitor, WorkerContext

    async def serve(ctx):
        ctx.spawn(work)
        os.kill(os.getpid(), signal.SIGTERM)
        await ctx.wait_stopping()
        print("stopping:", ctx.reason, flush=True)

    async def work():
        {work}

    monitor = Monitor(grace={grace})
    monitor.serve(serve, name="service")
    before = signal.getsignal(signal.SIGTERM)
    anyio.run(lambda: monitor.run(signals=True, hard_exit=True, hard_limit=0.2), backend=BACKEND)
    assert signal.getsignal(signal.SIGTERM) is before
    print("outcome:", monitor.context("service").outcome.value, flush=True)
"""


@pytest.fixture
def run(program: Any) -> Callable[..., Any]:
    """Run a monitor in a process of its own, with this for its work."""
    return lambda backend, work, grace: program(_PROGRAM.format(work=work, grace=grace), backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_drains_and_restores_the_handlers(run: Any, backend: str) -> None:
    """L33: SIGTERM stops the monitor, work drains, the previous handler is back, the exit is clean."""
    done = run(backend, "await anyio.sleep(0.05)", 5)
    assert done.returncode == 0, done.stderr
    assert "stopping: signal SIGTERM" in done.stdout
    assert "outcome: clean" in done.stdout


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "work", ["time.sleep(60)", "\n        with anyio.CancelScope(shield=True): await anyio.sleep(60)"]
)
def test_hard_exit_ends_a_process_that_cannot_drain(run: Any, backend: str, work: str) -> None:
    """L26: a blocked loop or a task that ignores cancellation ends with status 70 and every stack on stderr."""
    done = run(backend, work, 0.1)
    assert done.returncode == 70, done.stderr
    assert "the deadline has passed" in done.stderr
    assert "Thread 0x" in done.stderr
    assert "in work" in done.stderr or "work" in done.stderr


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_service_that_awaits_what_was_cancelled_fails_alone() -> None:
    """L16: a cancellation that no scope asked for is a crash of that service, and leaves the others alone."""
    going_on: list[str | None] = []

    async def stray(ctx: WorkerContext) -> None:
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        await cancelled

    async def other(ctx: WorkerContext) -> None:
        await ctx.wait_stopping()
        going_on.append(ctx.reason)

    monitor = Monitor(max_restarts=1, delay=0)
    monitor.serve(other)
    monitor.serve(stray, name="stray")
    with anyio.fail_after(10), pytest.raises(MonitorFailed, match="no scope asked for"):
        await monitor.run()
    assert going_on == ["more than 1 restarts within 60 seconds"]
    assert [name for name, _ in monitor.failures] == ["stray", "stray"]
