"""Finding the context that a connection carries in its state.

Starlette copies what the lifespan yielded into the state of every request, so a context is there under its name. Any
context in the state counts, whoever put it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from starlette.requests import HTTPConnection  # noqa: TC002 - FastAPI evaluates the annotations below

from workerctx.errors import AmbiguousWorker, MissingData
from workerctx.lifecycle import WorkerContext
from workerctx_starlette._fastapi import Dependency

if TYPE_CHECKING:
    from collections.abc import Mapping


def workers_from(connection: Mapping[str, Any]) -> dict[str, WorkerContext]:
    """Return every context of a request, websocket or ASGI scope, by name."""
    state = cast("Mapping[str, object]", connection.get("state") or {})
    return {name: value for name, value in state.items() if isinstance(value, WorkerContext)}


def worker_from(connection: Mapping[str, Any], name: str | None = None) -> WorkerContext:
    """Return the context of a request, websocket or ASGI scope.

    Args:
        connection: a Starlette `Request`, `WebSocket` or other `HTTPConnection`, or the ASGI scope itself.
        name: which one; needed only where there are several.

    Raises:
        MissingData: there is none, or none of that name.
        AmbiguousWorker: there are several and no name was given.
    """
    workers = workers_from(connection)
    if not workers:
        raise MissingData(
            f"no worker{'' if name is None else f' {name!r}'} in the connection's state: give the application a"
            " lifespan, such as worker_lifespan('web'), and run it with its lifespan (TestClient: as a context manager)"
        )
    if name is None and len(workers) == 1:
        return next(iter(workers.values()))
    names = ", ".join(sorted(workers))
    if name is None:
        raise AmbiguousWorker(
            f"this application has several workers ({names}) and none was named: ask for"
            " Annotated[WorkerContext, Named('...')], or worker_from(connection, '...')"
        )
    if name not in workers:
        raise MissingData(f"no worker {name!r} in the connection's state, which has {names}: use one of these names")
    return workers[name]


async def current_worker(conn: HTTPConnection) -> WorkerContext:
    """Return the context of a request or websocket; a dependency for FastAPI.

    Raises:
        MissingData: there is none.
        AmbiguousWorker: there are several; ask with `Named`.
    """
    return worker_from(conn)


class Named(Dependency):
    """Chooses one of several contexts: ``worker: Annotated[WorkerContext, Named("mailer")]``.

    Starlette endpoints need `inject` for it; FastAPI takes it as one of its own dependencies.
    """

    def __init__(self, name: str) -> None:
        async def named_worker(conn: HTTPConnection) -> WorkerContext:
            return worker_from(conn, name)

        super().__init__(named_worker)
        # FastAPI's own class is a frozen one.
        object.__setattr__(self, "name", name)

    name: str
    """Its key in the lifespan state, which is the context's name."""


CurrentWorker: TypeAlias = Annotated[WorkerContext, Dependency(current_worker)]
"""The annotation for FastAPI endpoints: ``worker: CurrentWorker``."""
