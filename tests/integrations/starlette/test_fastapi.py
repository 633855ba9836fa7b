"""The context in FastAPI endpoints."""

from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket

from workerctx import WorkerContext
from workerctx.errors import AmbiguousWorker
from workerctx_starlette import (
    CurrentWorker,
    Named,
    WorkerContextMiddleware,
    combine_lifespans,
    current_worker,
    inject,
    probes,
    worker_lifespan,
)

Mailer = Annotated[WorkerContext, Named("mailer")]


def application(*names):
    app = FastAPI(lifespan=combine_lifespans(*map(worker_lifespan, names or ("web",))))
    app.add_middleware(WorkerContextMiddleware, name=names[0] if names else None)
    app.router.routes.extend(probes())
    return app


def test_an_endpoint_gets_the_context(client_of):
    """H2: a FastAPI endpoint asks for the context with `CurrentWorker`."""
    app = application()

    @app.get("/")
    async def asynchronous(worker: CurrentWorker) -> str:
        return f"{worker.name} {worker.task_count}"

    @app.get("/sync")
    def synchronous(worker: CurrentWorker, times: int = 1) -> str:
        return worker.name * times

    @app.get("/depends")
    async def spelled_out(worker: Annotated[WorkerContext, Depends(current_worker)]) -> str:
        return worker.name

    with client_of(app) as client:
        assert client.get("/").json() == "web 1"
        assert client.get("/sync?times=2").json() == "webweb"
        assert client.get("/depends").json() == "web"
        assert client.get("/readyz").status_code == 200
        parameters = client.get("/openapi.json").json()["paths"]["/sync"]["get"]["parameters"]
        assert [parameter["name"] for parameter in parameters] == ["times"]


def test_a_websocket_gets_the_context(client_of):
    """H2: a FastAPI websocket asks for the context with `CurrentWorker`."""
    app = application()

    @app.websocket("/")
    async def endpoint(websocket: WebSocket, worker: CurrentWorker) -> None:
        await websocket.accept()
        await websocket.send_text(worker.name)
        await websocket.close()

    with client_of(app) as client, client.websocket_connect("/") as connection:
        assert connection.receive_text() == "web"


def test_a_dependency_gets_the_context(client_of):
    """H2: a dependency of a dependency asks in the same way."""
    app = application()

    async def name_of_worker(worker: CurrentWorker) -> str:
        return worker.name

    router = APIRouter()

    @router.get("/")
    async def endpoint(name: Annotated[str, Depends(name_of_worker)]) -> str:
        return name

    app.include_router(router, prefix="/part")
    with client_of(app) as client:
        assert client.get("/part/").json() == "web"


def test_one_of_several_contexts_is_chosen_by_name(client_of):
    """H2: with several contexts `Named` says which one, and asking without a name lists them."""
    app = application("web", "mailer")

    @app.get("/")
    async def named(mailer: Mailer, web: Annotated[WorkerContext, Named("web")]) -> str:
        return f"{mailer.name} {web.name}"

    @app.websocket("/ws")
    async def talk(websocket: WebSocket, mailer: Mailer) -> None:
        await websocket.accept()
        await websocket.send_text(mailer.name)
        await websocket.close()

    @app.get("/unnamed")
    async def unnamed(worker: CurrentWorker) -> str:
        return worker.name

    with client_of(app) as client:
        assert client.get("/").json() == "mailer web"
        with client.websocket_connect("/ws") as connection:
            assert connection.receive_text() == "mailer"
        with pytest.raises(AmbiguousWorker, match="mailer, web"):
            client.get("/unnamed")


def test_injected_endpoints_work_under_fastapi_too(client_of):
    """H2: an endpoint made with `inject` hides from FastAPI what it fills itself."""
    app = application()

    @app.get("/")
    @inject
    async def endpoint(request: Request, worker: WorkerContext, times: int) -> str:
        return worker.name * times

    with client_of(app) as client:
        assert client.get("/?times=2").json() == "webweb"


def test_tracked_routes_answer_503_while_paused(client_of):
    """H1: under FastAPI too, a paused context turns requests away and probes answer."""
    app = application()

    @app.get("/")
    async def endpoint(worker: CurrentWorker) -> str:
        return worker.name

    with client_of(app) as client:
        client.app_state["web"].pause()
        assert client.get("/").status_code == 503
        assert client.get("/livez").status_code == 200
        client.app_state["web"].resume()
        assert client.get("/").status_code == 200


def test_probes_of_an_included_router_answer_too(client_of):
    """H1: routers that are included do not show their routes, and their probes still answer."""
    app, operations = application(), APIRouter()
    operations.routes.extend(probes())
    app.include_router(operations, prefix="/ops")

    with client_of(app) as client:
        client.app_state["web"].pause()
        assert client.get("/ops/livez").status_code == 200
