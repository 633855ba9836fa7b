"""A program that the tests start: one application under one real server.

It prints a line when it listens (``port N``) and when something of note happens, so that a test never has to guess.

Usage: python served.py SERVER [GRACE]
"""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import hypercorn.asyncio
import hypercorn.trio
import trio
import uvicorn
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from workerctx import WorkerContext, stop_on_signals
from workerctx_starlette import WorkerContextMiddleware, combine_lifespans, inject, probes, worker_lifespan


def say(*words: object) -> None:
    """Tell the test."""
    print(*words, flush=True)


async def drained(worker: WorkerContext) -> None:
    """Background work that ends because a stop was asked for."""
    await worker.wait_stopping()
    say("background task drained")


@inject
async def slow(request: Request, worker: WorkerContext) -> Response:
    """Answer after the stop, and leave a background task behind."""
    say("slow begun")
    await worker.wait_stopping()
    return PlainTextResponse("slow done", background=BackgroundTask(say, "response task done"))


@inject
async def spawns(request: Request, worker: WorkerContext) -> Response:
    """Leave work to the context."""
    worker.spawn(drained, worker)
    return PlainTextResponse("spawned")


async def stuck(request: Request) -> Response:
    """Never answer."""
    say("stuck begun")
    try:
        await anyio.sleep_forever()
    finally:
        say("stuck ended")


@inject
async def ticks(request: Request, worker: WorkerContext) -> Response:
    """Stream until the stop."""

    async def content():
        yield "tick\n"
        while await worker.sleep(3600):
            yield "tick\n"
        yield "bye\n"

    return StreamingResponse(content())


async def endless(request: Request) -> Response:
    """Stream whatever happens."""

    async def content():
        try:
            while True:
                yield "tick\n"
                await anyio.sleep(0.02)
        finally:
            say("endless ended")

    return StreamingResponse(content())


@inject
async def socket_until_stop(websocket: WebSocket, worker: WorkerContext) -> None:
    """Talk until the stop."""
    await websocket.accept()
    await websocket.send_text("hello")
    await worker.wait_stopping()
    say("websocket ended")
    await websocket.close(1001)


async def socket_stuck(websocket: WebSocket) -> None:
    """Keep a websocket open whatever happens."""
    await websocket.accept()
    await websocket.send_text("hello")
    try:
        await anyio.sleep_forever()
    finally:
        say("stuck websocket ended")


@inject
async def fail(request: Request, worker: WorkerContext) -> Response:
    """Break the context."""
    return PlainTextResponse("failing", background=BackgroundTask(worker.fail, OSError("the disk is full")))


ROUTES = [
    Route("/fail", fail),
    Route("/slow", slow),
    Route("/spawns", spawns),
    Route("/stuck", stuck),
    Route("/ticks", ticks),
    Route("/endless", endless),
    WebSocketRoute("/ws", socket_until_stop),
    WebSocketRoute("/ws-stuck", socket_stuck),
    *probes(),
]


def application(lifespan: object) -> Starlette:
    """Make the application."""
    return Starlette(routes=ROUTES, lifespan=lifespan, middleware=[Middleware(WorkerContextMiddleware)])


def run_uvicorn(fd: int, grace: float, *, chained: bool, limit: int | None = None) -> None:
    """Serve as ``uvicorn.run`` does."""
    lifespan = worker_lifespan("web", grace=grace, signals="chain" if chained else None)
    uvicorn.run(application(lifespan), fd=fd, ws="websockets-sansio", lifespan="on", timeout_graceful_shutdown=limit)


async def run_hypercorn(serve: object, fd: int, grace: float) -> None:
    """Serve in the form for hypercorn."""
    ctx = WorkerContext("web", grace=grace)
    config = Config.from_mapping(bind=[f"fd://{fd}"], graceful_timeout=60)
    with stop_on_signals(ctx):
        await serve(application(worker_lifespan(ctx)), config, shutdown_trigger=ctx.wait_stopping)
    await ctx


async def run_hypercorn_with_two(fd: int, grace: float) -> None:
    """Serve with two contexts and chained signals, the first of which drains at once."""

    @asynccontextmanager
    async def lingering(app: object) -> AsyncGenerator[Mapping[str, WorkerContext]]:
        async with worker_lifespan("second", grace=grace, signals="chain")(app) as state:
            state["second"].spawn(linger, state["second"])
            yield state

    async def linger(second: WorkerContext) -> None:
        await second.wait_stopping()
        await first
        say("the first has drained")
        await anyio.wait_all_tasks_blocked()
        say("the second has drained")

    first = WorkerContext("web", grace=grace)
    lifespan = combine_lifespans(worker_lifespan(first, signals="chain"), lingering)
    config = Config.from_mapping(bind=[f"fd://{fd}"], graceful_timeout=60)
    await hypercorn.trio.serve(application(lifespan), config)


async def run_hypercorn_alone(serve: object, fd: int, grace: float, *, chained: bool) -> None:
    """Serve without a shutdown trigger."""
    lifespan = worker_lifespan("web", grace=grace, signals="chain" if chained else None)
    config = Config.from_mapping(bind=[f"fd://{fd}"], graceful_timeout=60 if chained else 0.5)
    await serve(application(lifespan), config)


def main(server: str, grace: str = "60") -> None:
    """Listen and serve."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    fd, seconds = listening.fileno(), float(grace)
    say("port", listening.getsockname()[1])
    match server.split("-"):
        case ["uvicorn"]:
            run_uvicorn(fd, seconds, chained=True)
        case ["uvicorn", "plain"]:
            run_uvicorn(fd, seconds, chained=False)
        case ["uvicorn", "limited"]:
            run_uvicorn(fd, seconds, chained=False, limit=1)
        case ["hypercorn", "asyncio"]:
            asyncio.run(run_hypercorn(hypercorn.asyncio.serve, fd, seconds))
        case ["hypercorn", "trio"]:
            trio.run(run_hypercorn, hypercorn.trio.serve, fd, seconds)
        case ["hypercorn", "trio", "two"]:
            trio.run(run_hypercorn_with_two, fd, seconds)
        case ["hypercorn", "asyncio", how]:
            asyncio.run(run_hypercorn_alone(hypercorn.asyncio.serve, fd, seconds, chained=how == "chained"))
        case ["hypercorn", "trio", how]:
            trio.run(lambda: run_hypercorn_alone(hypercorn.trio.serve, fd, seconds, chained=how == "chained"))


if __name__ == "__main__":
    main(*sys.argv[1:])
