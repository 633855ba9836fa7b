"""What is stored of an exception."""

from __future__ import annotations

import traceback
from typing import Final

from workerctx.errors import HandlerFailed
from workerctx.queue import JobError

_MAX_FRAMES: Final = 30
_MAX_TRACEBACK: Final = 8000
_MAX_MESSAGE: Final = 2000


def describe(error: BaseException) -> JobError:
    """Turn an exception into what is stored of it: class, message, and a traceback cut to a sensible length."""
    if isinstance(error, HandlerFailed):  # described already, in the process where it happened
        return JobError(error.kind, error.message, error.traceback)
    name = type(error).__qualname__
    try:
        message = str(error) or name
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-_MAX_FRAMES))
    except Exception as exc:  # noqa: BLE001 - whatever an exception does when it is printed, its job has failed
        message = text = f"{name}, which cannot be printed ({type(exc).__name__})"
    if len(text) > _MAX_TRACEBACK:
        half = _MAX_TRACEBACK // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return JobError(_storable(name), _storable(message[:_MAX_MESSAGE]), _storable(text))


def _storable(text: str) -> str:
    """Escape what is no Unicode, as file names can bring it into a message."""
    return text.encode(errors="backslashreplace").decode()
