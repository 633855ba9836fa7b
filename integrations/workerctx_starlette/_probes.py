"""Probes for an orchestrator: is the application alive, ready, started, and if not, why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from workerctx.lifecycle import Outcome
from workerctx_starlette._lookup import workers_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from workerctx.lifecycle import WorkerContext


def probes(name: str | None = None) -> list[Route]:
    """Make the routes ``/livez``, ``/readyz`` and ``/startupz``.

    They answer 200 or 503, with JSON that says of each context whether it is well, and why: alive, unless it has failed
    or finished; ready, if it could take work; started, once it was. `WorkerContextMiddleware` never tracks them.

    Args:
        name: the context to ask; all contexts of the application if it is left out.
    """
    return [Route(f"/{probe}", Probe(judge, name), name=probe, methods=["GET"]) for probe, judge in _JUDGES.items()]


@frozen(eq=False)
class Probe:
    """One probe, as an ASGI application."""

    _judge: Callable[[WorkerContext], tuple[bool, str]]
    _name: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the probe."""
        workers = workers_from(scope)
        if self._name is not None:
            workers = {name: worker for name, worker in workers.items() if name == self._name}
        verdicts = {name: self._judge(worker) for name, worker in workers.items()}
        if not verdicts:
            verdicts = {self._name or "worker": (False, "the application's lifespan has put no such worker in place")}
        well = all(ok for ok, _ in verdicts.values())
        body = {"ok": well, "workers": {name: {"ok": ok, "reason": why} for name, (ok, why) in verdicts.items()}}
        response = JSONResponse(body, 200 if well else 503, {"Cache-Control": "no-store"})
        await response(scope, receive, send)


def may_be_probe(scope: Scope, routes: Sequence[BaseRoute] | None) -> bool:
    """Tell whether a request may be answered by a probe: one that has its name, and is not known to go elsewhere.

    Args:
        scope: the request.
        routes: among which it finds its own; None if they are not known.
    """
    if scope["type"] != "http" or str(scope["path"]).rpartition("/")[2] not in _JUDGES:
        return False
    if routes is None:
        return True
    for route in routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            found: Mapping[str, Any] = child
            if isinstance(route, Route):
                return isinstance(found.get("endpoint"), Probe)
            # A mounted application that is no router, and a router of FastAPI, do not tell what is in them.
            return may_be_probe({**scope, **child}, getattr(route, "routes", None) or None)
    return False


def _started(worker: WorkerContext) -> tuple[bool, str]:
    if worker.outcome is Outcome.NEVER_STARTED:
        return False, "stopped before it started"
    return (False, worker.ready_reason) if worker.is_pending else (True, "started")


_JUDGES: Final[Mapping[str, Callable[[WorkerContext], tuple[bool, str]]]] = {
    "livez": lambda worker: (worker.is_alive, worker.alive_reason),
    "readyz": lambda worker: (worker.is_ready, worker.ready_reason),
    "startupz": _started,
}
