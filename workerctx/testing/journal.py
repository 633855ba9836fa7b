"""What was enqueued during a test, and saying so in an assertion."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from attrs import define

from workerctx.errors import RegistryInUse, UndecodablePayload
from workerctx.queue import decode_json
from workerctx.testing.view import StoreView

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workerctx.queue import EnqueueOutcome, EnqueueRequest, JobQueue, Storage
    from workerctx.service import AnyHandler, JobRegistry


@define(eq=False)
class NotingJobs:
    """The job queue of a private store, which notes each request that became a job.

    A transaction of the caller's has no meaning there, so ``connection`` is left out of account.
    """

    real: JobQueue
    enqueued: list[EnqueueRequest]

    async def enqueue(self, request: EnqueueRequest, *, connection: Any = None) -> EnqueueOutcome:
        """Do `JobQueue.enqueue`."""
        (outcome,) = await self.enqueue_bulk([request], connection=connection)
        return outcome

    async def enqueue_bulk(
        self,
        requests: Iterable[EnqueueRequest],
        *,
        connection: Any = None,  # noqa: ARG002 - part of the contract, see above
    ) -> Sequence[EnqueueOutcome]:
        """Do `JobQueue.enqueue_bulk`."""
        requests = list(requests)
        outcomes = await self.store(requests)
        self.enqueued += [request for request, outcome in zip(requests, outcomes, strict=True) if not outcome.deduped]
        return outcomes

    async def store(self, requests: Sequence[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
        """Add jobs to the store."""
        return await self.real.enqueue_bulk(requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@define(eq=False)
class NotingStorage:
    """A storage with another job queue in front of its own."""

    real: Storage
    jobs: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def enqueued(jobs: JobRegistry) -> list[EnqueueRequest]:
    """Return the requests that became jobs since the mode began, oldest first.

    Raises:
        RegistryInUse: The registry is in neither of the modes `inline` and `manual`.
    """
    store = jobs.branch.store
    while isinstance(store, StoreView):
        if store.enqueued is not None:
            return list(store.enqueued)
        store = store.behind
    raise RegistryInUse(
        "nobody notes what is enqueued here: put `with manual(jobs):` or `with inline(jobs):` around it"
    )


def assert_enqueued(
    jobs: JobRegistry,
    handler: AnyHandler | str,
    *args: Any,
    queue: str | None = None,
    count: int | None = None,
    **kwargs: Any,
) -> list[EnqueueRequest]:
    """Assert that a job was enqueued since the mode began, whether it has run or not.

    Arguments are compared as the handler would get them, defaults included; those that are not given may be anything.

    Args:
        jobs: A registry in one of the modes `inline` and `manual`.
        handler: The handler, or a kind.
        args: Positional arguments of the job.
        queue: Only jobs of this queue.
        count: Exactly so many; None for at least one. 0 asserts that there was none.
        kwargs: Keyword arguments of the job. One that is called ``queue`` or ``count`` is asserted by position, or on
            what this returns.

    Returns:
        The requests, oldest first: look there for delay, priority and the rest.

    Raises:
        AssertionError: There are other jobs, which the message lists, or none.
        RegistryInUse: The registry is in neither mode.
        TypeError: The handler has no such arguments.
    """
    __tracebackhide__ = True
    noted = enqueued(jobs)
    known = jobs.find(handler) if isinstance(handler, str) else handler
    kinds = (handler,) if isinstance(handler, str) else handler.kinds
    wanted = _by_name(known, kinds[0], args, kwargs)
    found = [
        request
        for request in noted
        if request.kind in kinds
        and queue in (None, request.queue)
        and _fits(_arguments(jobs.find(request.kind), request), wanted)
    ]
    if len(found) == count or (count is None and found):
        return found
    asked = _call(kinds[0], wanted) + ("" if queue is None else f" in queue {queue!r}")
    number = "at least one job" if count is None else f"{count} jobs" if count != 1 else "one job"
    lines = [f"  {_call(each.kind, _payload(each))} in queue {each.queue!r}{_later(each)}" for each in noted]
    raise AssertionError(
        f"expected {number} {asked}, found {len(found)}; "
        + ("enqueued were:\n" + "\n".join(lines) if lines else "nothing was enqueued")
    )


def _by_name(handler: AnyHandler | None, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the asserted arguments by parameter name."""
    if handler is None:
        if args:
            raise TypeError(f"there is no handler for {kind!r} here to say what its arguments are: pass them by name")
        return kwargs
    parameters = _parameters(handler)
    names = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
    unknown = kwargs.keys() - {each.name for each in parameters}
    if len(args) > len(names) or unknown:
        what = ", ".join(sorted(unknown)) or f"so many arguments ({len(args)})"
        raise TypeError(f"{kind} takes {', '.join(each.name for each in parameters) or 'nothing'}, not {what}")
    return dict(zip(names, args, strict=False)) | kwargs


def _parameters(handler: AnyHandler) -> list[inspect.Parameter]:
    contract = handler.contract
    given = list(inspect.signature(contract.function).parameters.values())[len(contract.contexts) :]
    injected = frozenset[str]() if contract.plan is None else contract.plan.names
    return [parameter for parameter in given if parameter.name not in injected]


def _arguments(handler: AnyHandler | None, request: EnqueueRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request's arguments as the handler gets them, and as they are stored."""
    stored = _payload(request)
    if handler is None:
        return stored, stored
    try:
        args, kwargs = handler.contract.payload.decode(request.payload_json)
    except UndecodablePayload:
        return stored, stored
    return dict(zip([each.name for each in _parameters(handler)], args, strict=False)) | kwargs, stored


def _fits(arguments: tuple[dict[str, Any], dict[str, Any]], wanted: dict[str, Any]) -> bool:
    return all(any(name in given and given[name] == value for given in arguments) for name, value in wanted.items())


def _payload(request: EnqueueRequest) -> dict[str, Any]:
    payload = decode_json(request.payload_json)
    return payload if isinstance(payload, dict) else {"payload": payload}  # pyright: ignore[reportUnknownVariableType]


def _call(kind: str, arguments: dict[str, Any]) -> str:
    return f"{kind}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def _later(request: EnqueueRequest) -> str:
    if request.delay:
        return f", {request.delay:g} seconds later"
    return "" if request.run_at is None else f", at {request.run_at:.0f}"
