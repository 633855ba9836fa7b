"""``workerctx workflows``: cancelling the jobs of a workflow, those still to come among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from workerctx.cli.actions import Yes, confirm_text, do_each
from workerctx.cli.output import number_of
from workerctx.cli.store import StoreOptions, on_store

if TYPE_CHECKING:
    from workerctx.cli.output import Output
    from workerctx.queue import Storage

workflows: App = App(name="workflows", help="Cancel a workflow, or let it accept jobs again.")

Id = Annotated[str, Parameter(name="ID", help="The workflow.")]


@workflows.command
def cancel(workflow: Id, /, *, yes: Yes = False, store: StoreOptions | None = None) -> int:
    """Cancel every job of a workflow, and those enqueued into it until it is cleared."""

    async def run(storage: Storage, out: Output) -> int:
        confirm_text(
            out, f"this will cancel every job of workflow {workflow}, and those that are still to come", yes=yes
        )
        count = await storage.jobs.cancel_workflow(workflow)
        if out.as_json:
            out.document({"cancelled": count})
        elif count == 0:
            out.line(f"no job of workflow {workflow} waits or runs; those to come are cancelled until it is cleared")
        else:
            out.line(f"cancelled {number_of(count, 'job')} or told their workers to stop them")
        return 0

    return on_store(store, run)


@workflows.command
def clear(workflow: Id, /, *, store: StoreOptions | None = None) -> int:
    """Let a cancelled workflow accept jobs again; what was cancelled stays so, see `jobs retry`."""

    async def run(storage: Storage, out: Output) -> int:
        return await do_each(out, "cleared", [workflow], storage.jobs.clear_workflow)

    return on_store(store, run)
