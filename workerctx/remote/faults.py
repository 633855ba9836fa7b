"""What a store raised, on its way to the handler that asked."""

from __future__ import annotations

from typing import Final

import msgspec

from workerctx import errors
from workerctx.errors import QueueError

UNREADABLE: Final = (msgspec.MsgspecError, RecursionError, ValueError, OverflowError)
"""What decoding may raise."""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception: its class by name, its message, and what else it says as texts.

    Attributes:
        kind: Name of the class, for one that both sides know.
        message: Its message.
        says: Its other attributes.
    """

    kind: str
    message: str
    says: dict[str, str] = {}

    @classmethod
    def of(cls, error: Exception) -> Fault:
        """Describe an exception; one that is not of a store's contract is a failure of the store."""
        name = type(error).__name__
        if isinstance(error, TimeoutError):
            return cls("TimeoutError", str(error))
        if name not in _KNOWN:
            return cls("StoreUnavailable", f"the gateway's store failed with {name}: {error}")
        return cls(name, str(error), {key: text for key, text in vars(error).items() if isinstance(text, str)})

    def exception(self) -> Exception:
        """Return the exception, as the store would have raised it here."""
        if self.kind == "TimeoutError":
            return TimeoutError(self.message)
        kind = _KNOWN.get(self.kind, QueueError)
        error = kind.__new__(kind, self.message)
        error.args = (self.message,)
        vars(error).update(self.says)
        return error


_KNOWN: Final[dict[str, type[QueueError]]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, QueueError)
}
