"""``workerctx workers``: the running workers, and words sent to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from workerctx.cli.actions import Yes, confirm, do_each
from workerctx.cli.fleet import is_live
from workerctx.cli.output import duration
from workerctx.cli.store import StoreOptions, on_store
from workerctx.errors import CommandError
from workerctx.queue import WorkerCommand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workerctx.cli.output import Output
    from workerctx.queue import Storage, WorkerInfo

workers: App = App(name="workers", help="List running workers; pause, resume and stop them from another process.")

_COLUMNS: Final = ("ID", "NAME", "STATE", "HEARD", "JOBS", "QUEUES", "LABELS", "KINDS", "PROCESS")

Ids = Annotated[str, Parameter(name="ID", help="A worker's id or name, as `workers list` shows them.")]
Every = Annotated[bool, Parameter(name="--all", negative="", help="All workers that live.")]


@workers.command(name="list")
def list_workers(*, store: StoreOptions | None = None) -> int:
    """List the registered workers, and when each was last heard of."""

    async def run(storage: Storage, out: Output) -> int:
        now = await storage.now()
        found = await storage.workers.list()
        if out.as_json:
            out.document({"workers": [_document(worker, now) for worker in found]})
        elif found:
            out.table(_COLUMNS, [_row(worker, now) for worker in found])
        else:
            out.note("no worker is registered")
        return 0

    return on_store(store, run)


@workers.command
def pause(*ids: Ids, every: Every = False, store: StoreOptions | None = None) -> int:
    """Let workers claim nothing more until they are resumed; what they run goes on.

    A worker obeys at its next heartbeat, after 2 seconds by default.
    """
    return _send(WorkerCommand.PAUSE, ids, every=every, yes=None, store=store)


@workers.command
def resume(*ids: Ids, every: Every = False, store: StoreOptions | None = None) -> int:
    """Let paused workers claim again."""
    return _send(WorkerCommand.RESUME, ids, every=every, yes=None, store=store)


@workers.command
def stop(*ids: Ids, every: Every = False, yes: Yes = False, store: StoreOptions | None = None) -> int:
    """Let workers end: they claim nothing more, and running jobs get the worker's grace."""
    return _send(WorkerCommand.STOP, ids, every=every, yes=yes, store=store)


def _send(
    command: WorkerCommand, ids: tuple[str, ...], *, every: bool, yes: bool | None, store: StoreOptions | None
) -> int:
    async def run(storage: Storage, out: Output) -> int:
        if bool(ids) == every:
            raise CommandError(f"say which workers to {command.value}: either their ids or --all")
        now = await storage.now()
        known = {worker.id: worker for worker in await storage.workers.list()}
        if every:
            chosen = [worker.id for worker in known.values() if is_live(worker, now)]
        else:
            chosen = [id_ for word in ids for id_ in _ids_of(word, known)]
        if not chosen:
            out.note(f"there is no live worker to {command.value}")
            return 1
        if yes is not None:
            confirm(out, command.value, chosen, yes=yes, noun="worker")
        for worker in (known[name] for name in chosen if name in known):
            if not is_live(worker, now):
                out.note(
                    f"worker {worker.id} was last heard of {duration(now - worker.heartbeat_at)} ago, "
                    "so it may never hear this"
                )
        return await do_each(out, f"told to {command.value}", chosen, lambda id_: storage.workers.send(id_, command))

    return on_store(store, run)


def _ids_of(word: str, known: Mapping[str, WorkerInfo]) -> list[str]:
    """Return the ids of the workers that a word names; the word itself if there is none."""
    if word in known:
        return [word]
    return [worker.id for worker in known.values() if worker.name == word] or [word]


def _document(worker: WorkerInfo, now: float) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(worker)
    return {**document, "live": is_live(worker, now), "silent_for": max(0.0, now - worker.heartbeat_at)}


def _row(worker: WorkerInfo, now: float) -> tuple[str, ...]:
    return (
        worker.id,
        worker.name or "-",
        worker.state if is_live(worker, now) else "silent",
        f"{duration(now - worker.heartbeat_at)} ago",
        f"{worker.in_flight}/{worker.concurrency}",
        ",".join(worker.queues),
        ",".join(worker.labels) or "-",
        "any" if worker.kinds is None else ",".join(worker.kinds),
        f"{worker.pid}@{worker.hostname}",
    )
