"""``workerctx jobs``: looking at jobs and steering them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from workerctx.cli import job_view
from workerctx.cli.actions import Yes, confirm, do_each
from workerctx.cli.explain import explain as explain_job
from workerctx.cli.scene import look_around
from workerctx.cli.selection import Filters, Selection
from workerctx.cli.store import StoreOptions, on_store
from workerctx.cli.values import Whole  # noqa: TC001 - cyclopts reads the annotations
from workerctx.errors import WorkerError
from workerctx.queue import ACTIVE_STATES, JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from workerctx.cli.output import Output
    from workerctx.queue import Storage

jobs: App = App(name="jobs", help="List and show jobs, explain why one is not running; retry, cancel and delete them.")

Id = Annotated[str, Parameter(name="ID", help="The job.")]
Ids = Annotated[str, Parameter(name="ID", help="A job, instead of filters.")]


@jobs.command(name="list")
def list_jobs(
    *,
    filters: Filters | None = None,
    limit: Annotated[
        Whole, Parameter(env_var="WORKERCTX_LIMIT", validator=Number(gte=1), help="How many jobs a page has.")
    ] = 100,
    cursor: Annotated[str | None, Parameter(help="Where to go on, as the page before says.")] = None,
    every: Annotated[bool, Parameter(name="--all", negative="", help="Not a page but all of them.")] = False,
    store: StoreOptions | None = None,
) -> int:
    """List jobs in order of their ids, which is the order in which they were added; a page at a time."""

    async def run(storage: Storage, out: Output) -> int:
        wanted = filters or Filters()
        if every:
            found, following = [job async for job in wanted.every(storage, cursor)], None
        else:
            page = await wanted.page(storage, limit, cursor)
            found, following = list(page.jobs), page.next_cursor
        if out.as_json:
            out.document({"jobs": [job_view.document(job) for job in found], "next_cursor": following})
        elif found:
            out.table(job_view.COLUMNS, map(job_view.row, found))
        else:
            out.note("no job fits")
        if following is not None and not out.as_json:
            out.note(f"there are more: go on with --cursor {following}")
        return 0

    return on_store(store, run)


@jobs.command
def show(job_id: Id, /, *, store: StoreOptions | None = None) -> int:
    """Show everything about a job: payload, times, result, failures with their tracebacks."""

    async def run(storage: Storage, out: Output) -> int:
        job = await storage.jobs.get(job_id)
        if out.as_json:
            out.document(job_view.document(job))
        else:
            for line in job_view.lines(job):
                out.line(line)
        return 0

    return on_store(store, run)


@jobs.command
def explain(job_id: Id, /, *, store: StoreOptions | None = None) -> int:
    """Say why a job is not running, or who runs it, and what would change that."""

    async def run(storage: Storage, out: Output) -> int:
        job = await storage.jobs.get(job_id)
        explanation = explain_job(job, await look_around(storage, job))
        if out.as_json:
            out.document(explanation)
            return 0
        out.line(explanation.headline)
        for reason in explanation.reasons:
            out.line(f"- {reason.text}")
            if reason.remedy is not None:
                out.line(f"  {reason.remedy}")
        return 0

    return on_store(store, run)


@jobs.command
def retry(*ids: Ids, filters: Filters | None = None, yes: Yes = False, store: StoreOptions | None = None) -> int:
    """Put dead or cancelled jobs back, due now, with their attempts reset.

    Filters mean dead jobs, unless --state cancelled is among them.
    """
    filters = filters or Filters()
    state = JobState.CANCELLED if filters.state is JobState.CANCELLED else JobState.DEAD

    async def do(storage: Storage, job_id: str) -> None:
        await storage.jobs.retry(job_id)

    return _steer(Selection(ids, filters, yes), "retry", "put back", {state}, do, store=store)


@jobs.command
def cancel(*ids: Ids, filters: Filters | None = None, yes: Yes = False, store: StoreOptions | None = None) -> int:
    """Cancel jobs: at once if they are not running, otherwise their workers are told to stop them.

    Jobs that wait for a cancelled one are cancelled with it, unless they were made to run all the same.
    """

    async def do(storage: Storage, job_id: str) -> str | None:
        if not await storage.jobs.cancel(job_id):
            raise WorkerError(f"cannot cancel job {job_id!r}: it has ended already, see `workerctx jobs show`")
        job = await storage.jobs.get(job_id)
        return None if job.state.is_final else "told to stop"

    return _steer(Selection(ids, filters or Filters(), yes), "cancel", "cancelled", ACTIVE_STATES, do, store=store)


@jobs.command
def delete(*ids: Ids, filters: Filters | None = None, yes: Yes = False, store: StoreOptions | None = None) -> int:
    """Remove jobs that are not running; nothing of them is left.

    Jobs that wait for a deleted one are treated as if it had been cancelled. See `workerctx prune` for old ones.
    """

    async def do(storage: Storage, job_id: str) -> None:
        await storage.jobs.delete(job_id)

    resting = frozenset(JobState) - {JobState.RUNNING}
    return _steer(Selection(ids, filters or Filters(), yes), "delete", "deleted", resting, do, store=store)


def _steer(
    selection: Selection,
    verb: str,
    done: str,
    states: Collection[JobState],
    do: Callable[[Storage, str], Awaitable[str | None]],
    *,
    store: StoreOptions | None,
) -> int:
    """Do something to the jobs that a command means, after asking if they are several."""

    async def run(storage: Storage, out: Output) -> int:
        names = await selection.resolve(storage, verb, states)
        if not names:
            out.note(f"no job fits that one could {verb}")
            return 1
        confirm(out, verb, names, yes=selection.yes)
        return await do_each(out, done, names, lambda job_id: do(storage, job_id))

    return on_store(store, run)
