"""Parents and children."""

import contextlib
import itertools
import logging
import threading

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import InvalidTransition, NotAccepting, WorkerFailed
from workerctx.lifecycle import Error, Exit, Outcome, Stop, WorkerContext, WorkerState


async def run(awaitable):
    await awaitable


async def host(ctx, grace_work=None):
    async with ctx:
        if grace_work is not None:
            ctx.spawn(anyio.sleep, grace_work)
        await ctx.wait_stopping()


async def test_a_parents_stop_stops_its_children():
    """L31: a parent's stop stops its children, with its reason; a child's stop never its parent."""
    async with WorkerContext("parent") as parent:
        one, two = parent.child("one"), parent.child("two")
        one.start()
        two.start()
        one.stop("alone")
        assert (parent.is_running, two.is_running) == (True, True)
        parent.stop("deploy")
        assert (one.reason, two.reason) == ("alone", "deploy")
    assert (one.is_finished, two.is_finished) == (True, True)


async def test_children_stop_in_reverse_start_order():
    """L31: the child that started last is stopped first, whatever the order in which they were made."""
    order = []
    async with WorkerContext() as parent:
        children = [parent.child(name) for name in ("a", "b", "c")]
        for child in children:
            child.listen(lambda ctx, _: order.append(ctx.name), Stop)
        for index in (1, 0, 2):
            children[index].start()
    assert order == ["c", "a", "b"]


async def test_grandchildren_too():
    """L31: a stop reaches the whole tree, and the root ends last."""
    order = []
    async with WorkerContext("root") as root:
        root.listen(lambda ctx, _: order.append(ctx.name), Exit)
        middle = root.child("middle")
        middle.listen(lambda ctx, _: order.append(ctx.name), Exit)
        root.spawn(host, middle)
        await middle.wait_started()
        leaf = middle.child("leaf")
        leaf.listen(lambda ctx, _: order.append(ctx.name), Exit)
        leaf.start()
        assert (root.statistics().children, middle.statistics().children) == (1, 1)
    assert leaf.is_finished
    assert order == ["leaf", "middle", "root"]


async def test_a_child_of_a_stopped_parent_is_born_stopped():
    """L31: so nothing can be started under a worker that is going away."""
    async with WorkerContext("parent", grace=None) as parent:
        parent.spawn(anyio.lowlevel.checkpoint)
        parent.stop("deploy")
        child = parent.child("late")
        assert (child.state, child.reason) == (WorkerState.STOPPED, "deploy")
        assert child.outcome is Outcome.NEVER_STARTED
        with pytest.raises(InvalidTransition):
            child.start()
        with pytest.raises(NotAccepting):
            child.track(anyio.lowlevel.checkpoint())
    with pytest.raises(NotAccepting, match="parent"):
        parent.child("later")


@pytest.mark.parametrize("state", ["pending", "running", "paused", "hosted"])
async def test_a_parent_ends_after_its_children(state, virtual_time):
    """L31: whatever state a child is in, its parent finishes after it."""
    ends = []
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("parent", grace=50) as parent:
            virtual_time()
            parent.listen(lambda ctx, _: ends.append((ctx.name, virtual_time())), Exit)
            child = parent.child("child")
            child.listen(lambda ctx, _: ends.append((ctx.name, virtual_time())), Exit)
            if state == "hosted":
                tasks.start_soon(host, child, 10)
                await child.wait_started()
            elif state != "pending":
                child.start()
                tasks.start_soon(run, child.track(anyio.sleep(10)))
                await anyio.lowlevel.checkpoint()
                if state == "paused":
                    child.pause()
    assert [name for name, _ in ends] == ["child", "parent"]
    assert (ends[1][1] >= 10) is (state != "pending")
    assert parent.outcome is Outcome.CLEAN


@pytest.mark.parametrize(
    ("parents", "childs", "expected"),
    [(10, 3, 3), (3, 10, 3), (None, 3, 3), (10, None, 10), (10, "inherited", 10)],
)
async def test_children_inherit_the_earlier_deadline(virtual_time, parents, childs, expected):
    """L31: when the parent stops, a child has until the parent's deadline, or its own grace if that is shorter."""
    options = {} if childs == "inherited" else {"grace": childs}
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("parent", grace=parents) as parent:
            virtual_time()
            child = parent.child("child", **options)
            tasks.start_soon(host, child, 1000)
            await child.wait_started()
    assert abs(virtual_time() - expected) < 0.1
    assert child.outcome is Outcome.CANCELLED


async def test_an_inherited_grace_follows_a_parents_own_word(virtual_time):
    """L31: stop(grace=None) of the parent gives a child without a grace of its own for ever, too."""
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("parent", grace=5) as parent:
            virtual_time()
            child = parent.child("child")
            tasks.start_soon(host, child, 100)
            await child.wait_started()
            parent.stop(grace=None)
            await child
    assert child.outcome is Outcome.CLEAN
    assert virtual_time() >= 100


async def test_a_second_stop_reaches_the_children(virtual_time):
    """L26: a second stop of the parent shortens its children's drains as well."""
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("parent", grace=100) as parent:
            virtual_time()
            child = parent.child("child")
            tasks.start_soon(host, child, 1000)
            await child.wait_started()
            parent.stop()
            await anyio.sleep(1)
            parent.stop(grace=1)
    assert 1.9 < virtual_time() < 2.1
    assert child.outcome is Outcome.CANCELLED


async def test_a_forwarded_failure_fails_the_parent():
    """L31: by default a child's failure is its parent's, and so are its siblings stopped."""
    cause = OSError("gone")
    parent = WorkerContext("parent")
    with pytest.raises(WorkerFailed) as raised:
        async with parent:
            child, sibling = parent.child("child"), parent.child("sibling")
            child.start()
            sibling.start()
            child.fail(cause)
            assert sibling.is_stopped
            await anyio.sleep_forever()
    assert raised.value.__cause__ is cause
    assert (parent.outcome, child.outcome, sibling.outcome) == (Outcome.FAILED, Outcome.FAILED, Outcome.CLEAN)


async def test_a_contained_failure_is_an_event(record, caplog):
    """L31: contained, a child's failure is an Error event of the parent, and logged; the parent goes on."""
    cause = OSError("gone")
    async with WorkerContext("parent") as parent:
        heard = record(parent, Error)
        child = parent.child("child", on_failure="contain")
        child.start()
        child.fail(cause)
        assert parent.is_running
    assert [(event.name, event.error) for event in heard] == [("child", cause)]
    assert "child 'child' of worker 'parent' failed" in caplog.messages
    assert parent.outcome is Outcome.CLEAN


async def test_one_failure_is_reported_once(caplog):
    """L31: a child that fails in its parent's body does not make a second failure of the same."""
    caplog.set_level(logging.ERROR, "workerctx")
    cause = OSError("gone")
    parent = WorkerContext("parent")
    with pytest.raises(WorkerFailed) as raised:
        async with parent, parent.child("child") as child:
            child.fail(cause)
    assert raised.value.__cause__ is cause
    assert parent.failure is cause
    assert caplog.records == []


@pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.product(["pending", "running", "paused", "stopped", "hosted", "failed"], repeat=2)),
)
async def test_any_two_children_end_with_their_parent(first, second, virtual_time):
    """L31: children in every combination of states are finished when their parent is."""
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("parent", grace=5) as parent:
            children = []
            for number, state in enumerate((first, second)):
                child = parent.child(f"{state} {number}", on_failure="contain")
                children.append(child)
                if state == "hosted":
                    tasks.start_soon(host, child, 1)
                    await child.wait_started()
                elif state != "pending":
                    child.start()
                match state:
                    case "paused":
                        child.pause()
                    case "stopped":
                        child.stop()
                    case "failed":
                        child.fail(OSError())
        assert all(child.is_finished for child in children)
    assert parent.outcome is Outcome.CLEAN
    assert parent.statistics().children == 0


async def test_children_that_end_are_forgotten():
    """L23: a parent that makes many short-lived children keeps none of them."""
    async with WorkerContext() as parent:
        for number in range(20):
            async with parent.child(f"short {number}"):
                pass
        assert parent.statistics().children == 0


async def test_overdue_children_are_named(virtual_time, caplog):
    """L26: a child that holds its parent beyond the deadline is reported by name."""
    caplog.set_level(logging.WARNING, "workerctx")
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("parent", grace=2) as parent:
            child = parent.child("laggard")
            child.start()
            tasks.start_soon(run, child.track(anyio.sleep(10)))
            await anyio.lowlevel.checkpoint()
    assert any("worker laggard" in message for message in caplog.messages)
    assert (parent.outcome, child.outcome) == (Outcome.CANCELLED, Outcome.CANCELLED)


async def test_a_child_starting_in_a_thread_is_not_missed(in_thread):
    """L31: a stop of the parent that meets a child's start in another thread stops the child all the same."""
    for _ in range(50):
        async with WorkerContext("parent", grace=20) as parent:
            child = parent.child("child")
            together = threading.Barrier(2)

            def start(child=child, together=together):
                together.wait()
                with contextlib.suppress(InvalidTransition):
                    child.start()

            thread = threading.Thread(target=start)
            thread.start()
            together.wait()
            parent.stop()
        assert child.is_finished
        thread.join()


async def test_a_child_ends_without_its_parent():
    """L31: a child lives and ends on its own while the parent goes on."""
    async with WorkerContext() as parent:
        async with parent.child("short", service="mail", max_tasks=2) as child:
            assert (child.service, await child.spawn(anyio.sleep, 0)) == ("mail", None)
        assert (child.outcome, parent.is_running) == (Outcome.CLEAN, True)


async def test_a_child_that_ends_while_it_starts_is_forgotten():
    """L31: a child that another thread stops in the middle of its start does not stay with its parent."""
    async with WorkerContext("parent") as parent:
        child = parent.child("child")
        child.stop()
        parent._shell.adopt(child._shell)  # what start() does when the stop came in between
        assert parent.statistics().children == 0
