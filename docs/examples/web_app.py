"""A web application that ends well: background work, a stream and a websocket, on three servers.

    python docs/examples/web_app.py                   # uvicorn; or: uvicorn web_app:app --app-dir docs/examples
    python docs/examples/web_app.py hypercorn         # hypercorn on asyncio
    python docs/examples/web_app.py hypercorn-trio    # hypercorn on trio

Then, in another terminal, and with Ctrl-C in the first one at any moment:

    curl -X POST 'http://127.0.0.1:8000/thumbnails?picture=cat.jpg'
    curl -N 'http://127.0.0.1:8000/clock?every=0.5'
    curl -i http://127.0.0.1:8000/readyz
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import hypercorn.asyncio
import hypercorn.trio
import trio
import uvicorn
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Lifespan
from starlette.websockets import WebSocket, WebSocketDisconnect

from workerctx import WorkerContext, stop_on_signals
from workerctx_starlette import WorkerContextMiddleware, inject, probes, worker_lifespan

GRACE = 20


async def make_thumbnail(picture: str) -> None:
    """Do what the client does not wait for."""
    await anyio.sleep(1)
    print(f"made a thumbnail of {picture}", flush=True)


@inject
async def thumbnails(request: Request, worker: WorkerContext) -> Response:
    """Accept work; the shutdown waits for it."""
    picture = request.query_params.get("picture", "cat.jpg")
    worker.spawn(make_thumbnail, picture, name=f"thumbnail of {picture}")
    return JSONResponse({"accepted": picture, "running": [task.name for task in worker.running]}, status_code=202)


@inject
async def clock(request: Request, worker: WorkerContext) -> Response:
    """Stream until the client leaves or the worker stops."""
    every = float(request.query_params.get("every", "1"))

    async def ticks() -> AsyncIterator[str]:
        yield "tick\n"
        while await worker.sleep(every):  # False as soon as a stop is asked for
            yield "tick\n"
        yield "closing\n"

    return StreamingResponse(ticks(), media_type="text/plain")


@inject
async def echo(websocket: WebSocket, worker: WorkerContext) -> None:
    """Echo until the client leaves or the worker stops."""
    await websocket.accept()
    async with anyio.create_task_group() as tasks:

        async def leave() -> None:
            await worker.wait_stopping()
            tasks.cancel_scope.cancel()

        tasks.start_soon(leave)
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            tasks.cancel_scope.cancel()
    if worker.is_stopped:
        await websocket.close(1001, "the server is stopping")


def application(lifespan: Lifespan[Starlette]) -> Starlette:
    """Make the application around a lifespan."""
    return Starlette(
        routes=[
            Route("/thumbnails", thumbnails, methods=["POST"]),
            Route("/clock", clock),
            WebSocketRoute("/echo", echo),
            *probes(),
        ],
        lifespan=lifespan,
        middleware=[Middleware(WorkerContextMiddleware)],
    )


app = application(worker_lifespan("web", grace=GRACE, signals="chain"))
"""For uvicorn, which tells an application of a shutdown too late: hence the chained signals."""


async def serve_with_hypercorn(serve: Callable[..., Awaitable[None]], port: int) -> None:
    """Let signals end the context, and the context end the server."""
    ctx = WorkerContext("web", grace=GRACE)
    config = Config.from_mapping(bind=[f"127.0.0.1:{port}"], graceful_timeout=GRACE + 2)
    with stop_on_signals(ctx):
        await serve(application(worker_lifespan(ctx)), config, shutdown_trigger=ctx.wait_stopping)
    await ctx  # raises if the context failed, whatever the server made of it


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("server", nargs="?", default="uvicorn", choices=["uvicorn", "hypercorn", "hypercorn-trio"])
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    match options.server:
        case "uvicorn":
            uvicorn.run(app, port=options.port, timeout_graceful_shutdown=GRACE + 2)
        case "hypercorn":
            asyncio.run(serve_with_hypercorn(hypercorn.asyncio.serve, options.port))
        case "hypercorn-trio":
            trio.run(serve_with_hypercorn, hypercorn.trio.serve, options.port)


if __name__ == "__main__":
    main()
