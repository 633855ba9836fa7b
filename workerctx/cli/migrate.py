"""``workerctx migrate``: the tables of a store, brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import anyio
from cyclopts import Parameter

from workerctx.cli.output import Output, number_of
from workerctx.cli.store import StoreOptions, guarded
from workerctx.errors import CommandError
from workerctx.queue import connect
from workerctx.queue.migrating import Migrated

if TYPE_CHECKING:
    from workerctx.queue.migrating import Migrations


def migrate(
    *,
    plan: Annotated[bool, Parameter(negative="", help="Say what there is to be done, and change nothing.")] = False,
    apply: Annotated[bool, Parameter(negative="", help="Do it; this is the default.")] = False,
    sql: Annotated[
        bool, Parameter(negative="", help="Print the statements, for somebody else to run, and change nothing.")
    ] = False,
    store: StoreOptions | None = None,
) -> int:
    """Create the tables of a store, or bring those of an older release up to date, and say their version.

    Opening a store does the same, if its role may; this does nothing else. It may run any number of times, at once
    too.
    """
    options = store or StoreOptions()
    return guarded(lambda: _migrate(options.url(), Output(options.json), plan=plan, apply=apply, sql=sql))


def _migrate(url: str, out: Output, *, plan: bool, apply: bool, sql: bool) -> int:
    if plan + apply + sql > 1:
        raise CommandError("--plan, --apply and --sql exclude each other: pass one of them")
    storage = connect(url)
    if isinstance(storage, Migrated):
        if plan:
            _tell_plan(storage.migrations, out)
        elif sql:
            _print_sql(storage.migrations, out)
        else:
            _apply(storage.migrations, out)
        return 0
    if plan or sql:
        raise CommandError("this store has no tables, so there is nothing to plan or print")

    async def open_and_look() -> None:
        async with storage:
            await storage.now()

    anyio.run(open_and_look)
    if out.as_json:
        out.document({"before": None, "after": None})
    else:
        out.line("the store could be opened, and is up to date")
    return 0


def _apply(migrations: Migrations, out: Output) -> None:
    before, after = migrations.version(), migrations.newest
    migrations.apply()
    if out.as_json:
        out.document({"before": before, "after": after})
    elif before == after:
        out.line(f"{migrations.place} has schema version {after} already")
    elif before:
        out.line(f"{migrations.place} was brought from schema version {before} to {after}")
    else:
        out.line(f"{migrations.place} has got tables of schema version {after}")


def _tell_plan(migrations: Migrations, out: Output) -> None:
    before, after, statements = migrations.version(), migrations.newest, migrations.pending()
    if out.as_json:
        out.document({"before": before, "after": after, "statements": statements})
    elif before == after:
        out.line(f"{migrations.place} has schema version {after} already; there is nothing to do")
    else:
        what = f"schema version {before}" if before else "no tables"
        todo = f"{number_of(len(statements), 'statement')} would bring it to version {after}"
        out.line(f"{migrations.place} has {what}; {todo}")


def _print_sql(migrations: Migrations, out: Output) -> None:
    statements = migrations.pending()
    if out.as_json:
        out.document({"statements": statements})
    elif statements:
        for statement in ("BEGIN", *statements, "COMMIT"):
            out.line(f"{statement};")
