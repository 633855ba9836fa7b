"""Handlers in processes of their own: started, spoken to, reused, and ended together with what they have started.

Each process leads a process group. A run that is cancelled is told so, and its group is killed a second later.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
from anyio import AsyncContextManagerMixin
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import define, field

from workerctx.errors import HandlerCrashed, InvalidHandler
from workerctx.lifecycle.groups import collapse
from workerctx.queue import CancelReason
from workerctx.queue.codec import MAX_JSON_BYTES
from workerctx.service.wire import Began, Cancel, Failed, Report, Start, decode_answer, encode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Self

    from anyio.abc import ByteSendStream, Process, TaskGroup, TaskStatus

    from workerctx.service.jobctx import JobCtx
    from workerctx.service.signature import Contract
    from workerctx.service.wire import Answer, Done

KILL_GRACE: Final = 1.0
"""Seconds between the word that a run is cancelled and the end of its process group."""
IDLE_SECONDS: Final = 10.0
"""Seconds for which a process waits for the next job before it ends."""

_COMMAND: Final = (sys.executable, "-m", "workerctx.service.child")
_LONGEST_LINE: Final = 2 * MAX_JSON_BYTES


@define(eq=False)
class _Child:
    """The process of a handler, from the worker's side.

    Attributes:
        scope: Its life: cancel it, or set it a deadline, to end the process.
        told: Whether the run was told to come to an end.
    """

    _process: Process
    scope: anyio.CancelScope
    told: bool = field(default=False, init=False)
    _killed: bool = field(default=False, init=False)
    _to: ByteSendStream = field(init=False)
    _from: BufferedByteReceiveStream = field(init=False)

    def __attrs_post_init__(self) -> None:
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        self._to, self._from = to, BufferedByteReceiveStream(back)

    @property
    def is_usable(self) -> bool:
        """Whether it lives and nobody has asked it to end."""
        return self._process.returncode is None and not self.scope.cancel_called

    async def begin(self, lines: bytes) -> None:
        """Hand it a job.

        Raises:
            HandlerCrashed: It ended before it took the job.
        """
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await self._to.send(lines)
        if not isinstance(await self._receive(), Began):
            raise self._nonsense()

    async def tell(self, reason: CancelReason) -> None:
        """Tell it to come to an end with its run, unless it was told before."""
        if not self.told:
            self.told = True
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                await self._to.send(encode(Cancel(reason)) + b"\n")

    async def answer(self, ctx: JobCtx) -> Done | Failed:
        """Return how its run ended, and hand on what it reports until then.

        Raises:
            HandlerCrashed: The process ended without saying so, or did not make itself understood.
        """
        while True:
            answer = await self._receive()
            if isinstance(answer, Began):
                raise self._nonsense()
            if not isinstance(answer, Report):
                return answer
            _hand_on(answer.news, ctx)

    async def wait(self) -> None:
        """Return once it has ended."""
        await self._process.wait()

    def kill(self) -> None:
        """Kill its process group: once, because afterwards its number may be that of somebody else."""
        if not self._killed:
            self._killed = True
            # macOS answers EPERM for a group of zombies.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, and have its remains removed."""
        self.kill()
        self.scope.cancel()

    async def close(self) -> None:
        """Let it end by itself, for `KILL_GRACE` seconds at most, and leave nothing of it."""
        with anyio.move_on_after(KILL_GRACE):
            await self._to.aclose()
            await self._process.wait()
        self.kill()
        await self._process.aclose()

    async def _receive(self) -> Answer:
        try:
            return decode_answer(await self._from.receive_until(b"\n", _LONGEST_LINE))
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise await self._death() from None
        except (msgspec.MsgspecError, UnicodeDecodeError, anyio.DelimiterNotFound) as exc:
            raise self._nonsense() from exc

    async def _death(self) -> HandlerCrashed:
        with anyio.move_on_after(KILL_GRACE):
            await self._process.wait()
        code = self._process.returncode
        if code is None:
            return HandlerCrashed(
                "the process of the handler closed its pipe to the worker and was killed: leave file descriptors "
                "alone that the handler did not open"
            )
        if code < 0:
            return HandlerCrashed(
                f"the process of the handler was killed by {_name(-code)} in the middle of the run: somebody sent it, "
                "or the system, if memory ran out or native code crashed"
            )
        return HandlerCrashed(
            f"the process of the handler ended with status {code} in the middle of the run: raise an exception to "
            "fail a job; what it wrote to stderr may say more"
        )

    def _nonsense(self) -> HandlerCrashed:
        return HandlerCrashed(
            "something else than an answer came from the process of the handler, which was killed: leave file "
            "descriptors alone that the handler did not open"
        )


class Processes(AsyncContextManagerMixin):
    """The processes of one worker's handlers, inside an ``async with``.

    A process that did a job waits 10 s for the next one. It is not used again once its run was told to stop, or it did
    not make itself understood.
    """

    _tasks: TaskGroup

    def __init__(self) -> None:
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    yield self
                finally:
                    for child in self._children:
                        child.scope.cancel()
        except BaseException as exc:
            error = collapse(exc)
            if error is exc:
                raise
            raise error from error.__cause__

    async def run(self, ctx: JobCtx, contract: Contract, payload: bytes) -> bytes:
        """Run a handler and return its output as JSON.

        Args:
            ctx: The run: its reports are handed on there, and its cancellation is handed on.
            contract: The handler's.
            payload: The arguments, as they are stored.

        Raises:
            HandlerFailed: The handler raised. Verdicts such as `Abort` come as they are.
            HandlerCrashed: Its process ended before the handler did.

        Cancellation: the handler is told, and its process group killed a second later. What it returns or raises until
            then counts.
        """
        child = await self._begin(_lines(ctx, contract, payload))
        try:
            answer = await _converse(child, ctx)
        except BaseException:
            child.end()
            raise
        self._put_back(child)
        if isinstance(answer, Failed):
            raise answer.exception()
        return bytes(answer.result)

    async def _begin(self, lines: bytes) -> _Child:
        while True:
            waiting = self._take()
            child = waiting or await self._start()
            try:
                await child.begin(lines)
            except BaseException as exc:
                child.end()
                if waiting is None or not isinstance(exc, HandlerCrashed):
                    raise
            else:
                return child

    async def _start(self) -> _Child:
        with anyio.CancelScope(shield=True):  # a process that was started and not handed over would be nobody's
            child: _Child = await self._tasks.start(self._own)
            return child
        raise AssertionError("a scope that nobody cancels was left without a result")  # pragma: no cover

    def _take(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.is_usable:
                child.scope.deadline = math.inf
                return child
        return None

    def _put_back(self, child: _Child) -> None:
        if child.told:
            child.end()
        else:
            child.scope.deadline = anyio.current_time() + IDLE_SECONDS
            self._idle.append(child)

    async def _own(self, *, task_status: TaskStatus[_Child]) -> None:
        """Start a process and see to its end; a cancellation around the worker leaves that to the runs."""
        with anyio.CancelScope(shield=True) as scope:
            process = await anyio.open_process(_COMMAND, stdin=PIPE, stdout=PIPE, stderr=None, start_new_session=True)
            child = _Child(process, scope)
            self._children.add(child)
            try:
                task_status.started(child)
                await child.wait()
                child.kill()  # what it started ends with it, and so does the pipe
                await anyio.sleep(KILL_GRACE)
            finally:
                self._children.discard(child)
                if child in self._idle:
                    self._idle.remove(child)
                with anyio.CancelScope(shield=True):
                    await child.close()


async def run_in_process(ctx: JobCtx, contract: Contract, payload: bytes) -> bytes:
    """Run a handler in a process of its worker, or in one for this run alone; see ``Processes.run``."""
    assert contract.target is not None
    found = contract.target.find()
    if getattr(found, "__wrapped__", found) is not contract.function and found is not contract.function:
        raise InvalidHandler(
            f"{contract.target} is not the handler {contract.name!r}, and its process would run that instead: give "
            "it a name of its own, and put other decorators below @jobs.register"
        )
    if ctx.site.processes is not None:
        return await ctx.site.processes.run(ctx, contract, payload)
    async with Processes() as processes:
        return await processes.run(ctx, contract, payload)


async def _converse(child: _Child, ctx: JobCtx) -> Done | Failed:
    """Return how a run ended; hand its progress up, and the word that it is cancelled down."""
    try:
        with anyio.CancelScope() as told, ctx.cancel.cancelling(told):
            return await child.answer(ctx)
        assert ctx.cancel.reason is not None
        await child.tell(ctx.cancel.reason)
        return await child.answer(ctx)
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(KILL_GRACE, shield=True), suppress(HandlerCrashed):
            await child.tell(ctx.cancel.reason or (CancelReason.SHUTDOWN if ctx.stopping else CancelReason.TIMEOUT))
            answer = await child.answer(ctx)
            # A handler that gave up leaves the last word to who cancelled it.
            if not (isinstance(answer, Failed) and answer.verdict == "cancelled"):
                return answer
        raise


def _hand_on(news: dict[str, Any], ctx: JobCtx) -> None:
    if "done" in news:
        ctx.progress(news["done"], news.get("total"))
    if "detail" in news:
        ctx.heartbeat(news["detail"])


def _lines(ctx: JobCtx, contract: Contract, payload: bytes) -> bytes:
    target = contract.target
    assert target is not None
    start = Start(ctx.job_id, ctx.attempt, target.module, target.qualname, list(map(str, sys.path)))
    # Outside of JSON's strings a line break is a blank, and inside there is none.
    return b"%b\n%b\n" % (encode(start), payload.replace(b"\n", b" "))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
