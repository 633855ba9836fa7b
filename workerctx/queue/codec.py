"""JSON in and out of a store: what is checked is what is stored, and people can read it."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from workerctx.errors import InvalidRequest

MAX_JSON_BYTES: Final = 1024 * 1024
"""Largest encoded payload, result or progress value, in bytes."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode_json(value: Any, what: str = "payload") -> bytes:
    """Encode any JSON value to the bytes that a store keeps.

    Args:
        value: None, booleans, numbers, strings, lists, mappings, dataclasses, attrs classes, msgspec Structs.
        what: How the value is called in an error message.

    Raises:
        InvalidRequest: The value is not JSON, holds NaN or infinity, or is larger than 1 MiB when encoded.
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
    # NaN and infinity are encoded as null, so only a value that shows a null can hide one.
    if b"null" in raw and _has_non_finite(msgspec.to_builtins(value)):
        raise InvalidRequest(f"the {what} holds NaN or infinity, which JSON cannot say: use None or a string")
    return raw


def decode_json(raw: bytes | str) -> Any:
    """Decode bytes that `encode_json` made."""
    return _decode(raw)


def _has_non_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return True
    return False
