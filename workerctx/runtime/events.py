"""What a worker loop tells listeners besides the lifecycle's own events."""

from __future__ import annotations

from attrs import frozen

from workerctx.lifecycle import Event


@frozen(eq=False, kw_only=True)
class LoopBlocked(Event):
    """The event loop was blocked for too long and runs again.

    Attributes:
        seconds: how long it did not answer.
        stack: where it was stuck when that was noticed.
    """

    seconds: float
    stack: str
