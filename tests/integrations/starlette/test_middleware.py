"""`WorkerContextMiddleware` as plain ASGI, and through test clients."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from workerctx import Outcome, WorkerContext
from workerctx.errors import AmbiguousWorker, MissingData, TaskCancelled
from workerctx_starlette import WorkerContextMiddleware, probes, worker_lifespan


async def respond(scope, receive, send):
    """The smallest application."""
    await PlainTextResponse("done")(scope, receive, send)


def status_of(messages):
    return messages[0]["status"], dict(messages[0]["headers"])


async def test_a_request_is_counted_while_it_runs(exchange):
    """H1: a tracked request is on the context's count from its first moment to its last."""
    counts = []

    async def app(scope, receive, send):
        counts.append(scope["state"]["web"].task_count)
        await respond(scope, receive, send)

    async with WorkerContext("web") as ctx:
        messages = await exchange(WorkerContextMiddleware(app), {"web": ctx})
        assert (counts, ctx.task_count) == ([1], 0)
    assert messages[0]["status"] == 200


@pytest.mark.parametrize(("track", "count"), [(True, 1), (False, 0), (lambda scope: scope["path"] == "/", 1)])
async def test_what_is_tracked_can_be_chosen(exchange, track, count):
    """H1: `track` is yes, no, or a function of the ASGI scope."""
    counts = []

    async def app(scope, receive, send):
        counts.append(scope["state"]["web"].task_count)

    async with WorkerContext("web") as ctx:
        middleware = WorkerContextMiddleware(app, track=track)
        await exchange(middleware, {"web": ctx})
        await exchange(middleware, {"web": ctx}, "/other")
    assert counts == [count, 0 if callable(track) else count]


async def test_the_drain_waits_for_a_request(exchange):
    """H1: a stopping context is not finished before its tracked requests are."""
    begun, release = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        begun.set()
        await release.wait()
        await respond(scope, receive, send)

    sent = []
    async with anyio.create_task_group() as tasks:
        async with WorkerContext("web") as ctx:
            tasks.start_soon(lambda: exchange(WorkerContextMiddleware(app), {"web": ctx}, sent=sent))
            await begun.wait()
            ctx.stop()
            await anyio.lowlevel.checkpoint()
            assert not ctx.is_finished
            release.set()
    assert ctx.outcome is Outcome.CLEAN
    assert status_of(sent)[0] == 200


@pytest.mark.parametrize("change", ["pause", "stop"])
async def test_a_paused_or_stopping_context_answers_503(exchange, change):
    """H1: while paused or stopping, a tracked route says 503, when to try again, and why."""
    async with WorkerContext("web") as ctx:
        getattr(ctx, change)("maintenance")
        messages = await exchange(WorkerContextMiddleware(respond, retry_after=7), {"web": ctx})
        status, headers = status_of(messages)
        assert (status, headers[b"retry-after"]) == (503, b"7")
        assert b"maintenance" in messages[1]["body"]
        assert ctx.task_count == 0


async def test_a_request_in_flight_survives_a_pause(exchange):
    """H1: a pause holds back new requests and lets those that run go on."""
    begun, release = anyio.Event(), anyio.Event()

    async def app(scope, receive, send):
        begun.set()
        await release.wait()
        await respond(scope, receive, send)

    sent = []
    async with WorkerContext("web") as ctx, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: exchange(WorkerContextMiddleware(app), {"web": ctx}, sent=sent))
        await begun.wait()
        ctx.pause()
        release.set()
    assert status_of(sent)[0] == 200


@pytest.mark.parametrize("change", ["pause", "stop"])
async def test_a_websocket_is_refused_while_paused_or_stopping(exchange, change):
    """H1: while paused or stopping, a websocket is closed before it was accepted."""
    async with WorkerContext("web") as ctx:
        getattr(ctx, change)("maintenance")
        messages = await exchange(WorkerContextMiddleware(respond), {"web": ctx}, kind="websocket")
    assert [(message["type"], message["code"]) for message in messages] == [("websocket.close", 1013)]
    assert "maintenance" in messages[0]["reason"]


async def run_beyond_the_deadline(exchange, app, **options):
    """Send a request to an application that does not end by itself, and stop the context with no grace."""
    sent, begun = [], anyio.Event()

    async def noticed(scope, receive, send):
        await app(begun, scope, receive, send)

    async with anyio.create_task_group() as tasks:
        async with WorkerContext("web", grace=0) as ctx:
            tasks.start_soon(lambda: exchange(WorkerContextMiddleware(noticed), {"web": ctx}, sent=sent, **options))
            await begun.wait()
    assert ctx.outcome is Outcome.CANCELLED
    return sent


async def test_a_request_cancelled_before_its_response_gets_503(exchange, caplog):
    """H1: at the deadline a request is cancelled; if nothing was sent yet, the client hears 503."""

    async def app(begun, scope, receive, send):
        begun.set()
        await anyio.sleep_forever()

    sent = await run_beyond_the_deadline(exchange, app, path="/report")
    status, headers = status_of(sent)
    assert (status, headers[b"retry-after"]) == (503, b"5")
    assert caplog.messages == ["GET /report was cancelled at the deadline of worker 'web'"]


async def test_a_response_that_began_is_not_followed_by_another(exchange):
    """H1: a response cancelled half-way is left as it is; the server hears that it is incomplete."""
    sent, begun = [], anyio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        begun.set()
        await anyio.sleep_forever()

    async def client():
        with pytest.raises(TaskCancelled, match=r"GET / was cut off by the stop of worker 'web'"):
            await exchange(WorkerContextMiddleware(app), {"web": ctx}, sent=sent)

    async with anyio.create_task_group() as tasks, WorkerContext("web", grace=0) as ctx:
        tasks.start_soon(client)
        await begun.wait()
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert ctx.outcome is Outcome.CANCELLED


async def test_what_goes_on_after_a_complete_response_is_cut_off_in_silence(exchange):
    """H1: a response whose background work is cancelled was complete, and nobody hears otherwise."""

    async def app(begun, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all of it"})
        begun.set()
        await anyio.sleep_forever()

    sent = await run_beyond_the_deadline(exchange, app)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_an_open_websocket_is_closed_at_the_deadline(exchange):
    """H1: a websocket that does not end by itself is closed as going away."""

    async def app(begun, scope, receive, send):
        await send({"type": "websocket.accept"})
        begun.set()
        await anyio.sleep_forever()

    sent = await run_beyond_the_deadline(exchange, app, kind="websocket")
    assert [(message["type"], message.get("code")) for message in sent] == [
        ("websocket.accept", None),
        ("websocket.close", 1001),
    ]


async def test_a_websocket_not_yet_accepted_is_refused_at_the_deadline(exchange):
    """H1: a websocket that was still being decided upon is refused."""

    async def app(begun, scope, receive, send):
        begun.set()
        await anyio.sleep_forever()

    sent = await run_beyond_the_deadline(exchange, app, kind="websocket")
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1013)]


async def test_a_closed_websocket_is_not_closed_again(exchange):
    """H1: what an endpoint does after it has closed its websocket is cancelled without another word."""

    async def app(begun, scope, receive, send):
        await send({"type": "websocket.close", "code": 1000})
        begun.set()
        await anyio.sleep_forever()

    sent = await run_beyond_the_deadline(exchange, app, kind="websocket")
    assert len(sent) == 1


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(monkeypatch):
    """H1: the last words to a client are bounded in time too."""
    monkeypatch.setattr("workerctx_starlette._middleware._LAST_WORDS", 0.01)
    begun = anyio.Event()

    async def app(scope, receive, send):
        begun.set()
        await anyio.sleep_forever()

    async def send(message):
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        async with WorkerContext("web", grace=0) as ctx:
            scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "state": {"web": ctx}}
            tasks.start_soon(WorkerContextMiddleware(app), scope, None, send)
            await begun.wait()
    assert ctx.is_finished


async def test_an_error_of_the_application_passes_through(exchange):
    """H1: an exception reaches the server as it was raised, and the count falls."""

    async def app(scope, receive, send):
        raise LookupError("no such page")

    async with WorkerContext("web") as ctx:
        with pytest.raises(LookupError, match="no such page"):
            await exchange(WorkerContextMiddleware(app), {"web": ctx})
        assert ctx.task_count == 0


async def test_a_stop_at_the_last_moment_is_a_503(exchange, monkeypatch):
    """H1: a stop between the look at the state and the admission is answered like any other."""
    async with WorkerContext("web") as ctx:
        middleware = WorkerContextMiddleware(respond)
        monkeypatch.setattr(type(ctx), "is_running", property(lambda ctx: ctx.stop("just now")))
        messages = await exchange(middleware, {"web": ctx})
    assert status_of(messages)[0] == 503
    assert b"just now" in messages[1]["body"]


async def test_a_missing_context_is_an_error_that_says_what_to_do(exchange):
    """H1: tracking without a context in the state says that a lifespan is missing."""
    with pytest.raises(MissingData, match="worker_lifespan"):
        await exchange(WorkerContextMiddleware(respond), {})


async def test_with_several_contexts_the_middleware_needs_a_name(exchange):
    """H2: tracking on one of several contexts needs its name, and the error lists the names."""
    async with WorkerContext("web") as web, WorkerContext("mailer") as mailer:
        workers = {"web": web, "mailer": mailer}
        with pytest.raises(AmbiguousWorker, match="mailer, web"):
            await exchange(WorkerContextMiddleware(respond), workers)
        with pytest.raises(MissingData, match=r"'other'.*mailer, web"):
            await exchange(WorkerContextMiddleware(respond, name="other"), workers)
        web.pause()
        assert status_of(await exchange(WorkerContextMiddleware(respond, name="web"), workers))[0] == 503
        assert status_of(await exchange(WorkerContextMiddleware(respond, name="mailer"), workers))[0] == 200


async def test_lifespan_messages_pass_by(exchange):
    """H1: what is neither a request nor a websocket goes straight to the application."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    await exchange(WorkerContextMiddleware(app), {}, kind="lifespan")
    assert seen == ["lifespan"]


class Gate:
    """A synchronous endpoint that waits in its thread until the test lets it go on."""

    def __init__(self):
        self.begun, self.release = threading.Event(), threading.Event()

    def endpoint(self, request):
        self.begun.set()
        assert self.release.wait(30)
        return PlainTextResponse("done")


def application(*routes, **options):
    return Starlette(
        routes=routes,
        lifespan=worker_lifespan("web", **options),
        middleware=[Middleware(WorkerContextMiddleware)],
    )


def test_shutdown_waits_for_requests_in_threads(client_of):
    """H1: the drain waits for an endpoint that runs in a thread, which nobody can cancel."""
    gate = Gate()
    with ThreadPoolExecutor() as pool, client_of(application(Route("/", gate.endpoint), grace=0)) as client:
        answer = pool.submit(client.get, "/")
        assert gate.begun.wait(30)
        worker = client.app_state["web"]
        worker.stop()
        assert not worker.is_finished
        gate.release.set()
        answer.result(30)


def test_a_client_hears_503_when_its_request_is_cancelled(client_of):
    """H1: through a whole Starlette application, a request cancelled at the deadline is answered with 503."""
    begun = threading.Event()

    async def endpoint(request):
        begun.set()
        await anyio.sleep_forever()

    with ThreadPoolExecutor() as pool, client_of(application(Route("/", endpoint))) as client:
        answer = pool.submit(client.get, "/")
        assert begun.wait(30)
        client.app_state["web"].stop("deploy", grace=0)
        assert answer.result(30).status_code == 503


def test_a_background_task_is_part_of_its_request(client_of):
    """H1: what Starlette runs after a response is tracked with it."""
    counts = []

    async def endpoint(request):
        worker = request.state.web
        return PlainTextResponse("done", background=BackgroundTask(lambda: counts.append(worker.task_count)))

    with client_of(application(Route("/", endpoint))) as client:
        client.get("/")
    assert counts == [1]


@pytest.mark.parametrize("change", ["pause", "stop"])
def test_probes_answer_whatever_the_state(client_of, change):
    """H1: while paused or stopping, tracked routes answer 503 and probes still answer."""
    routes = [Route("/work", lambda request: PlainTextResponse("done")), *probes(), Mount("/health", routes=probes())]
    with client_of(application(*routes)) as client:
        worker = client.app_state["web"]
        getattr(worker, change)("maintenance")
        assert client.get("/work").status_code == 503
        for prefix in ("", "/health"):
            ready = client.get(f"{prefix}/readyz")
            assert ready.status_code == 503
            assert "maintenance" in ready.text
            assert client.get(f"{prefix}/startupz").status_code == 200
            assert "retry-after" not in ready.headers


def test_probes_are_never_tracked(client_of):
    """H1: a probe is on nobody's count."""
    with client_of(application(*probes())) as client:
        for path in ("/livez", "/readyz", "/startupz"):
            assert client.get(path).status_code == 200
        assert client.app_state["web"].statistics().accepted == 0


def test_a_route_that_only_looks_like_a_probe_is_tracked(client_of):
    """H1: it is the route that makes a probe, not its path."""

    def endpoint(request):
        return PlainTextResponse(request.path_params["name"])

    with client_of(application(Route("/files/{name}", endpoint), *probes())) as client:
        assert client.get("/files/livez").text == "livez"
        assert client.app_state["web"].statistics().accepted == 1
        client.get("/none/livez")
        assert client.app_state["web"].statistics().accepted == 2


def hidden(app):
    """A middleware that does not tell what it wraps."""

    async def inner(scope, receive, send):
        await app(scope, receive, send)

    return inner


def test_probes_answer_behind_what_does_not_tell_its_routes(client_of):
    """H1: where the routes cannot be seen, what has the name of a probe is let through."""
    routes = [*probes(), Mount("/health", app=hidden(Starlette(routes=probes()))), Route("/work", respond)]
    stack = [Middleware(WorkerContextMiddleware), Middleware(hidden)]
    with client_of(Starlette(routes=routes, lifespan=worker_lifespan("web"), middleware=stack)) as client:
        client.app_state["web"].pause()
        for prefix in ("", "/health"):
            assert client.get(f"{prefix}/livez").status_code == 200
        assert client.get("/work").status_code == 503


def test_a_websocket_is_no_probe(client_of):
    """H1: a websocket is tracked whatever its name."""

    async def endpoint(websocket):
        await websocket.accept()
        await websocket.close()

    with client_of(application(WebSocketRoute("/livez", endpoint))) as client:
        with client.websocket_connect("/livez"):
            pass
        assert client.app_state["web"].statistics().accepted == 1


def test_a_stream_that_is_cut_off_does_not_look_complete(client_of):
    """H1: a middleware outside, which would end the body for the application, hears that it is not whole."""
    begun = threading.Event()

    async def parts():
        yield "a part"
        begun.set()
        await anyio.sleep_forever()

    def ending(app):
        """Do what BaseHTTPMiddleware does, whose own way leaves generators behind with some versions on trio."""

        async def inner(scope, receive, send):
            await app(scope, receive, send)
            if scope["type"] == "http":
                await send({"type": "http.response.body"})

        return inner

    stack = [Middleware(ending), Middleware(WorkerContextMiddleware)]
    routes = [Route("/", lambda request: StreamingResponse(parts()))]
    app = Starlette(routes=routes, lifespan=worker_lifespan("web"), middleware=stack)
    with ThreadPoolExecutor() as pool, client_of(app) as client:
        answer = pool.submit(client.get, "/")
        assert begun.wait(30)
        client.app_state["web"].stop("deploy", grace=0)
        with pytest.raises(TaskCancelled):
            answer.result(30)


def test_tracking_inside_a_mount_knows_its_probes(client_of):
    """H1: a middleware on a part of an application finds the probes of that part."""
    part = Mount(
        "/part",
        routes=[Route("/work", lambda request: PlainTextResponse("done")), *probes()],
        middleware=[Middleware(WorkerContextMiddleware)],
    )
    with client_of(Starlette(routes=[part], lifespan=worker_lifespan("web"))) as client:
        client.app_state["web"].pause()
        assert client.get("/part/work").status_code == 503
        assert client.get("/part/livez").status_code == 200


def test_a_client_is_refused_a_websocket(client_of):
    """H1: a websocket client hears that it should try again later, and is served after the pause."""

    async def endpoint(websocket):
        await websocket.accept()
        await websocket.close()

    with client_of(application(WebSocketRoute("/ws", endpoint))) as client:
        client.app_state["web"].pause()
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/ws"):
            pass
        assert refused.value.code == 1013
        client.app_state["web"].resume()
        with client.websocket_connect("/ws"):
            pass


async def test_cancellations_are_reported_as_warnings(exchange, caplog):
    """H1: what was cut off at the deadline is named in the log."""

    async def app(begun, scope, receive, send):
        begun.set()
        await anyio.sleep_forever()

    await run_beyond_the_deadline(exchange, app, path="/chat", kind="websocket")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "WEBSOCKET /chat was cancelled at the deadline of worker 'web'")
    ]
