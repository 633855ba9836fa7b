"""``workerctx worker``: a process that serves jobs."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import anyio

import workerctx
from workerctx.cli.loading import load_registry
from workerctx.errors import CommandError, MonitorFailed, WorkerError
from workerctx.lifecycle import Monitor, stop_on_signals
from workerctx.queue import connect
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
        CommandError: `target` names no registry, or one that has no handler or no store.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    jobs = load_registry(target)
    try:
        connect(jobs.url)
        loop = WorkerLoop(jobs, config)
    except WorkerError as exc:
        raise CommandError(str(exc)) from exc
    monitor = Monitor(loop.context.name, grace=config.grace)
    monitor.add(_Burst(loop) if burst else loop)

    async def serve() -> None:
        await monitor.run(hard_exit=True, hard_limit=config.hard_limit)

    _say(_banner(loop, backend))
    with stop_on_signals(monitor):
        try:
            anyio.run(serve, backend=backend)
        except MonitorFailed as exc:
            _say(f"the worker failed: {exc.failures[-1][1]!r}")
            return 1
        except KeyboardInterrupt:  # a handler left with it
            pass
        _say(f"worker {loop.context.name} stopped: {loop.context.reason}")
    return 0


def _banner(loop: WorkerLoop, backend: str) -> str:
    config = loop.config
    return (
        f"workerctx {workerctx.__version__} worker {loop.context.name}\n"
        f"  store        {_without_password(loop.jobs.url)}\n"
        f"  queues       {', '.join(config.queues)}\n"
        f"  kinds        {', '.join(loop.jobs.kinds)}\n"
        f"  concurrency  {config.concurrency} on {backend}\n"
        f"  grace        {'no limit' if config.grace is None else f'{config.grace:g} s'}"
    )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command's output
