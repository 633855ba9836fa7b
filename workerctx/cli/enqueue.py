"""``workerctx enqueue``: a job from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from cyclopts import Parameter

from workerctx.cli.store import StoreOptions, guarded, on_store
from workerctx.cli.values import Duration, Moment, Whole, parse_headers
from workerctx.errors import CommandError
from workerctx.queue import EnqueueRequest, decode_json

if TYPE_CHECKING:
    from workerctx.cli.output import Output
    from workerctx.queue import Storage
    from workerctx.service import JobRegistry


def enqueue(
    kind: Annotated[str, Parameter(help="The kind of job: the stable name of its handler.")],
    payload: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Its payload as JSON: the handler's arguments by name; {} if left out; - reads standard input.",
        ),
    ] = None,
    /,
    *,
    queue: Annotated[
        str | None, Parameter(name=["--queue", "-q"], env_var="WORKERCTX_QUEUE", help="Where it waits.")
    ] = None,
    delay: Annotated[Duration | None, Parameter(help="How long until it is due.")] = None,
    at: Annotated[Moment | None, Parameter(help="When it is due, instead of --delay.")] = None,
    expires_at: Annotated[Moment | None, Parameter(help="If it has not begun by then, it is cancelled.")] = None,
    timeout: Annotated[Duration | None, Parameter(help="Longest run.")] = None,
    priority: Annotated[
        Whole | None, Parameter(env_var="WORKERCTX_PRIORITY", allow_leading_hyphen=True, help="Higher runs first.")
    ] = None,
    max_attempts: Annotated[
        Whole | None, Parameter(env_var="WORKERCTX_MAX_ATTEMPTS", help="How many runs it may have, the first included.")
    ] = None,
    unique_key: Annotated[str | None, Parameter(help="At most one active job has it.")] = None,
    tenant: Annotated[str | None, Parameter(env_var="WORKERCTX_TENANT", help="Whose job it is.")] = None,
    workflow: Annotated[
        str | None, Parameter(env_var="WORKERCTX_WORKFLOW", help="The workflow that it is part of.")
    ] = None,
    depends_on: Annotated[
        list[str] | None,
        Parameter(negative="", metavar="ID", help="A job that must succeed first; repeat it for more."),
    ] = None,
    label: Annotated[
        list[str] | None, Parameter(negative="", help="A label that its worker must have; repeat it for more.")
    ] = None,
    header: Annotated[
        list[str] | None, Parameter(negative="", metavar="NAME=VALUE", help="A header; repeat it for more.")
    ] = None,
    store: StoreOptions | None = None,
) -> int:
    """Add a job and print its id.

    With --app the payload is checked against the signature of the handler, whose defaults for queue, priority,
    attempts and so on apply. Without it any kind and payload are taken, for workers that know them.
    """
    given = {
        "queue": queue,
        "delay": delay,
        "run_at": at,
        "expires_at": expires_at,
        "timeout": timeout,
        "priority": priority,
        "max_attempts": max_attempts,
        "unique_key": unique_key,
        "tenant_id": tenant,
        "workflow_id": workflow,
        "depends_on": depends_on,
        "required_labels": label,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    store = store or StoreOptions()

    def check_and_add() -> int:
        if delay is not None and at is not None:
            raise CommandError("pass either --delay or --at: both say when the job is due")
        if header:
            options["headers"] = parse_headers(header)
        registry = store.registry()
        value = _decode(payload)
        if registry is None:
            request = EnqueueRequest(kind, value, **options)
        else:
            request = _checked(registry, kind, value).with_options(**options)
        return _add(request, store)

    return guarded(check_and_add)


def _add(request: EnqueueRequest, store: StoreOptions) -> int:
    async def run(storage: Storage, out: Output) -> int:
        outcome = await storage.jobs.enqueue(request)
        if out.as_json:
            out.document(outcome)
        else:
            out.line(outcome.id)
        if outcome.deduped:
            out.note("an active job has this unique key, so none was added; this is its id")
        return 0

    return on_store(store, run, creates=True)


def _decode(text: str | None) -> Any:
    if text is None:
        return {}
    if text == "-" and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - None if it was closed
        raise CommandError("standard input is closed, and the payload was to come from there")
    try:
        return decode_json(sys.stdin.read() if text == "-" else text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise CommandError(f'the payload is not JSON: {exc}; write for example \'{{"path": "a.jpg"}}\'') from exc


def _checked(registry: JobRegistry, kind: str, payload: Any) -> EnqueueRequest:
    """Return the request that the handler's own `enqueue` would make of these arguments.

    Raises:
        CommandError: No handler has this kind, or the payload is no object.
        InvalidArguments: The payload does not fit the handler's signature.
    """
    handler = registry.find(kind)
    if handler is None:
        raise CommandError(f"the registry has no handler for {kind!r}; it has {', '.join(sorted(registry.kinds))}")
    if not isinstance(payload, dict):
        raise CommandError("the payload must be a JSON object with the handler's arguments by name")
    return handler.request_of(cast("dict[str, Any]", payload))
