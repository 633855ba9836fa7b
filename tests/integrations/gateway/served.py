"""A program that the tests start: a gateway inside an application, under hypercorn.

Usage: python served.py asyncio|trio URL
"""

import asyncio
import socket
import sys

import hypercorn.asyncio
import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from workerctx import stop_on_signals
from workerctx_starlette import combine_lifespans, probes, worker_lifespan
from workerctx_starlette.gateway import Gateway, GatewayConfig, Identity, bearer_tokens


def main(backend: str, url: str) -> None:
    """Listen and serve."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    gateway = Gateway(
        url,
        authenticate=bearer_tokens({"a token that nobody guesses": Identity("tests")}),
        config=GatewayConfig(grace=20),
    )
    app = Starlette(
        routes=[WebSocketRoute("/workers", gateway), *probes()],
        lifespan=combine_lifespans(worker_lifespan("web"), gateway.lifespan),
    )
    config = Config.from_mapping(bind=[f"fd://{listening.fileno()}"], graceful_timeout=10)
    print(f"listens on ws://127.0.0.1:{listening.getsockname()[1]}/workers", flush=True)

    async def drained() -> None:
        """The trigger for hypercorn: first the workers leave, then the server ends."""
        await gateway.context

    with stop_on_signals(gateway.context):
        if backend == "asyncio":
            asyncio.run(hypercorn.asyncio.serve(app, config, shutdown_trigger=drained))
        else:
            trio.run(lambda: hypercorn.trio.serve(app, config, shutdown_trigger=drained))


if __name__ == "__main__":
    main(*sys.argv[1:])
