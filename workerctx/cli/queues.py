"""``workerctx queues``: what waits where, and holding a queue back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cyclopts import App, Parameter

from workerctx.cli.actions import do_each
from workerctx.cli.fleet import is_live
from workerctx.cli.output import local_time
from workerctx.cli.store import StoreOptions, on_store
from workerctx.cli.values import Duration, Moment  # noqa: TC001 - cyclopts reads the annotations
from workerctx.errors import CommandError
from workerctx.queue import JobState, QueueInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.cli.output import Output
    from workerctx.queue import Storage, WorkerInfo

queues: App = App(name="queues", help="List queues; pause and resume them for every worker.")

_COLUMNS: Final = ("QUEUE", "STATE", *(state.value.upper() for state in JobState), "WORKERS")

Names = Annotated[str, Parameter(name="NAME", help="A queue.")]


@queues.command(name="list")
def list_queues(*, store: StoreOptions | None = None) -> int:
    """List every queue that holds jobs, is paused, or is served by a live worker."""

    async def run(storage: Storage, out: Output) -> int:
        now = await storage.now()
        live = [worker for worker in await storage.workers.list() if is_live(worker, now)]
        known = {queue.name: queue for queue in await storage.jobs.queues()}
        for worker in live:
            for name in worker.queues:
                known.setdefault(name, QueueInfo(name=name))
        found = [known[name] for name in sorted(known)]
        if out.as_json:
            documents = [{**msgspec.to_builtins(queue), "workers": _served(queue, live)} for queue in found]
            out.document({"queues": documents})
        elif found:
            out.table(_COLUMNS, [_row(queue, live) for queue in found])
        else:
            out.note("there is no queue yet")
        return 0

    return on_store(store, run)


@queues.command
def pause(
    *names: Names,
    until: Annotated[Moment | None, Parameter(help="When the queue resumes by itself.")] = None,
    for_: Annotated[Duration | None, Parameter(name="--for", help="After how long it resumes by itself.")] = None,
    cancel_running: Annotated[
        bool, Parameter(negative="", help="Give running jobs back, without using up an attempt.")
    ] = False,
    store: StoreOptions | None = None,
) -> int:
    """Let no worker claim from queues until they are resumed."""

    async def run(storage: Storage, out: Output) -> int:
        if not names:
            raise CommandError("name the queues to pause")
        if until is not None and for_ is not None:
            raise CommandError("pass either --until or --for: both say when the queue resumes")
        now = await storage.now()
        end = until if for_ is None else now + for_
        if end is not None and end <= now:
            raise CommandError(f"{local_time(end)} has passed: a pause ends later, or with `workerctx queues resume`")

        async def do(name: str) -> None:
            await storage.jobs.pause_queue(name, until=end, cancel_running=cancel_running)

        done = "paused" if end is None else f"paused until {local_time(end)}:"
        return await do_each(out, done, names, do)

    return on_store(store, run)


@queues.command
def resume(*names: Names, store: StoreOptions | None = None) -> int:
    """Let workers claim from queues again."""

    async def run(storage: Storage, out: Output) -> int:
        if not names:
            raise CommandError("name the queues to resume")
        return await do_each(out, "resumed", names, storage.jobs.resume_queue)

    return on_store(store, run)


def _served(queue: QueueInfo, live: Sequence[WorkerInfo]) -> int:
    return sum(queue.name in worker.queues for worker in live)


def _row(queue: QueueInfo, live: Sequence[WorkerInfo]) -> tuple[str, ...]:
    if not queue.paused:
        state = "open"
    elif queue.paused_until is None:
        state = "paused"
    else:
        state = f"paused until {local_time(queue.paused_until)}"
    counts = (str(queue.counts.get(each, 0)) for each in JobState)
    return queue.name, state, *counts, str(_served(queue, live))
