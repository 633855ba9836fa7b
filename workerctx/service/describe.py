"""What is stored of an exception."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

from workerctx.errors import HandlerFailed
from workerctx.queue import JobError

if TYPE_CHECKING:
    from types import TracebackType

_MAX_FRAMES: Final = 30
_MAX_TRACEBACK: Final = 8000
_MAX_MESSAGE: Final = 2000
_PACKAGES_ON_THE_WAY: Final = frozenset({"workerctx", "anyio", "asyncio", "concurrent", "trio", "outcome", "threading"})
"""What calls a handler."""


def describe(error: BaseException) -> JobError:
    """Turn an exception into what is stored of it: class, message, and a traceback cut to a sensible length."""
    if isinstance(error, HandlerFailed):  # described already, in the process where it happened
        return JobError(error.kind, error.message, error.traceback)
    name = type(error).__qualname__
    try:
        message = str(error) or name
        own = own_traceback(error)
        text = "".join(traceback.format_exception(type(error), error, own, limit=-_MAX_FRAMES))
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever an exception does when it is printed, its job has failed
        message = text = f"{name}, which cannot be printed ({type(exc).__name__})"
    if len(text) > _MAX_TRACEBACK:
        half = _MAX_TRACEBACK // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return JobError(_storable(name), _storable(message[:_MAX_MESSAGE]), _storable(text))


def own_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback of an exception without the frames that lead to the user's code, if any of it is there."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _PACKAGES_ON_THE_WAY:
        own = own.tb_next
    return own or error.__traceback__


def _storable(text: str) -> str:
    """Escape what is no Unicode, as file names can bring it into a message."""
    return text.encode(errors="backslashreplace").decode()
