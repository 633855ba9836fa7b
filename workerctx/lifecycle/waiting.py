"""Waiting for a worker's end, and telling who would wait for himself."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import anyio.lowlevel

from workerctx.errors import SelfAwait
from workerctx.lifecycle.host import failure_of
from workerctx.lifecycle.signals import serve
from workerctx.lifecycle.tracked import RUN_OF_TRACKED

if TYPE_CHECKING:
    from workerctx.lifecycle.shell import Shell


async def wait_finished(shell: Shell) -> None:
    """Return once the worker has finished, or in the body that hosts it once it has drained.

    Raises:
        WorkerFailed: its infrastructure failed.
    """
    if shell.released:
        await anyio.lowlevel.checkpoint()
    if shell.host is not None and shell.host.is_body():
        # The worker cannot finish before its own body ends.
        await shell.stopping.wait()
        await shell.wait_quiet(shell.quiet)
    else:
        await shell.wait_quiet(shell.finished)
    failed = failure_of(shell)
    if failed is not None:
        raise failed


def refuse_self_await(shell: Shell) -> None:
    """Look at the frames of the caller, to see whether the worker waits for what they run.

    Raises:
        SelfAwait: it does.
    """
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        tracked = code is RUN_OF_TRACKED and frame.f_locals["self"].ledger is shell.ledger
        if tracked or (code is serve.__code__ and frame.f_locals["outbox"] is shell.outbox):
            raise SelfAwait(
                f"a task or listener of worker {shell.machine.name!r} awaits that worker, which would wait for itself"
                " for ever: await it from outside, or wait_stopping() instead"
            )
        frame = frame.f_back
