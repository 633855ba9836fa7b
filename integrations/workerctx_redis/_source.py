"""The script that runs inside the server, put together from its parts."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from workerctx.queue.model import DELIVERY_MARGIN, ERROR_HISTORY
from workerctx.queue.retry import DEFAULT_RETRY, LONGEST_WAIT
from workerctx.queue.transitions import BY_USER

AT_ONCE: Final = 1000
"""With how many jobs one call deals when there is a crowd; the rest follows in the next calls."""

STAGED_FOR: Final = 300
"""Seconds after which the parts of a large batch vanish whose sender has vanished."""

_ROOMS: Final = ("enqueue", "claim", "finish", "steer", "look", "companions", "moving")

_TOGETHER: Final = (("claim", "finish"), ("enqueue",), ("look",), _ROOMS)
"""Rooms that calls need together, the frequent ones first: the fewer, the cheaper is each call."""

_SETTINGS: Final = f"""local settings = {{
  at_once = {AT_ONCE}, staged_for = {STAGED_FOR}, delivery_margin = {DELIVERY_MARGIN},
  longest_wait = {LONGEST_WAIT * 1_000_000:.0f}, error_history = {ERROR_HISTORY}, by_user = '{BY_USER}', retry = {{
    backoff = 'exponential', base = {DEFAULT_RETRY.base}, cap = {DEFAULT_RETRY.cap},
    jitter = {str(DEFAULT_RETRY.jitter).lower()},
  }},
}}
"""


def _read(name: str) -> str:
    return (files("workerctx_redis") / "lua" / f"{name}.lua").read_text("utf-8")


def _load() -> tuple[dict[frozenset[str], str], dict[str, str]]:
    texts = {name: _read(name) for name in _ROOMS}
    rooms = {name: f"rooms.{name} = function()\n{text}end\n" for name, text in texts.items()}
    base, main = _SETTINGS + _read("base"), _read("main")
    jobs = _read("jobs") + _read("ending")
    # Each call makes all functions anew. Making one takes a search for every variable that it uses among those of the
    # function around it; those from farther out are at hand. Two floors take a third less time than one.
    scripts = {
        frozenset(names): f"{base}return (function()\n{jobs}{''.join(rooms[name] for name in names)}{main}end)()\n"
        for names in _TOGETHER
    }
    homes = {
        action: name
        for name, text in texts.items()
        for action in re.findall(r"^(?:function )?actions\.(\w+)", text, re.MULTILINE)
    }
    return scripts, homes


SCRIPTS, HOMES = _load()
"""The script with some or all of its rooms, and in which of them each action is."""
