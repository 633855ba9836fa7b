"""``workerctx prune``: forgetting jobs that finished long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from workerctx.cli.actions import Yes, confirm_text
from workerctx.cli.output import duration, number_of
from workerctx.cli.store import StoreOptions, on_store
from workerctx.cli.values import Duration  # noqa: TC001 - cyclopts reads the annotations
from workerctx.queue import FINAL_STATES, JobState

if TYPE_CHECKING:
    from workerctx.cli.output import Output
    from workerctx.queue import Storage

WEEK = 604800.0


def prune(
    *,
    older_than: Annotated[
        Duration,
        Parameter(
            env_var="WORKERCTX_RETENTION",
            show_default=False,
            help="Keep what finished within this time; 7d if not given.",
        ),
    ] = WEEK,
    state: Annotated[
        list[Literal["succeeded", "dead", "cancelled"]] | None,
        Parameter(negative="", help="Only jobs that ended so; repeat it for more. All three by default."),
    ] = None,
    yes: Yes = False,
    store: StoreOptions | None = None,
) -> int:
    """Remove jobs that finished a week ago or longer; the time can be chosen.

    Works in small transactions, so that it holds up nobody. A job whose result another one still waits for is kept.
    """

    async def run(storage: Storage, out: Output) -> int:
        states = {JobState(each) for each in state} if state else set(FINAL_STATES)
        counts = await storage.jobs.counts()
        finished = sum(counts[each] for each in states)
        if finished > 1:
            named = ", ".join(sorted(states))
            confirm_text(
                out,
                f"this will remove jobs that finished more than {duration(older_than)} ago, of the "
                f"{number_of(finished, 'job')} that are {named}",
                yes=yes,
            )
        removed = await storage.jobs.prune(older_than, states=states)
        if out.as_json:
            out.document({"removed": removed})
        else:
            out.line(f"removed {number_of(removed, 'job')}")
        return 0

    return on_store(store, run)
