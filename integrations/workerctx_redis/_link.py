"""One way to run the script through any of the driver's clients."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import msgspec
from coredis.exceptions import NoScriptError

from workerctx.errors import StoreBusy, StoreDenied, StoreFull
from workerctx_redis._failures import explain
from workerctx_redis._source import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerctx_redis._driver import Client
    from workerctx_redis._endpoint import Endpoint
    from workerctx_redis._operations import Operation
    from workerctx_redis._records import Groups


class Reply(msgspec.Struct, array_like=True, gc=False):
    """What the script answers.

    Attributes:
        now: Store time, in microseconds.
        results: One for each operation.
        events: What happened, if somebody listens.
        names: Groups that are referred to, by number.
        queues: In which something may have become claimable; True for any.
        finished: Whether jobs have finished.
        unsettled: Whether jobs still wait to be told of the end of others.
    """

    now: int
    results: list[Any]
    events: list[list[Any]]
    names: list[tuple[int, str]]
    queues: bool | list[str]
    finished: bool
    unsettled: bool


_SHAS: Final = {rooms: hashlib.sha1(text.encode()).hexdigest() for rooms, text in SCRIPTS.items()}  # noqa: S324 - Redis

_decode_reply = msgspec.msgpack.Decoder(Reply).decode
_encode = msgspec.msgpack.Encoder().encode


def channel(prefix: str, endpoint: Endpoint) -> str:
    """Return how the messages of a namespace are called; unlike keys they are not told apart by the database."""
    return f"{prefix}:{endpoint.db}"


@attrs.define(eq=False)
class Link:
    """The scripts of one namespace, called through a client.

    Attributes:
        client: The driver's.
        groups: What is known of the groups of the namespace.
        is_broken: Whether the client has to be thrown away, with all its connections.

    Threads: used on the loop of its client.
    """

    client: Client
    groups: Groups
    _endpoint: Endpoint
    _prefix: str
    _origin: str
    _note: Callable[[], object] = bool
    is_broken: bool = attrs.field(default=False, init=False)

    async def perform(
        self, operations: Sequence[Operation[Any]], *, listening: bool = False, limit: float = 0.0
    ) -> Reply:
        """Do operations in one atomic call.

        Args:
            operations: What to do, in this order.
            listening: Whether to tell what happened.
            limit: Seconds to wait for the answer, if that is longer than usual.

        Raises:
            QueueError: The call failed; whether it was done may be unknown.
        """
        grows = any(operation.grows for operation in operations)
        homes = {operation.home for operation in operations}
        rooms = next(rooms for rooms in SCRIPTS if homes <= rooms)
        encoded = [msgspec.Raw(operation.encoded) for operation in operations]
        seed = random.getrandbits(31)
        request = _encode((listening, self._origin, channel(self._prefix, self._endpoint), seed, grows, encoded))
        try:
            with anyio.fail_after(max(limit, self._endpoint.timeout)):
                answer = await self._run(rooms, request)
        except Exception as exc:
            error = explain(exc, self._endpoint)
            if not isinstance(error, (StoreBusy, StoreFull, StoreDenied)):
                # A connection to a server that hangs, or that may not be written to any more, is not trusted again.
                self.give_up()
            raise error from exc
        reply = _decode_reply(answer)
        self.groups.learn(reply.names)
        return reply

    async def _run(self, rooms: frozenset[str], request: bytes) -> Any:
        # Of two keys that are never there one is missing wherever a Cluster looks while it moves the slot: so the call
        # is refused meanwhile. With one key alone the node that is to have the slot would begin an empty namespace.
        sha, keys, args = _SHAS[rooms], [self._prefix, f"{self._prefix}:none"], [request]
        try:
            return await self.client.evalsha(sha, keys=keys, args=args)
        except NoScriptError:
            # It is the first call since the server was started, or its scripts were flushed; nothing was done.
            await self.client.script_load(SCRIPTS[rooms])
            return await self.client.evalsha(sha, keys=keys, args=args)

    def give_up(self) -> None:
        """Have the client thrown away; the driver's pool does not get over connections that were lost in use."""
        self.is_broken = True
        self._note()
