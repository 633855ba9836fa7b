"""Cancelling every public async method at each of its checkpoints in turn."""

import asyncio

import anyio
import anyio.lowlevel
import pytest

from workerctx.lifecycle import Outcome, Shutdown, WorkerContext


class Stepwise:
    """Awaits a coroutine and calls a hook at each of its suspensions, with their number from 1."""

    def __init__(self, coroutine, hook):
        self.coroutine = coroutine
        self.hook = hook
        self.suspensions = 0

    def __await__(self):
        send, argument = self.coroutine.send, None
        while True:
            try:
                yielded = send(argument)
            except StopIteration as end:
                return end.value
            self.suspensions += 1
            self.hook(self.suspensions)
            try:
                argument = yield yielded
                send = self.coroutine.send
            except BaseException as exc:
                send, argument = self.coroutine.throw, exc


class World:
    """A context, what happens to it while the operation runs, and how its life is ended afterwards."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.token = Shutdown()
        self.ctx = WorkerContext("w", grace=None, max_tasks=1, shutdown=self.token)
        self.heard = []

    async def later(self, *calls):
        for call in calls:
            for _ in range(2):
                await anyio.lowlevel.checkpoint()
            call()

    async def finish(self):
        with anyio.CancelScope(shield=True), anyio.fail_after(10):
            self.ctx.stop(grace=0)
            await self.ctx


async def noop():
    await anyio.lowlevel.checkpoint()


async def await_it(world):
    world.ctx.start()
    world.tasks.start_soon(world.later, world.ctx.stop)
    await world.ctx


async def wait_started(world):
    world.tasks.start_soon(world.later, world.ctx.start)
    await world.ctx.wait_started()


async def wait_stopping(world):
    world.ctx.start()
    world.tasks.start_soon(world.later, world.ctx.stop)
    await world.ctx.wait_stopping()


async def sleep(world):
    world.ctx.start()
    await world.ctx.sleep(0.001)


async def hosting(world):
    async def hear(ctx, event):
        await anyio.lowlevel.checkpoint()
        world.heard.append(type(event).__name__)

    world.ctx.listen(hear)
    async with world.ctx:
        world.ctx.spawn(noop)
        await world.ctx.track(noop())


async def hosting_a_child(world):
    async with world.ctx, world.ctx.child("child") as child:
        await child.spawn(noop)


async def tracked_at_the_gate(world):
    world.tasks.start_soon(world.later, world.ctx.start)
    await world.ctx.track(noop())


async def awaiting_a_handle(world):
    async with world.ctx:
        handle = world.ctx.spawn(noop)
        await handle
        await handle


async def pulling(world):
    async def source():
        yield 1
        await anyio.lowlevel.checkpoint()
        yield 2

    generator = source()
    world.ctx.start()
    world.ctx.pause()
    tracked = world.ctx.track(noop())
    world.tasks.start_soon(world.later, world.ctx.resume, tracked.close, world.ctx.stop)
    try:
        async for _ in world.ctx.until_stopped(generator):
            pass
    finally:
        tracked.close()
        with anyio.CancelScope(shield=True):
            await generator.aclose()


async def bounded_scope(world):
    with anyio.CancelScope() as scope, world.ctx.cancel_at_deadline(scope):
        await noop()


async def awaiting_the_token(world):
    world.tasks.start_soon(world.later, world.token.set)
    await world.token


async def after(world):
    await world.token.after(noop())


OPERATIONS = [
    await_it,
    wait_started,
    wait_stopping,
    sleep,
    hosting,
    hosting_a_child,
    tracked_at_the_gate,
    awaiting_a_handle,
    pulling,
    bounded_scope,
    awaiting_the_token,
    after,
]


async def cancel_at(operation, number, residue, *, native):
    """Run an operation, cancel it at its checkpoint of that number; whether there was such a one."""
    async with anyio.create_task_group() as tasks:
        world = World(tasks)

        def hook(suspensions):
            if suspensions == number:
                if native:
                    asyncio.current_task().cancel()
                else:
                    scope.cancel()

        steps = Stepwise(operation(world), hook)

        async def run():
            await steps

        with anyio.CancelScope() as scope:
            if native:
                task = asyncio.create_task(run())
                await asyncio.wait([task])
                assert task.cancelled() or steps.suspensions < number or task.exception() is None
            else:
                await run()
        tasks.cancel_scope.cancel()
    await world.finish()
    assert residue(world.ctx) == {}, (operation.__name__, number)
    assert world.token._latch.waiting == 0
    assert world.ctx.is_finished
    if operation in {hosting, hosting_a_child} and steps.suspensions >= number and world.heard:
        assert world.heard[-1] == "Exit"
    return steps.suspensions >= number


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_cancelled_at_every_checkpoint(operation, residue):
    """L15: cancelling an async method at any of its checkpoints leaves no waiter, no count and no task behind."""
    with anyio.fail_after(60):
        number = 1
        while await cancel_at(operation, number, residue, native=False):
            number += 1
    assert number > 1


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_natively_cancelled_at_every_checkpoint(operation, residue):
    """L15: so it is with asyncio's own Task.cancel()."""
    with anyio.fail_after(60):
        number = 1
        while await cancel_at(operation, number, residue, native=True):
            number += 1
    assert number > 1


async def test_the_undisturbed_run_is_clean(residue):
    """L15: without a cancellation each of these operations ends, and leaves nothing either."""
    for operation in OPERATIONS:
        assert not await cancel_at(operation, 10_000, residue, native=False)
    async with WorkerContext() as ctx:
        pass
    assert ctx.outcome is Outcome.CLEAN
