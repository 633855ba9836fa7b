"""What a forked child finds."""

import pytest


@pytest.mark.parametrize("where", ["inside", "after", "thread"])
def test_the_childs_copy_is_stopped(program, anyio_backend, where):
    """L34: after a fork the child's copy of a running context is stopped and silent; the parent's is not touched."""
    done = program(
        f"""
        import os, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import anyio
        from workerctx.errors import NotAccepting
        from workerctx.lifecycle import WorkerContext, worker_event

        where = {where!r}
        ctx = WorkerContext("forked", grace=None)
        heard = []
        ctx.listen(lambda ctx, event: heard.append(type(event).__name__))

        async def hear(ctx, event):
            pass

        ctx.listen(hear)

        async def work():
            pass

        def fork():
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            code = 1
            try:
                before = list(heard)
                assert ctx.is_stopped and ctx.is_finished, ctx
                assert "fork" in ctx.reason
                coroutine = work()
                try:
                    ctx.track(coroutine)
                except NotAccepting:
                    assert coroutine.cr_frame is None
                ctx.stop()
                ctx.emit("x")
                assert heard == before, heard
                home = ctx._shell.outbox.home
                assert home is None or not home.post(print)
                anyio.run(wait, backend="asyncio")
                code = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            os._exit(code)

        async def wait():
            await ctx

        codes = []

        async def main():
            async with ctx:
                ctx.spawn(ctx.wait_stopping)
                await anyio.sleep(0.01)
                if where == "inside":
                    pid = os.fork()
                    if not pid:
                        ok = ctx.is_finished and "fork" in ctx.reason and not ctx._shell.outbox.home.post(print)
                        os._exit(0 if ok else 1)
                    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                elif where == "thread":
                    codes.append(await anyio.to_thread.run_sync(fork))
                assert ctx.is_running
                ctx.stop("in the parent")
                await ctx

        if where == "after":
            ctx2 = ctx
            ctx = WorkerContext("forked")
            ctx.listen(lambda ctx, event: heard.append(type(event).__name__))
            ctx.start()
            codes.append(fork())
            assert ctx.is_running
            ctx.stop()
        else:
            anyio.run(main, backend=BACKEND)
            assert ctx.reason == "in the parent"
        print(codes)
        """,
        anyio_backend,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[0]"], done.stderr


def test_a_pending_context_is_as_good_in_the_child(program, anyio_backend):
    """L34: a context that was only made before the fork runs in the child, whatever a parent's thread was doing."""
    done = program(
        """
        import os, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import anyio
        from workerctx.lifecycle import WorkerContext, Custom, Start

        ctx = WorkerContext("prefork")
        heard = []
        ctx.listen(lambda ctx, event: heard.append(type(event).__name__), Start)
        delivering = threading.Event()

        def slow(ctx, event):
            delivering.set()
            time.sleep(0.5)

        handle = ctx.listen(slow, Custom)
        # A thread holds the turn of the outbox and the lock of the listeners while the process forks.
        thread = threading.Thread(target=ctx.emit, args=("slow",))
        thread.start()
        delivering.wait()
        lock = ctx._shell.outbox._changing
        held = threading.Event()
        holder = threading.Thread(target=lambda: (lock.acquire(), held.set(), time.sleep(0.5), lock.release()))
        holder.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            handle.disconnect()

            async def main():
                with anyio.fail_after(5):
                    async with ctx:
                        assert await ctx.spawn(anyio.sleep, 0) is None

            try:
                anyio.run(main, backend=BACKEND)
                os._exit(0 if heard == ["Start"] else 3)
            finally:
                os._exit(4)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        thread.join()
        holder.join()
        """,
        anyio_backend,
    )
    assert done.stdout.split() == ["0"], done.stderr
