"""`inject` on Starlette endpoints of every kind."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from workerctx import WorkerContext
from workerctx.errors import AmbiguousWorker, MissingData
from workerctx_starlette import (
    CurrentWorker,
    Named,
    combine_lifespans,
    current_worker,
    inject,
    worker_from,
    worker_lifespan,
    workers_from,
)

if TYPE_CHECKING:
    from decimal import Decimal

Mailer = Annotated[WorkerContext, Named("mailer")]


class OwnContext(WorkerContext):
    """A context of the application's own making."""


@inject
async def asynchronous(request: Request, worker: WorkerContext) -> Response:
    return PlainTextResponse(worker.name)


@inject
def synchronous(request: Request, worker: WorkerContext) -> Response:
    return PlainTextResponse(worker.name)


@inject
async def keyword_only(request: Request, *, worker: WorkerContext) -> Response:
    return PlainTextResponse(worker.name)


@inject
async def context_first(worker: WorkerContext, request: Request) -> Response:
    return PlainTextResponse(f"{worker.name}{request.url.path.strip('/')}")


@inject
async def subclass(request: Request, worker: OwnContext) -> Response:
    return PlainTextResponse(worker.name)


@inject
async def as_for_fastapi(request: Request, worker: CurrentWorker) -> Response:
    return PlainTextResponse(worker.name)


@inject
async def unknown_types_elsewhere(request: Request, worker: WorkerContext, amount: Decimal | None = None) -> Response:
    return PlainTextResponse(worker.name)


async def with_prefix(prefix: str, request: Request, worker: WorkerContext) -> Response:
    return PlainTextResponse(prefix + worker.name)


class Callable:
    async def __call__(self, request: Request, worker: WorkerContext) -> Response:
        return PlainTextResponse(worker.name)


@inject
class Endpoint(HTTPEndpoint):
    async def get(self, request: Request, worker: WorkerContext) -> Response:
        return PlainTextResponse(worker.name)

    def post(self, request: Request, *, mailer: WorkerContext) -> Response:
        return PlainTextResponse(mailer.name)

    async def put(self, request: Request) -> Response:
        return PlainTextResponse(self.signed("nothing to inject", worker=WorkerContext("nobody")))

    @staticmethod
    def signed(text: str, worker: WorkerContext) -> str:
        return f"{text} for {worker.name}"


@inject
class Inheriting(Endpoint):
    async def delete(self, request: Request, worker: WorkerContext) -> Response:
        return PlainTextResponse(worker.name)


class OneMethod(HTTPEndpoint):
    @inject
    async def get(self, request: Request, worker: WorkerContext) -> Response:
        return PlainTextResponse(worker.name)


@inject
class Socket(WebSocketEndpoint):
    encoding = "text"

    async def on_connect(self, websocket: WebSocket, worker: WorkerContext) -> None:
        await websocket.accept()
        await websocket.send_text(worker.name)

    async def on_receive(self, websocket: WebSocket, data: str, worker: WorkerContext) -> None:
        await websocket.send_text(data + worker.name)


@inject
async def socket(websocket: WebSocket, worker: WorkerContext) -> None:
    await websocket.accept()
    await websocket.send_text(worker.name)
    await websocket.close()


def application(*routes, lifespan=None):
    return Starlette(routes=routes, lifespan=lifespan or worker_lifespan(lambda: OwnContext("web")))


@pytest.mark.parametrize(
    "endpoint",
    [
        asynchronous,
        synchronous,
        keyword_only,
        context_first,
        subclass,
        as_for_fastapi,
        unknown_types_elsewhere,
        inject(functools.partial(with_prefix, "")),
        inject(Callable()),
        Endpoint,
        OneMethod,
        Inheriting,
    ],
)
def test_an_endpoint_gets_the_context(client_of, endpoint):
    """H2: a Starlette endpoint of any kind asks for the context by annotation."""
    with client_of(application(Route("/", endpoint))) as client:
        assert client.get("/").text == "web"


def test_each_method_of_a_class_gets_what_it_asks_for(client_of):
    """H2: the methods of an endpoint class, its own and inherited ones, sync and async, are filled by annotation."""
    with client_of(application(Route("/", Inheriting))) as client:
        answers = [client.request(method, "/").text for method in ("GET", "POST", "PUT", "DELETE")]
    assert answers == ["web", "web", "nothing to inject for nobody", "web"]


def test_a_websocket_function_gets_the_context(client_of):
    """H2: a websocket endpoint asks for the context by annotation."""
    with client_of(application(WebSocketRoute("/", socket))) as client, client.websocket_connect("/") as connection:
        assert connection.receive_text() == "web"


def test_a_websocket_class_gets_the_context(client_of):
    """H2: each method of a websocket class that asks for the context gets it."""
    with client_of(application(WebSocketRoute("/", Socket))) as client, client.websocket_connect("/") as connection:
        assert connection.receive_text() == "web"
        connection.send_text("hello ")
        assert connection.receive_text() == "hello web"


@inject
async def both(request: Request, web: Annotated[WorkerContext, Named("web")], mailer: Mailer) -> Response:
    return PlainTextResponse(f"{web.name} and {mailer.name}")


TWO = combine_lifespans(worker_lifespan("web"), worker_lifespan("mailer"))


def test_one_of_several_contexts_is_chosen_by_name(client_of):
    """H2: with several contexts, `Named` says which one."""
    with client_of(application(Route("/", both), lifespan=TWO)) as client:
        assert client.get("/").text == "web and mailer"


def test_asking_without_a_name_lists_the_names(client_of):
    """H2: with several contexts, asking for one without a name is an error that lists them."""
    with client_of(application(Route("/", asynchronous), lifespan=TWO)) as client:
        with pytest.raises(AmbiguousWorker, match=r"several workers \(mailer, web\)"):
            client.get("/")


def test_an_unknown_name_lists_the_names(client_of):
    """H2: asking for a context that is not there lists those that are."""
    with client_of(application(Route("/", both))) as client, pytest.raises(MissingData, match=r"'mailer'.*has web"):
        client.get("/")


def test_without_a_lifespan_the_error_says_so(client_of):
    """H2: an application whose lifespan did not run has no context, and the error says what to do."""
    client = client_of(application(Route("/", asynchronous)))
    with pytest.raises(MissingData, match="run it with its lifespan"):
        client.get("/")


async def test_a_context_that_is_passed_is_left_alone():
    """H2: an endpoint can be called directly with a context of the caller's choice."""
    request = Request({"type": "http", "state": {}})
    chosen = WorkerContext("chosen")
    assert (await asynchronous(request, worker=chosen)).body == b"chosen"
    with pytest.raises(TypeError, match="pass a worker by name"):
        await asynchronous(request, chosen)


async def test_a_call_without_a_connection_says_what_is_missing():
    """H2: without a request there is nothing to take the context from."""
    with pytest.raises(TypeError, match="neither a request nor a websocket"):
        await asynchronous("not a request")


def test_an_endpoint_that_asks_for_nothing_is_refused():
    """H2: `inject` on something that asks for no context is a mistake, and says so."""

    async def endpoint(request: Request) -> Response: ...

    class Plain(HTTPEndpoint):
        async def get(self, request: Request) -> Response: ...

    for mistake in (endpoint, Plain):
        with pytest.raises(TypeError, match="asks for no worker: annotate a parameter"):
            inject(mistake)


def test_a_positional_only_context_is_refused():
    """H2: a parameter that cannot be passed by name cannot be filled, and says so."""

    async def endpoint(request: Request, worker: WorkerContext, /) -> Response: ...

    with pytest.raises(TypeError, match="'worker' cannot be filled by name"):
        inject(endpoint)


def test_an_endpoint_keeps_its_name_and_docstring():
    """H2: what is injected looks like what it was made from, so routes keep their names."""
    assert asynchronous.__name__ == "asynchronous"
    assert Route("/", inject(functools.partial(with_prefix, ""))).name == "with_prefix"


async def test_contexts_can_be_found_by_hand():
    """H2: `worker_from` takes a request, a websocket or the ASGI scope, and `workers_from` gives all."""
    web, mailer = WorkerContext("web"), WorkerContext("mailer")
    scope = {"type": "http", "state": {"web": web, "mailer": mailer, "other": object()}}
    assert worker_from(scope, "web") is web
    assert worker_from(Request(scope), "mailer") is mailer
    assert workers_from(WebSocket({**scope, "type": "websocket"}, None, None)) == {"web": web, "mailer": mailer}
    assert await current_worker(Request({"type": "http", "state": {"web": web}})) is web
    assert workers_from({"type": "http"}) == {}
