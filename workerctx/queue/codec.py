"""JSON in and out of a store: what is checked is what is stored, and people can read it."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, Final

import msgspec

from workerctx.errors import InvalidRequest

MAX_JSON_BYTES: Final = 1024 * 1024
"""Largest encoded payload, result or progress value, in bytes."""

MAX_JSON_DEPTH: Final = 200
"""How deep lists and objects may be inside each other: far from where it depends on the stack who can read them."""

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode_json(value: Any, what: str = "payload") -> bytes:
    """Encode any JSON value to the bytes that a store keeps.

    Args:
        value: None, booleans, numbers, strings, lists, mappings, dataclasses, attrs classes, msgspec Structs.
        what: How the value is called in an error message.

    Raises:
        InvalidRequest: The value is not JSON, holds NaN or infinity, is larger than 1 MiB when encoded, or has more
            than 200 lists and objects inside each other.
    """
    try:
        raw = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as exc:
        raise InvalidRequest(
            f"cannot store this {what}: {exc}; pass JSON values (None, bool, int, float, str, list, dict)"
        ) from exc
    if len(raw) > MAX_JSON_BYTES:
        raise InvalidRequest(
            f"the {what} is {len(raw)} bytes of JSON and the limit is {MAX_JSON_BYTES}: "
            "store the data elsewhere and pass a reference to it"
        )
    check_depth(raw, what)
    # NaN and infinity are encoded as null, so only a value that shows a null can hide one.
    if b"null" in raw and _has_non_finite(msgspec.to_builtins(value)):
        raise InvalidRequest(f"the {what} holds NaN or infinity, which JSON cannot say: use None or a string")
    return raw


def check_depth(raw: bytes, what: str) -> None:
    """Refuse JSON of which a store might not be able to read back what it has written.

    Args:
        raw: The JSON.
        what: How the value is called in an error message.

    Raises:
        InvalidRequest: More than `MAX_JSON_DEPTH` lists and objects are inside each other.
    """
    if raw.count(b"[") + raw.count(b"{") <= MAX_JSON_DEPTH:
        return
    left = _STRINGS.sub(b"", raw).translate(None, _ALL_BUT_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, left)), default=0) > MAX_JSON_DEPTH:
        raise InvalidRequest(
            f"the {what} has more than {MAX_JSON_DEPTH} lists and objects inside each other: make it flatter"
        )


def decode_json(raw: bytes | str) -> Any:
    """Decode bytes that `encode_json` made."""
    return _decode(raw)


def _has_non_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return True
    return False
