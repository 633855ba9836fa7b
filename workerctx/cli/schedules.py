"""``workerctx schedules``: jobs that come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import App, Parameter

from workerctx.cli.actions import do_each
from workerctx.cli.output import duration, local_time
from workerctx.cli.store import StoreOptions, on_store
from workerctx.errors import CommandError

if TYPE_CHECKING:
    from workerctx.cli.output import Output
    from workerctx.queue import Schedule, Storage

schedules: App = App(name="schedules", help="List schedules; run one now, pause and resume them.")

_COLUMNS: Final = ("SCHEDULE", "STATE", "WHEN", "KIND", "QUEUE", "NEXT", "LAST")

Names = Annotated[str, Parameter(name="NAME", help="A schedule.")]


@schedules.command(name="list")
def list_schedules(*, store: StoreOptions | None = None) -> int:
    """List the schedules, when each fires next and when it fired last."""

    async def run(storage: Storage, out: Output) -> int:
        found = await storage.schedules.list()
        if out.as_json:
            out.document({"schedules": [_document(schedule) for schedule in found]})
        elif found:
            out.table(_COLUMNS, [_row(schedule) for schedule in found])
        else:
            out.note("there is no schedule: a worker adds those of its registry when it starts")
        return 0

    return on_store(store, run)


@schedules.command(name="run")
def run_schedule(name: Annotated[str, Parameter(help="The schedule.")], /, *, store: StoreOptions | None = None) -> int:
    """Enqueue a schedule's job now, once; its own ticks stay as they are. Prints the job's id."""

    async def run(storage: Storage, out: Output) -> int:
        schedule = await storage.schedules.get(name)
        outcome = await storage.jobs.enqueue(schedule.request)
        if out.as_json:
            out.document(outcome)
        else:
            out.line(outcome.id)
        if outcome.deduped:
            out.note("an active job has the schedule's unique key, so none was added; this is its id")
        return 0

    return on_store(store, run)


@schedules.command
def pause(*names: Names, store: StoreOptions | None = None) -> int:
    """Let schedules fire no more until they are resumed; what they miss is not made up for."""
    return _enable(names, "paused", enabled=False, store=store)


@schedules.command
def resume(*names: Names, store: StoreOptions | None = None) -> int:
    """Let schedules fire again, from their next tick on."""
    return _enable(names, "resumed", enabled=True, store=store)


def _enable(names: tuple[str, ...], done: str, *, enabled: bool, store: StoreOptions | None) -> int:
    async def run(storage: Storage, out: Output) -> int:
        if not names:
            raise CommandError("name the schedules, as `schedules list` shows them")

        async def do(name: str) -> None:
            await storage.schedules.enable(name, enabled=enabled)

        return await do_each(out, done, names, do)

    return on_store(store, run)


def _document(schedule: Schedule) -> dict[str, Any]:
    request = schedule.request
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "every": schedule.every,
        "timezone": schedule.timezone,
        "misfire": schedule.misfire,
        "enabled": schedule.enabled,
        "next_fire_at": schedule.next_fire_at,
        "last_fired_at": schedule.last_fired_at,
        "kind": request.kind,
        "payload": request.payload,
        "queue": request.queue,
        "priority": request.priority,
    }


def _row(schedule: Schedule) -> tuple[str, ...]:
    when = f"{schedule.cron} {schedule.timezone}" if schedule.every is None else f"every {duration(schedule.every)}"
    return (
        schedule.name,
        "on" if schedule.enabled else "paused",
        when,
        schedule.request.kind,
        schedule.request.queue,
        local_time(schedule.next_fire_at if schedule.enabled else None),
        local_time(schedule.last_fired_at),
    )
