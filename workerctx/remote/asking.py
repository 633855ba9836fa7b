"""Requests and replies: a call on its way to the gateway's store, and what came of it on its way back."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from workerctx.errors import ProtocolError, QueueError, StoreUnavailable
from workerctx.remote.calls import AnyCall
from workerctx.remote.faults import UNREADABLE, Fault
from workerctx.remote.frames import Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from workerctx.queue import Storage
    from workerctx.remote.calls import Call
    from workerctx.remote.frames import Request

R = TypeVar("R")

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[AnyCall]] = msgspec.msgpack.Decoder(AnyCall)


def encode_call(call: Call[Any]) -> msgspec.Raw:
    """Return a call as it stands in a `Request`."""
    return msgspec.Raw(_encoder.encode(call))


def decode_call(request: Request) -> AnyCall:
    """Return the call of a request.

    Raises:
        ProtocolError: It is unknown or cannot be understood; answer with `Reply.fault`.
    """
    try:
        return _decoder.decode(request.call)
    except UNREADABLE as exc:
        raise ProtocolError(f"the call of a request cannot be understood: {exc}") from exc


async def answer(
    request: Request,
    storage: Storage,
    *,
    steering: bool = False,
    turn: Callable[[Call[Any]], AbstractAsyncContextManager[object]] = nullcontext,
) -> Reply:
    """Perform the call of a request on a store, and say what came of it; for the gateway.

    Args:
        request: What was asked.
        storage: Of whom.
        steering: Whether the worker may also do what is the business of operators.
        turn: What to enter while it is performed, unless it only waits.
    """
    try:
        call = decode_call(request)
        _refuse_steering(call, allowed=steering)
        async with nullcontext() if call.waits else turn(call):
            return Reply(request.id, msgspec.Raw(_encoder.encode(await call.perform(storage, again=request.again))))
    except Exception as exc:  # noqa: BLE001 - it belongs to the handler that asked
        return Reply(request.id, fault=Fault.of(exc))


def _refuse_steering(call: Call[Any], *, allowed: bool) -> None:
    if call.steers and not allowed:
        raise QueueError(
            f"a remote worker may not call {type(call).__name__}: let its gateway allow steering, or ask an operator"
        )


def read_reply(call: Call[R], reply: Reply) -> R:
    """Return what a call returned, or raise what it raised.

    Raises:
        QueueError: What the store raised.
        StoreUnavailable: The reply cannot be understood.
    """
    if reply.fault is not None:
        raise reply.fault.exception()
    try:
        return cast("R", msgspec.msgpack.decode(reply.value, type=call.returns))
    except UNREADABLE as exc:
        raise StoreUnavailable(f"the gateway's answer to {type(call).__name__} cannot be understood: {exc}") from exc
