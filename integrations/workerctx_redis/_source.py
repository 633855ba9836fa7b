"""The script that runs inside the server, put together from its parts."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import msgspec

from workerctx.queue.model import DELIVERY_MARGIN, ERROR_HISTORY
from workerctx.queue.retry import DEFAULT_RETRY
from workerctx.queue.transitions import BY_USER

AT_ONCE: Final = 1000
"""With how many jobs one call deals when there is a crowd; the rest follows in the next calls."""

STAGED_FOR: Final = 300
"""Seconds after which the parts of a large batch vanish whose sender has vanished."""

_PARTS: Final = ("base", "ending", "enqueue", "claim", "finish", "steer", "look", "companions", "main")


def load_source() -> str:
    """Return the script."""
    settings = msgspec.json.encode(
        {
            "at_once": AT_ONCE,
            "staged_for": STAGED_FOR,
            "delivery_margin": DELIVERY_MARGIN,
            "error_history": ERROR_HISTORY,
            "retry": DEFAULT_RETRY,
            "by_user": BY_USER,
        }
    ).decode()
    folder = files("workerctx_redis") / "lua"
    parts = [(folder / f"{name}.lua").read_text("utf-8") for name in _PARTS]
    return f"local settings = cjson.decode([==[{settings}]==])\n" + "\n".join(parts)
