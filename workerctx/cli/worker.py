"""``workerctx worker``: a process that serves jobs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
from rich.console import Console

import workerctx
from workerctx.cli.loading import load_registry
from workerctx.errors import MonitorFailed
from workerctx.lifecycle import Monitor
from workerctx.runtime import WorkerLoop

if TYPE_CHECKING:
    from workerctx.lifecycle import WorkerContext
    from workerctx.runtime import WorkerConfig


class _Burst:
    """A loop that ends when there is nothing to do, as a monitor runs it."""

    def __init__(self, loop: WorkerLoop) -> None:
        self._loop = loop

    @property
    def context(self) -> WorkerContext:
        return self._loop.context

    async def run(self) -> None:
        await self._loop.run(burst=True)


def run_worker(target: str, config: WorkerConfig, *, burst: bool, backend: str) -> int:
    """Serve until stopped and return the exit status.

    Raises:
        CommandError: `target` names no registry.
        WorkerError: the worker cannot be made.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    jobs = load_registry(target)
    loop = WorkerLoop(jobs, config)
    console = Console(stderr=True, highlight=False)
    console.print(
        f"[bold]workerctx {workerctx.__version__}[/] worker {loop.context.name}\n"
        f"  store        {jobs.url}\n"
        f"  queues       {', '.join(config.queues)}\n"
        f"  kinds        {', '.join(jobs.kinds)}\n"
        f"  concurrency  {config.concurrency} on {backend}\n"
        f"  grace        {'no limit' if config.grace is None else f'{config.grace:g} s'}",
        soft_wrap=True,
    )
    monitor = Monitor(loop.context.name, grace=config.grace)
    monitor.add(_Burst(loop) if burst else loop)

    async def serve() -> None:
        await monitor.run(signals=True, hard_exit=True, hard_limit=config.hard_limit)

    try:
        anyio.run(serve, backend=backend)
    except MonitorFailed as exc:
        console.print(f"[bold red]the worker failed:[/] {exc.failures[-1][1]!r}", soft_wrap=True)
        return 1
    console.print(f"worker {loop.context.name} stopped: {loop.context.reason}", soft_wrap=True)
    return 0
